"""Any number of labels a text, or a pair of texts: each of them is decided for itself."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.cells import Cells, as_list, is_missing, plain
from hpo.errors import DataError
from hpo.scores import Score, Scores, require_outputs
from hpo.tasks.base import Decisions, Outputs, Rows, Task
from hpo.tasks.counted_scores import counted_scores
from hpo.tasks.labels import (
    Label,
    LabelColumn,
    Labels,
    LabelsBy,
    class_ids,
    class_names,
    found_by,
    numbers_of,
    rarest,
    refuse_other_spellings,
)

# What a cell of a label's own column says.
HAS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class LabelSets(Labels):
    """A set of classes for each row: a list of names or integers, names with commas between, or a column for each."""

    def read(self, cells: Cells) -> list[list[Label]]:
        values = [plain(cell) for cell in cells.values]
        if cells.names:
            return self._of_columns(cells)
        cells.refuse([is_missing(value) for value in values], "have labels, or an empty list", "no value")
        found = [split_names(value) if isinstance(value, str) else as_list(value) for value in values]
        wrong = [row is None or not all(type(each) in (str, int) for each in row) for row in found]
        cells.refuse(wrong, "have a list of names or integers", "another type")
        rows: list[list[Any]] = [row or [] for row in found]
        repeated = [len(set(row)) < len(row) for row in rows]
        rule = "name each of its labels once (of a 0 or 1 for every class, make a column each and list them)"
        cells.refuse(repeated, rule, "one twice")
        refuse_other_spellings(cells, rows)
        numbers = numbers_of([str(each) for each in chain.from_iterable(rows)])
        flat: Iterator[Label] = iter(map(str, chain.from_iterable(rows)) if numbers is None else numbers)
        return [list(islice(flat, len(row))) for row in rows]

    def _of_columns(self, cells: Cells) -> list[list[Label]]:
        rows: list[list[Label]] = [[] for _ in cells.values]
        for at, name in enumerate(cells.names):
            said = [str(plain(row[at])).casefold() for row in cells.values]  # type: ignore[index]  # a tuple each
            own = Cells([row[at] for row in cells.values], cells.numbers, name, cells.origin)  # type: ignore[index]
            own.refuse([value not in HAS for value in said], "have 0 or 1, or false or true", "another value")
            for row, value in zip(rows, said, strict=True):
                if HAS[value]:
                    row.append(name)
        return rows

    def classes(self, train: LabelColumn, declared: tuple[str, ...] | None) -> tuple[str, ...]:
        return class_names(train.names, chain.from_iterable(train.labels), declared)

    def encode(
        self, split: str, column: LabelColumn, classes: tuple[str, ...], declared: tuple[str, ...] | None
    ) -> NDArray[np.float32]:
        """[rows, classes], 1 where a row has the label."""
        flat: list[Label] = list(chain.from_iterable(column.labels))
        if not flat:
            raise DataError(
                f"some row of {split} must have a label, but got none in {column.origin}. Is that split unlabelled? "
                "Name a labelled one, or leave it out to have it held out of train."
            )
        encoded = np.zeros((len(column.labels), len(classes)), dtype=np.float32)
        rows = np.repeat(np.arange(len(column.labels)), [len(row) for row in column.labels])
        encoded[rows, class_ids(split, flat, column, classes, declared)] = 1.0
        return encoded

    def unknown(self, inputs: Sequence[Any], num_classes: int) -> NDArray[np.float32]:
        return np.full((len(inputs), num_classes), np.nan, dtype=np.float32)

    def labels_by(self, columns: Mapping[str, LabelColumn], declared: tuple[str, ...] | None) -> LabelsBy:
        firsts = {split: next(chain.from_iterable(column.labels)) for split, column in columns.items()}
        return found_by(columns, firsts, declared)

    def strata(self, labels: NDArray[np.float32], num_classes: int) -> NDArray[np.int64]:
        return rarest(labels > 0)

    def counts(self, labels: NDArray[np.float32], num_classes: int) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = (labels > 0).sum(axis=0)
        return counts

    def text(self, label: Any, classes: Sequence[str]) -> str:
        return ", ".join(name for name, has in zip(classes, label, strict=True) if has) or "no label"

    def plain(self, labels: NDArray[np.float32]) -> list[Any]:
        found: list[Any] = labels.astype(int).tolist()
        return found


def split_names(cell: str) -> list[object]:
    """The labels of a cell that has commas between them."""
    return [name.strip() for name in cell.split(",") if name.strip()]


def multi_label_metrics(logits: Outputs, labels: NDArray[np.float32], classes: Sequence[str] = ()) -> dict[str, float]:
    """Scores of `logits` [n, classes] against `labels` [n, classes], by scikit-learn; a label is there from 0 on.

    `accuracy` is of rows whose labels are all right; micro is over all labels of all rows, macro means every class
    counts the same.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support  # a study file is read without it

    predictions, truth = logits > 0, labels > 0
    with np.errstate(invalid="ignore"):  # infinite logits: the loss is NaN, and the caller ends the trial
        metrics = {
            "eval/loss": float(_losses(logits, labels).mean()),
            "eval/accuracy": float(accuracy_score(truth, predictions)),
        }
    for average in ("micro", "macro"):
        found = precision_recall_fscore_support(truth, predictions, average=average, zero_division=0.0)
        names = (f"eval/{name}_{average}" for name in ("precision", "recall", "f1"))
        metrics |= {name: float(value) for name, value in zip(names, found, strict=False)}
    return metrics


