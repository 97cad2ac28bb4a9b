"""Train, validation and test as a study sees them: read or held out, free of each other's rows, capped, checked.

A pure function of the sources and the seed; what was removed on the way is said in `Splits.notes`.
"""

import functools
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.data.sources import Label, Rows, read_rows
from hpo.errors import DataError
from hpo.references import local_path
from hpo.spec import DataSpec

SPLITS = ("train", "validation", "test")
DEFAULT_SHARE = 0.1  # of train, held out for a split that is neither given nor sized
# Each draw has a stream of its own, so that what one split is given or capped at leaves the others' draws alone.
_STREAMS = {"hold out test": 0, "hold out validation": 1, "cap train": 2, "cap validation": 3, "cap test": 4}

Words = tuple[str, ...]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Texts and the ids of their classes, row by row."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.labels.setflags(write=False)  # shared by all trials of a process

    def __len__(self) -> int:
        return len(self.texts)

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
    sources = [source.source for source in (data.train, data.validation, data.test) if source is not None]
    paths = [path for path in map(local_path, sources) if path is not None]
    # Where a file lies and when it was changed belong to the key: an edited file is another data set.
    stamps = tuple((str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
    return _load(data.model_dump_json(), seed, stamps)


@functools.lru_cache(maxsize=4)
def _load(data_json: str, seed: int, stamps: tuple[object, ...]) -> Splits:
    data = DataSpec.model_validate_json(data_json)
    sources = {name: getattr(data, name) for name in SPLITS}
    rows = {name: read_rows(source, name, data) for name, source in sources.items() if source is not None}
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
    """Draw what is not given out of train: test first, so that it is the same whatever validation's size."""
    train = splits["train"]
    absent = [name for name in ("test", "validation") if name not in splits]
    if not absent:
        return dict(splits)
    rows = [tuple(text.split()) for text in train.texts]
    whole = whole_sentences(rows) if data.hold_out == "sentences" else np.arange(len(rows))
    pool, held = whole, {}
    for name in absent:
        asked = getattr(data, f"{name}_size") or DEFAULT_SHARE
        size = asked if isinstance(asked, int) else max(1, round(asked * len(whole)))
        _check_hold_out(name, asked, size, train.labels[pool], classes, data.hold_out)
        drawn = stratified_sample(train.labels[pool], size, _generator(seed, f"hold out {name}"))
        held[name] = pool[drawn]
        pool = np.delete(pool, drawn)
    taken = np.concatenate(list(held.values()))
    keep = np.ones(len(rows), dtype=bool)
    keep[taken] = False
    if data.hold_out == "sentences":
        inside = contained_phrases(rows, (rows[row] for row in taken))
        keep &= np.array([row not in inside for row in rows])
        notes.append(
            f"train: {len(rows) - len(taken) - int(keep.sum()):,} rows removed that are contained in one of "
            f"the {len(taken):,} sentences held out as {' and '.join(reversed(absent))}."
        )
    return {
        **splits,
        "train": train.take(np.flatnonzero(keep)),
        **{name: train.take(numbers) for name, numbers in held.items()},
    }


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
            rows = stratified_sample(split.labels, max_rows, _generator(seed, f"cap {name}"))
            capped[name] = split.take(rows)
            notes.append(f"{name}: {max_rows:,} of {len(split):,} rows kept (data.max_rows).")
    return capped


# Arithmetic


def stratified_sample(labels: NDArray[np.int64], size: int, generator: np.random.Generator) -> Indices:
    """Draw `size` row numbers, in ascending order, with each class's share as in `labels`.

    Shares are rounded by largest remainder, the lower class first. Where `size` allows it no class that is there
    gets none: a rare one takes a row from the largest.
    """
    present, counts = np.unique(labels, return_counts=True)
    quotas = counts * size  # in units of 1 / len(labels): integers, so that ties are ties
    take = quotas // len(labels)
    by_remainder = np.argsort(-(quotas % len(labels)), kind="stable")
    take[by_remainder[: size - take.sum()]] += 1
    if size >= len(present):
        for rare in np.flatnonzero(take == 0):
            take[np.argmax(take)] -= 1
            take[rare] = 1
    drawn = [
        generator.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in zip(present, take, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def whole_sentences(rows: Sequence[Words]) -> Indices:
    """The numbers of the rows that stand in no other row, neither as a part of it nor word for word."""
    inside = contained_phrases(rows, rows)
    times = Counter(rows)
    return np.array(
        [number for number, row in enumerate(rows) if row not in inside and times[row] == 1], dtype=np.int64
    )


def contained_phrases(phrases: Iterable[Words], rows: Iterable[Words]) -> set[Words]:
    """Those of `phrases` that are an unbroken run of words within a longer one of `rows`.

    From each word of each row only the lengths are tried that some phrase with the same first two words has:
    one and a half seconds for the 67,349 rows of SST-2.
    """
    known = set(phrases)
    lengths: dict[Words, set[int]] = defaultdict(set)
    for phrase in known:
        lengths[phrase[:2]].add(len(phrase))
    found: set[Words] = set()
    for row in rows:
        for start in range(len(row)):
            for head in (row[start : start + 1], row[start : start + 2]):
                for length in lengths.get(head, ()):
                    run = row[start : start + length]
                    if length < len(row) and run in known:
                        found.add(run)
    return found


def _generator(seed: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS[stream]])


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


def _check_hold_out(
    name: str,
    asked: float,
    size: int,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    unit: str,
) -> None:
    way_out = f"Lower data.{name}_size, or give data.{name}."
    if size >= len(labels):
        kind = "whole sentences (contained in no other row)" if unit == "sentences" else "rows"
        raise DataError(
            f"{name} is held out of train and must leave some of its {kind}, but got "
            f"{name}_size={asked} ({size:,} rows) where there are {len(labels):,}. {way_out}"
        )
    present, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        rare = classes[present[counts.argmin()]]
        raise DataError(
            f"to hold {name} out of train every class must have at least 2 {unit} left to draw from, but got "
            f"1 of {rare!r}. Add rows of it, remove it, or give data.{name}."
        )
    if size < len(present):
        raise DataError(
            f"{name} must have room for every class, but got {name}_size={asked} ({size:,} rows) for "
            f"{len(present)} classes. Raise data.{name}_size."
        )


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
