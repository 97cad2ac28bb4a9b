"""Train, validation and test as a study sees them: read or held out, free of each other's rows, capped, checked.

A pure function of the sources and the seed; what was removed on the way is said in `Splits.notes`.
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.data.hold_out import Indices, hold_out, stratified_sample, stream
from hpo.data.sources import Label, Rows, read_rows
from hpo.errors import DataError
from hpo.references import local_path
from hpo.spec import DataSpec

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Texts and the ids of their classes, row by row."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.labels.setflags(write=False)  # shared by all trials of a process

    def __len__(self) -> int:
        return len(self.texts)

    def joined(self, other: "Split") -> "Split":
        """These rows, then those of another split."""
        return Split((*self.texts, *other.texts), np.concatenate([self.labels, other.labels]))

    def take(self, rows: Indices) -> "Split":
        """The rows with these numbers, in this order."""
        return Split(tuple(self.texts[row] for row in rows), self.labels[rows])


@dataclass(frozen=True, eq=False)
class Splits:
    """The data of a study."""

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
    """The classes' names in the order of their ids."""
    fingerprint: str
    """SHA-256 of every text, label and class name: it changes when anything does that a model could learn from."""
    notes: tuple[str, ...]
    """What was removed and what is odd, in sentences."""

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """How many rows of each class each split has."""
        splits = {name: getattr(self, name) for name in SPLITS}
        return {
            name: dict(zip(self.labels, _count(split, self.labels).tolist(), strict=True))
            for name, split in splits.items()
        }


