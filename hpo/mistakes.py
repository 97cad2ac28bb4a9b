"""What winner and default get wrong on the validation split, from what they predict over all their seeds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from hpo.results import Disagreement, Errors, Group, Mistake
from hpo.tasks.base import Decisions

# Enough to see a pattern, few enough to read.
MOST_SHOWN = 20
# Groups of about as many texts by their length.
LENGTH_GROUPS = 5
# Characters of a text that are kept: a report is no copy of the data.
MOST_CHARACTERS = 400


def find_errors(decided: Decisions, row_texts: Sequence[str]) -> Errors:
    """Holds the decisions of winner and default against what is right; without a default, the winner's.

    Args:
        row_texts: whose length in words groups are made by.
    """
    labels, classes = decided.labels, decided.classes
    winner, alone = decided.outputs[0], len(decided.outputs) == 1
    default = decided.outputs[-1]
    lengths = np.array([len(text.split()) for text in row_texts])[decided.rows]
    probabilities, others = softmax(winner, axis=2).mean(axis=0), softmax(default, axis=2).mean(axis=0)
    right, others_right = (logits.argmax(axis=2) == labels for logits in (winner, default))
    own, other = right.mean(axis=0), None if alone else others_right.mean(axis=0)
    by_mean, others_by_mean = probabilities.argmax(axis=1) == labels, others.argmax(axis=1) == labels
    return Errors(
        labels=list(classes),
        confusion=mean_confusion(labels, winner),
        mistakes=_mistakes(decided, probabilities, (~right).sum(axis=0)),
        by_class=[_group(classes[number], labels == number, own, other) for number in np.unique(labels).tolist()],
        by_length=_by_length(lengths, own, other),
        disagreements=_disagreements(decided, probabilities, others, by_mean != others_by_mean),
        unit=decided.unit,
        winner_only=int((by_mean & ~others_by_mean).sum()),
        default_only=int((~by_mean & others_by_mean).sum()),
    )


def mean_confusion(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> list[list[float]]:
    """[label][prediction] Rows, as a mean over the seeds of logits [seeds, rows, classes]."""
    ids = np.arange(logits.shape[2])
    each = [confusion_matrix(labels, predicted, labels=ids) for predicted in logits.argmax(axis=2)]
    mean: list[list[float]] = np.mean(each, axis=0).tolist()
    return mean


def _mistakes(decided: Decisions, probabilities: NDArray[np.float32], wrong: NDArray[np.int64]) -> list[Mistake]:
    texts, labels, classes = decided.texts, decided.labels, decided.classes
    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    rows = np.flatnonzero(predicted != labels)
    rows = rows[np.argsort(-sure[rows], kind="stable")][:MOST_SHOWN]
    return [
        Mistake(
            row=int(decided.rows[row]),
            text=_cut(texts[row]),
            label=classes[int(labels[row])],
            predicted=classes[int(predicted[row])],
            probability=float(sure[row]),
            wrong=int(wrong[row]),
        )
        for row in rows.tolist()
    ]


def _disagreements(
    decided: Decisions, winner: NDArray[np.float32], default: NDArray[np.float32], differ: NDArray[np.bool_]
) -> list[Disagreement]:
    texts, labels, classes = decided.texts, decided.labels, decided.classes
    rows = np.arange(len(labels))
    own, other = winner[rows, labels], default[rows, labels]
    found = np.flatnonzero(differ)
    found = found[np.argsort(-np.abs(own - other)[found], kind="stable")][:MOST_SHOWN]
    return [
        Disagreement(
            row=int(decided.rows[row]),
            text=_cut(texts[row]),
            label=classes[int(labels[row])],
            winner=float(own[row]),
            default=float(other[row]),
        )
        for row in found.tolist()
    ]


def _by_length(lengths: NDArray[np.int64], own: NDArray[np.float64], other: NDArray[np.float64] | None) -> list[Group]:
    """Groups of about as many rows, cut between two lengths."""
    last = -(-np.arange(1, LENGTH_GROUPS) * len(lengths) // LENGTH_GROUPS) - 1  # of each group but the last one
    groups = np.searchsorted(np.unique(np.sort(lengths)[last]), lengths)
    made = []
    for group in np.unique(groups):
        chosen = groups == group
        low, high = int(lengths[chosen].min()), int(lengths[chosen].max())
        made.append(_group(f"{low}" if low == high else f"{low} to {high}", chosen, own, other))
    return made


def _group(name: str, chosen: NDArray[np.bool_], own: NDArray[np.float64], other: NDArray[np.float64] | None) -> Group:
    default = None if other is None else float(other[chosen].mean())
    return Group(name=name, rows=int(chosen.sum()), winner=float(own[chosen].mean()), default=default)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
