"""A number for a text, or for a pair of texts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.cells import Cells, plain
from hpo.scores import Reals, Score, Scores, pseudo_values, ratio, require_outputs
from hpo.tasks.base import Direction, Outputs, Task
from hpo.tasks.labels import LabelColumn, Labels, LabelsBy, refuse_missing

# Rows are held out with the same shares of each fifth of the numbers, in parts of this many rows or more.
STRATA, FEWEST = 5, 10
# Of float32.
LARGEST = float(np.finfo(np.float32).max)
# Rows that are left out at once where ranks are computed anew: a block of [rows left out, rows].
BLOCK = 512


class Numbers(Labels):
    """A number for each row."""

    numeric = True

    def read(self, cells: Cells) -> list[float]:
        values = [plain(cell) for cell in cells.values]
        refuse_missing(cells, values)
        numbers = [_number(value) for value in values]
        cells.refuse([number is None for number in numbers], "be a number", "something else")
        return [number for number in numbers if number is not None]

    def classes(self, train: LabelColumn, declared: tuple[str, ...] | None) -> tuple[str, ...]:
        """The head has one output, which is called as the column."""
        return (train.column,)

    def encode(
        self, split: str, column: LabelColumn, classes: tuple[str, ...], declared: tuple[str, ...] | None
    ) -> NDArray[np.float32]:
        """[rows]"""
        return np.array(column.labels, dtype=np.float32)

    def unknown(self, inputs: Sequence[Any], num_classes: int) -> NDArray[np.float32]:
        return np.full(len(inputs), np.nan, dtype=np.float32)

    def labels_by(self, columns: Mapping[str, LabelColumn], declared: tuple[str, ...] | None) -> LabelsBy:
        return "sorted"

    def strata(self, labels: NDArray[np.float32], num_classes: int) -> NDArray[np.int64]:
        parts = min(STRATA, max(1, len(labels) // FEWEST))
        places = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
        return places * parts // max(1, len(labels))

    def counts(self, labels: NDArray[np.float32], num_classes: int) -> NDArray[np.int64]:
        return np.zeros(0, dtype=np.int64)

    def text(self, label: Any, classes: Sequence[str]) -> str:
        return f"{float(label):.4g}"


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and ("_" in value or not value.isascii()):  # Python reads `1_000`, and other digits
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= LARGEST else None


def regression_metrics(outputs: Outputs, labels: NDArray[np.float32], classes: Sequence[str] = ()) -> dict[str, float]:
    """Scores of `outputs` [n, 1] against `labels` [n], by scipy and scikit-learn.

    `loss` is the mean squared error. A correlation with outputs that are all equal is 0.
    """
    from scipy.stats import pearsonr, spearmanr  # a study file is read without these
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    found, truth = outputs[:, 0].astype(np.float64), labels.astype(np.float64)
    if not np.isfinite(found).all():  # the caller ends the trial
        return dict.fromkeys(METRICS, math.nan)
    loss = float(mean_squared_error(truth, found))
    varies = found.std() > 0 and truth.std() > 0
    return {
        "eval/loss": loss,
        "eval/rmse": math.sqrt(loss),
        "eval/mae": float(mean_absolute_error(truth, found)),
        "eval/r2": float(r2_score(truth, found)) if truth.std() > 0 else 0.0,
        "eval/pearson": float(pearsonr(truth, found).statistic) if varies else 0.0,
        "eval/spearman": float(spearmanr(truth, found).statistic) if varies else 0.0,
    }


def regression_scores(outputs: NDArray[np.float32], labels: NDArray[np.float32], classes: Sequence[str]) -> Scores:
    """Of outputs [seeds, rows, 1] against labels [rows]: those of `regression_metrics`."""
    require_outputs(outputs, len(labels), (len(labels), 1))
    found, truth = outputs[:, :, 0].astype(np.float64), labels.astype(np.float64)
    n, errors = len(truth), found - truth
    squares, total = errors**2, (errors**2).sum(axis=1)
    left = total[:, None] - squares
    yield Score("loss", squares, (0.0, np.inf))
    yield Score("rmse", pseudo_values(np.sqrt(total / n), np.sqrt(left / (n - 1))), (0.0, np.inf))
    yield Score("mae", np.abs(errors), (0.0, np.inf))
    centred = truth - truth.mean()
    spread = centred @ centred
    spread_left = spread - centred**2 * n / (n - 1)
    r2 = pseudo_values(_explained(total, spread), _explained(left, spread_left[None, :]))
    yield Score("r2", r2, (-np.inf, 1.0))
    yield Score("pearson", np.stack([_pearson(each, truth) for each in found]), (-1.0, 1.0))
    yield Score("spearman", np.stack([_spearman(each, truth) for each in found]), (-1.0, 1.0))


def _explained(unexplained: Reals, spread: Any) -> Reals:
    share = np.broadcast_to(spread, unexplained.shape)
    return np.where(share > 0, 1 - ratio(unexplained, share), 0.0)


def _pearson(found: Reals, truth: Reals) -> Reals:
    """The contributions [rows] to a correlation. Without row i a sum of products of centred values loses
    n / (n - 1) times its own."""
    x, y = found - found.mean(), truth - truth.mean()
    times = len(x) / (len(x) - 1)
    products = [(a @ b, a @ b - times * a * b) for a, b in ((x, y), (x, x), (y, y))]
    value = _correlation(*(np.array([all_rows]) for all_rows, _ in products))
    contributions: Reals = pseudo_values(value, _correlation(*(without for _, without in products))[None, :])[0]
    return contributions


def _spearman(found: Reals, truth: Reals) -> Reals:
    """The contributions [rows] to a rank correlation. Without row i the ranks above its own fall by one, and those of
    ties by a half."""
    from scipy.stats import rankdata

    n, ranks = len(found), [rankdata(values) for values in (found, truth)]
    centre = n / 2  # of the ranks of n - 1 rows
    without = []
    for start in range(0, n, BLOCK):
        block = np.arange(start, min(start + BLOCK, n))
        moved = []
        for of in ranks:
            rank = of[None, :] - (of[None, :] > of[block, None]) - 0.5 * (of[None, :] == of[block, None]) - centre
            rank[np.arange(len(block)), block] = 0.0  # the row that is left out
            moved.append(rank)
        x, y = moved
        without.append(_correlation((x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1)))
    x, y = (of - (n + 1) / 2 for of in ranks)
    value = _correlation(*(np.array([a @ b]) for a, b in ((x, y), (x, x), (y, y))))
    contributions: Reals = pseudo_values(value, np.concatenate(without)[None, :])[0]
    return contributions


def _correlation(products: Reals, squares: Reals, other_squares: Reals) -> Reals:
    return ratio(products, np.sqrt(np.maximum(squares, 0.0) * np.maximum(other_squares, 0.0)))


METRICS: dict[str, Direction] = {
    "eval/pearson": "maximize",
    "eval/spearman": "maximize",
    "eval/rmse": "minimize",
    "eval/mae": "minimize",
    "eval/r2": "maximize",
    "eval/loss": "minimize",
}
REGRESSION = Task(
    auto_model="AutoModelForSequenceClassification",
    pipeline="text-classification",
    serves="label",
    problem_type="regression",
    labels=Numbers(),
    loss="mean_squared_error",
    metrics=METRICS,
    shown=("pearson", "spearman"),
    evaluate=regression_metrics,
    scores=regression_scores,
    decisions=None,
)