def _losses(logits: NDArray[Any], labels: NDArray[np.float32]) -> NDArray[np.float64]:
    """The binary cross-entropy of each decision."""
    wide = logits.astype(np.float64)
    return np.logaddexp(0.0, wide) - wide * labels


def multi_label_scores(logits: NDArray[np.float32], labels: NDArray[np.float32], classes: Sequence[str]) -> Scores:
    """Of logits [seeds, rows, classes] against labels [rows, classes]: those of `multi_label_metrics`, `f1/<class>`."""
    require_outputs(logits, len(labels), labels.shape)
    predictions, truth = logits > 0, labels > 0
    yield Score("accuracy", (predictions == truth).all(axis=2).astype(np.float64), rows=len(labels))
    yield Score("loss", _losses(logits, labels).mean(axis=2), (0.0, np.inf))
    counts = ((predictions & truth), predictions, truth)
    hits, predicted, true = (each.astype(np.int64) for each in counts)
    yield from counted_scores(hits, predicted, true, classes, "_micro")


def _decisions(
    rows: Rows, labels: NDArray[np.float32], classes: Sequence[str], outputs: tuple[Outputs, ...]
) -> Decisions:
    """Whether a row has a label, for each of both."""
    texts = [f"{name}? {text}" for text in rows.texts for name in classes]

    def both(logits: Outputs) -> Outputs:
        flat = logits.reshape(len(logits), -1)
        return np.stack([np.zeros_like(flat), flat], axis=2)

    decided = np.repeat(np.arange(len(labels)), len(classes))
    right = labels.astype(np.int64).ravel()
    return Decisions(decided, texts, right, ("no", "yes"), tuple(map(both, outputs)), "label")


MULTI_LABEL_CLASSIFICATION = Task(
    auto_model="AutoModelForSequenceClassification",
    pipeline="text-classification",
    serves="labels",
    problem_type="multi_label_classification",
    labels=LabelSets(),
    loss="binary_cross_entropy",
    metrics={
        "eval/f1_micro": "maximize",
        "eval/f1_macro": "maximize",
        "eval/accuracy": "maximize",
        "eval/precision_micro": "maximize",
        "eval/precision_macro": "maximize",
        "eval/recall_micro": "maximize",
        "eval/recall_macro": "maximize",
        "eval/loss": "minimize",
    },
    shown=("f1_micro", "f1_macro"),
    evaluate=multi_label_metrics,
    scores=multi_label_scores,
    decisions=_decisions,
)
