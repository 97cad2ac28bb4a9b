"""What a task must know of its labels: how the cells of a source become arrays, and what a person reads of them.

Classes are found by name or by number in the same way for every task that has some.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hpo.cells import Cells, is_blank
from hpo.errors import DataError

Label = str | int
# The id of a class that nobody knows, as torch's losses pass over it. Of numbers, and of several labels, it is NaN.
UNKNOWN = -100
LabelsBy = Literal["position", "name", "source", "sorted"]
"""The declared names by the position of integers, the declared names by name, the Hub data set's own names, or the
distinct values in sorted order."""


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one source, as `Labels.read` found them."""

    labels: Sequence[Any]
    names: tuple[str, ...] | None
    """That a Hub data set gives to its integers."""
    origin: str
    """The source in words, for messages."""
    column: str = "label"


class Labels(Protocol):
    """The labels of a task. `labels` are arrays of one entry a row, as `encode` makes them."""

    numeric: bool = False
    """They are numbers, and have no classes."""
    exclusive: bool = False
    """Every row has exactly one class."""

    def read(self, cells: Cells) -> list[Any]:
        """The labels of a source. Raises `DataError` for a cell that is none."""
        ...

    def classes(self, train: LabelColumn, declared: tuple[str, ...] | None) -> tuple[str, ...]:
        """The names of the classes in the order of their ids."""
        ...

    def encode(
        self, split: str, column: LabelColumn, classes: tuple[str, ...], declared: tuple[str, ...] | None
    ) -> NDArray[Any]:
        """The labels of one split as an array. Raises `DataError` for a class that is none of `classes`."""
        ...

    def unknown(self, inputs: Sequence[Any], num_classes: int) -> NDArray[Any]:
        """The labels of inputs of which nobody knows any, as `encode` would have them: losses leave them out."""
        ...

    def labels_by(self, columns: Mapping[str, LabelColumn], declared: tuple[str, ...] | None) -> LabelsBy:
        """How the labels of the splits, of which `train` is one, found their classes."""
        ...

    def strata(self, labels: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
        """What a random part of the rows has to have the same shares of."""
        ...

    def counts(self, labels: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
        """How many rows have each class; of numbers nothing."""
        ...

    def kinds(self, classes: Sequence[str]) -> list[str]:
        """By class, what train must have some row of if it stands in another split: the class, or its like."""
        return list(classes)

    def text(self, label: Any, classes: Sequence[str]) -> str:
        """One row's label as a person reads it."""
        ...

    def plain(self, labels: NDArray[Any]) -> list[Any]:
        """As JSON can hold them."""
        found: list[Any] = labels.tolist()
        return found


def refuse_missing(cells: Cells, values: Sequence[object]) -> None:
    """Raises `DataError` where a row has no label."""
    cells.refuse([is_blank(value) for value in values], "have a label", "no value")


def numbers_of(names: Sequence[str]) -> list[int] | None:
    """All of them as integers, if they are: a csv file has no types, so that a column of `0` and `1`, or of `0.0` and
    `1.0`, holds integers. Not `01`, which may be another name than `1`."""
    for suffix in ("", ".0"):
        if all(re.fullmatch(rf"(?:0|-?[1-9][0-9]*){re.escape(suffix)}", name) for name in names):
            return [int(name.removesuffix(suffix)) for name in names]
    return None


def refuse_other_spellings(cells: Cells, rows: Sequence[Sequence[object]]) -> None:
    """Raises `DataError` where white space around a name would make another class of it."""
    distinct = {name for row in rows for name in row if isinstance(name, str)}
    if any(name != name.strip() and name.strip() in distinct for name in distinct):
        wrong = [any(isinstance(name, str) and name != name.strip() for name in row) for row in rows]
        cells.refuse(wrong, "be spelt alike", "white space around")


# Classes


def class_names(
    names: tuple[str, ...] | None, found: Iterable[Label], declared: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The declared names, else the data set's own, else the distinct values in sorted order."""
    if given := declared or names:
        if len(set(given)) < len(given):
            raise DataError(f"class names must differ, but got {quoted(given)}. Rename one in data.labels.")
        return tuple(given)
    distinct = set(found)
    numbers = [label for label in distinct if isinstance(label, int)]
    return tuple(str(number) for number in sorted(numbers)) or tuple(sorted(map(str, distinct)))


def class_ids(
    split: str,
    found: Sequence[Label],
    column: LabelColumn,
    classes: Sequence[str],
    declared: tuple[str, ...] | None,
    unlabelled: str = "-1",
) -> list[int]:
    """The ids of labels that are names or numbers. Raises `DataError` with those that are none of `classes`."""
    ids = {label: number for number, label in enumerate(classes)}
    integers = integer_names(column.names, declared)
    names = [_named(label, integers) for label in found]
    if unknown := Counter(name for name in names if name not in ids):
        given = ", ".join(f"{label!r} ({count:,} rows)" for label, count in sorted(unknown.items())[:5])
        rule = "one of data.labels" if declared else "a label of train"
        way_out = (
            "Is that split unlabelled? Name a labelled one, or leave it out to have it held out of train."
            if unlabelled in unknown
            else f"Correct the labels, or {'data.labels' if declared else 'add such rows to train'}."
        )
        raise DataError(
            f"every label of {split} must be {rule} ({quoted(classes)}), but got {given} in {column.origin}. {way_out}"
        )
    return [ids[name] for name in names]


def integer_names(names: tuple[str, ...] | None, declared: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The names that integer labels stand for by position; None where an integer is itself the name."""
    if declared is None:
        return names
    if names is not None and set(names) <= set(declared):
        return names  # the same names in another order: position would swap the classes
    # One name that is a number is enough: a split without the others would read as integers.
    return None if any(name.lstrip("-").isdecimal() for name in declared) else declared


def found_by(
    columns: Mapping[str, LabelColumn], firsts: Mapping[str, Label], declared: tuple[str, ...] | None
) -> LabelsBy:
    """How labels found their classes, by the first label of each split."""
    if declared is None:
        return "source" if columns["train"].names else "sorted"
    by_position = [
        isinstance(firsts[split], int) and integer_names(column.names, declared) is declared
        for split, column in columns.items()
    ]
    return "position" if any(by_position) else "name"


def rarest(has: NDArray[np.bool_], fewest: int = 10) -> NDArray[np.int64]:
    """Rows that may have several classes, by the rarest of theirs, counted from 1; 0 where they have none.

    Args:
        has: [rows, classes].
        fewest: strata of fewer rows are one with 0, or with the largest: there would be none to hold out of them.
    """
    counts = has.sum(axis=0)
    order = np.argsort(counts, kind="stable")
    strata = np.where(has.any(axis=1), order[has[:, order].argmax(axis=1)] + 1, 0)
    sizes = np.bincount(strata, minlength=has.shape[1] + 1)
    strata = np.where(sizes[strata] < fewest, 0, strata)
    sizes = np.bincount(strata, minlength=has.shape[1] + 1)
    return np.where(sizes[strata] < fewest, sizes.argmax(), strata).astype(np.int64)


def quoted(names: Iterable[str]) -> str:
    """Names in a message."""
    return ", ".join(map(repr, names))


def _named(label: Label, integers: Sequence[str] | None) -> str:
    if isinstance(label, int) and integers is not None and 0 <= label < len(integers):
        return integers[label]
    return str(label)
