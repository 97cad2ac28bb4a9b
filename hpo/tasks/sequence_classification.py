"""One label a text, or a pair of texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.cells import Cells, plain
from hpo.tasks.base import Decisions, Outputs, Rows, Task
from hpo.tasks.class_scores import class_scores
from hpo.tasks.labels import (
    UNKNOWN,
    Label,
    LabelColumn,
    Labels,
    LabelsBy,
    class_ids,
    class_names,
    found_by,
    numbers_of,
    refuse_missing,
    refuse_other_spellings,
)


class ClassLabels(Labels):
    """A class for each row: its name, or an integer."""

    exclusive = True

    def read(self, cells: Cells) -> list[Label]:
        """Either all integers, or all names."""
        values = [plain(cell) for cell in cells.values]
        refuse_missing(cells, values)
        cells.refuse([isinstance(value, float) for value in values], "be a name or an integer", "a fraction")
        compound = [not isinstance(value, str | int) for value in values]
        cells.refuse(compound, "be a name or an integer", "a list or another type")
        names = [str(value) for value in values]
        refuse_other_spellings(cells, [[name] for name in names])
        numbers: Sequence[Label] | None = numbers_of(names)
        return list(names if numbers is None else numbers)

    def classes(self, train: LabelColumn, declared: tuple[str, ...] | None) -> tuple[str, ...]:
        return class_names(train.names, train.labels, declared)

    def encode(
        self, split: str, column: LabelColumn, classes: tuple[str, ...], declared: tuple[str, ...] | None
    ) -> NDArray[np.int64]:
        """[rows]"""
        return np.array(class_ids(split, column.labels, column, classes, declared), dtype=np.int64)

    def unknown(self, inputs: Sequence[Any], num_classes: int) -> NDArray[np.int64]:
        return np.full(len(inputs), UNKNOWN, dtype=np.int64)

    def labels_by(self, columns: Mapping[str, LabelColumn], declared: tuple[str, ...] | None) -> LabelsBy:
        return found_by(columns, {split: column.labels[0] for split, column in columns.items()}, declared)

    def strata(self, labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
        return labels

    def counts(self, labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
        return np.bincount(labels, minlength=num_classes)

    def text(self, label: Any, classes: Sequence[str]) -> str:
        return classes[int(label)]


def classification_metrics(logits: Outputs, labels: NDArray[np.int64], classes: Sequence[str] = ()) -> dict[str, float]:
    """Scores of `logits` [n, classes] against `labels` [n], by scikit-learn.

    Macro means every class counts the same, absent ones as 0. With two classes `f1`, `precision` and `recall` are
    those of the positive class, the second one.
    """
    from scipy.special import logsumexp  # a study file is read without these
    from sklearn.metrics import accuracy_score, matthews_corrcoef, precision_recall_fscore_support

    num_classes = logits.shape[1]
    predictions = logits.argmax(axis=1)
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite logits: the loss is NaN, and the caller ends the trial
        loss = np.mean(logsumexp(wide, axis=1) - wide[np.arange(len(labels)), labels])
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, labels=np.arange(num_classes), average=None, zero_division=0.0
    )
    metrics = {
        "eval/loss": float(loss),
        "eval/accuracy": float(accuracy_score(labels, predictions)),
        "eval/f1_macro": float(f1.mean()),
        "eval/precision_macro": float(precision.mean()),
        "eval/recall_macro": float(recall.mean()),
        # Of a single class scikit-learn warns, and returns 0 as well.
        "eval/mcc": float(matthews_corrcoef(labels, predictions)) if len(np.union1d(labels, predictions)) > 1 else 0.0,
    }
    if num_classes == 2:
        metrics |= {
            "eval/f1": float(f1[1]),
            "eval/precision": float(precision[1]),
            "eval/recall": float(recall[1]),
        }
    return metrics


def _needs_two_classes(metric: str, classes: Sequence[str]) -> str | None:
    if metric not in ("eval/f1", "eval/precision", "eval/recall") or len(classes) == 2:
        return None
    return f"metric {metric} is of the positive one of two classes, but got {len(classes)} classes. Use {metric}_macro."


def _decisions(
    rows: Rows, labels: NDArray[np.int64], classes: Sequence[str], outputs: tuple[Outputs, ...]
) -> Decisions:
    return Decisions(np.arange(len(labels)), rows.texts, labels, classes, outputs)


SEQUENCE_CLASSIFICATION = Task(
    auto_model="AutoModelForSequenceClassification",
    pipeline="text-classification",
    serves="label",
    problem_type="single_label_classification",
    labels=ClassLabels(),
    loss="cross_entropy",
    metrics={
        "eval/accuracy": "maximize",
        "eval/f1_macro": "maximize",
        "eval/f1": "maximize",
        "eval/precision_macro": "maximize",
        "eval/precision": "maximize",
        "eval/recall_macro": "maximize",
        "eval/recall": "maximize",
        "eval/mcc": "maximize",
        "eval/loss": "minimize",
    },
    shown=("accuracy", "f1_macro"),
    evaluate=classification_metrics,
    scores=class_scores,
    decisions=_decisions,
    needs=_needs_two_classes,
)