def load_splits(data: DataSpec, seed: int) -> Splits:
    """Read, hold out, remove duplicates, cap and check; the same splits for the same data and seed.

    The result is kept in the process, so that every trial but the first has it at once.
    """
    paths = [path for source in data.sources.values() if (path := local_path(source.source)) is not None]
    # Where a file lies and when it was changed belong to the key: an edited file is another data set.
    stamps = tuple((str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
    return _load(data.model_dump_json(), seed, stamps)


@functools.lru_cache(maxsize=4)
def _load(data_json: str, seed: int, stamps: tuple[object, ...]) -> Splits:
    data = DataSpec.model_validate_json(data_json)
    rows = {name: read_rows(source, name, data) for name, source in data.sources.items()}
    classes = _class_names(rows["train"], data.labels)
    splits = {name: _with_ids(name, read, classes, data.labels) for name, read in rows.items()}
    notes: list[str] = []
    splits = _hold_out(splits, classes, data, seed, notes)
    splits = _remove_shared(splits, notes)
    splits = _cap(splits, data.max_rows, seed, notes)
    _check(splits, classes, data, notes)
    return Splits(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        labels=classes,
        fingerprint=_fingerprint(splits, classes),
        notes=tuple(notes),
    )


# Labels


def _class_names(train: Rows, declared: tuple[str, ...] | None) -> tuple[str, ...]:
    if names := declared or train.label_names:
        if len(set(names)) < len(names):
            raise DataError(f"class names must differ, but got {_quoted(names)}. Rename one in data.labels.")
        return tuple(names)
    numbers = [label for label in set(train.labels) if isinstance(label, int)]
    return tuple(str(number) for number in sorted(numbers)) or tuple(sorted(map(str, set(train.labels))))


def _with_ids(name: str, rows: Rows, classes: Sequence[str], declared: Sequence[str] | None) -> Split:
    ids = {label: number for number, label in enumerate(classes)}
    integers = _integer_names(rows, declared)
    found = [_named(label, integers) for label in rows.labels]
    if unknown := Counter(label for label in found if label not in ids):
        given = ", ".join(f"{label!r} ({count:,} rows)" for label, count in sorted(unknown.items())[:5])
        rule = "one of data.labels" if declared else "a label of train"
        way_out = (
            "Is that split unlabelled? Name a labelled one, or leave it out to have it held out of train."
            if "-1" in unknown
            else f"Correct the labels, or {'data.labels' if declared else 'add such rows to train'}."
        )
        raise DataError(
            f"every label of {name} must be {rule} ({_quoted(classes)}), but got {given} in {rows.origin}. {way_out}"
        )
    return Split(tuple(rows.texts), np.array([ids[label] for label in found], dtype=np.int64))


def _integer_names(rows: Rows, declared: Sequence[str] | None) -> Sequence[str] | None:
    """The names that integer labels stand for by position; None where an integer is itself the name."""
    if declared is None:
        return rows.label_names
    if rows.label_names is not None and set(rows.label_names) <= set(declared):
        return rows.label_names  # the same names in another order: position would swap the classes
    return None if all(name.lstrip("-").isdecimal() for name in declared) else declared


def _named(label: Label, integers: Sequence[str] | None) -> str:
    if isinstance(label, int) and integers is not None and 0 <= label < len(integers):
        return integers[label]
    return str(label)


# Steps


def _hold_out(
    splits: Mapping[str, Split], classes: Sequence[str], data: DataSpec, seed: int, notes: list[str]
) -> dict[str, Split]:
    if set(SPLITS) <= set(splits):
        return dict(splits)
    train = splits["train"]
    out = hold_out(train.texts, train.labels, classes, data, seed)
    taken = sum(map(len, out.held.values()))
    if data.hold_out == "sentences":
        notes.append(
            f"train: {len(train) - taken - len(out.train):,} rows removed that are contained in one of "
            f"the {taken:,} sentences held out as {' and '.join(reversed(out.held))}."
        )
    return {**splits, "train": train.take(out.train), **{name: train.take(rows) for name, rows in out.held.items()}}


def _remove_shared(splits: Mapping[str, Split], notes: list[str]) -> dict[str, Split]:
    """Remove rows whose text, up to white space, stands in a split that is looked at later."""
    kept = dict(splits)
    for name, later in (("validation", ("test",)), ("train", ("validation", "test"))):
        seen = {_squeezed(text) for other in later for text in splits[other].texts}
        fresh = np.flatnonzero([_squeezed(text) not in seen for text in splits[name].texts])
        if removed := len(splits[name]) - len(fresh):
            rows = "1 row removed that also stands" if removed == 1 else f"{removed:,} rows removed that also stand"
            notes.append(f"{name}: {rows} in {' or '.join(later)}.")
            kept[name] = splits[name].take(fresh)
    return kept


def _cap(splits: Mapping[str, Split], max_rows: int | None, seed: int, notes: list[str]) -> dict[str, Split]:
    capped = dict(splits)
    for name, split in splits.items():
        if max_rows is not None and len(split) > max_rows:
            rows = stratified_sample(split.labels, max_rows, stream(seed, f"cap {name}"))
            capped[name] = split.take(rows)
            notes.append(f"{name}: {max_rows:,} of {len(split):,} rows kept (data.max_rows).")
    return capped


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _count(split: Split, classes: Sequence[str]) -> NDArray[np.int64]:
    return np.bincount(split.labels, minlength=len(classes))


def _fingerprint(splits: Mapping[str, Split], classes: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode())
    for name in SPLITS:
        content: list[Any] = [name, splits[name].texts, splits[name].labels.tolist()]
        digest.update(json.dumps(content).encode())
    return digest.hexdigest()


# Checks


def _check(splits: Mapping[str, Split], classes: Sequence[str], data: DataSpec, notes: list[str]) -> None:
    so_far = f" So far: {' '.join(notes)}" if notes else ""
    for name in SPLITS:
        if not len(splits[name]):
            raise DataError(f"{name} must have rows, but got none.{so_far} Give more or other rows.")
    there = {name: _count(splits[name], classes) > 0 for name in SPLITS}
    if there["train"].sum() < 2:
        only = classes[int(there["train"].argmax())]
        raise DataError(
            f"train must have at least two classes, but all its rows are {only!r}.{so_far} "
            "Check data.label_column and `where`, or add rows of another class."
        )
    for name in ("validation", "test"):
        if (unlearned := there[name] & ~there["train"]).any():
            raise DataError(
                f"every class of {name} must also be in train, but got "
                f"{_quoted(_where(unlearned, classes))}, of which train has no "
                f"row.{so_far} Add rows of it to train{', or raise data.max_rows' if data.max_rows else ''}."
            )
    for name in SPLITS:
        if not there[name].all():
            absent = _quoted(_where(~there[name], classes))
            notes.append(f"{name}: no row of {absent}.")


def _where(mask: NDArray[np.bool_], classes: Sequence[str]) -> list[str]:
    return [label for label, chosen in zip(classes, mask, strict=True) if chosen]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
