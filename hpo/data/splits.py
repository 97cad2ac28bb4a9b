"""Train, validation and test as a study sees them: read or held out, free of each other's rows, capped, checked.

A pure function of the sources and the seed; what was removed on the way is said in `Splits.notes`.
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.data.hold_out import Indices, hold_out, nested_sample, stratified_sample, stream
from hpo.data.inputs import Form, Input, form_of, readable
from hpo.data.overlap import KINDS, kinds, relations, words_of
from hpo.data.sources import Rows, read_inputs, read_rows
from hpo.errors import DataError
from hpo.references import local_path
from hpo.spec import DataSpec
from hpo.tasks import DEFAULT_TASK, TASKS
from hpo.tasks.base import Task
from hpo.tasks.labels import LabelColumn, LabelsBy, quoted

SPLITS = ("train", "validation", "test")
EARLIER = (("validation", ("test",)), ("train", ("validation", "test")))
"""Each split with those that are looked at later, in the order in which rows are removed."""


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs and their labels, row by row."""

    inputs: tuple[Input, ...]
    labels: NDArray[Any]
    """As the task encodes them: of classes their ids."""
    form: Form = "text"

    def __post_init__(self) -> None:
        self.labels.setflags(write=False)  # shared by all trials of a process

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The inputs as a person reads them."""
        return readable(self.inputs, self.form)

    def joined(self, other: "Split") -> "Split":
        """These rows, then those of another split."""
        labels = np.concatenate([self.labels, other.labels])
        return Split((*self.inputs, *other.inputs), labels, self.form)

    def take(self, rows: Indices) -> "Split":
        """The rows with these numbers, in this order."""
        return Split(tuple(self.inputs[row] for row in rows), self.labels[rows], self.form)


# Numbers larger than this, or spread wider, are far from where a new head begins.
FAR = 10.0


@dataclass(frozen=True, eq=False)
class Splits:
    """The data of a study."""

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
    """The classes' names in the order of their ids; of numbers, the name of what they are."""
    fingerprint: str
    """SHA-256 of every text, label and class name: it changes when anything does that a model could learn from."""
    notes: tuple[str, ...]
    """What was removed and what is odd, in sentences."""
    removed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By split: how many rows were removed by each rule, in the order of the rules."""
    source_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By split: the names that a Hub data set gives to its integer labels."""
    labels_by: LabelsBy = "name"
    """How the labels of the rows found their classes."""
    task: str = DEFAULT_TASK
    unlabelled: Split | None = None
    """Further texts to learn from, whose labels nobody knows."""

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """How many rows of each class each split has; of numbers nothing."""
        return {name: self._counts(getattr(self, name)) for name in SPLITS}

    def _counts(self, split: Split) -> dict[str, int]:
        counts = TASKS[self.task].labels.counts(split.labels, len(self.labels)).tolist()
        return dict(zip(self.labels, counts, strict=True)) if counts else {}

    def label_text(self, split: Split, row: int) -> str:
        """The label of a row as a person reads it."""
        return TASKS[self.task].labels.text(split.labels[row], self.labels)


def load_splits(task: str, data: DataSpec, seed: int) -> Splits:
    """Read, hold out, remove duplicates, cap and check; the same splits for the same data and seed.

    The result is kept in the process, so that every trial but the first has it at once.
    """
    paths = [path for source in data.all_sources.values() if (path := local_path(source.source)) is not None]
    # Where a file lies and when it was changed belong to the key: an edited file is another data set.
    stamps = tuple((str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
    return _load(task, data.model_dump_json(), seed, stamps)


@functools.lru_cache(maxsize=8)
def learned_from(
    splits: Splits, fraction: float, seed: int, *, with_validation: bool, with_unlabelled: bool
) -> tuple[str, Split]:
    """All that a training learns from: a name for it within the data, and its rows.

    Args:
        fraction: of the train split. Stratified as everything that is drawn, and the study's own, so that of two shares
            the smaller one is contained in the larger.

    Raises:
        DataError: the share has no room for a row of every class.
    """
    name, learned = "train", splits.train
    if fraction < 1.0:
        name, learned = f"train {fraction!r} {seed}", _sampled(splits, fraction, seed)
    if with_validation:
        name, learned = f"{name}+validation", learned.joined(splits.validation)
    if with_unlabelled and splits.unlabelled is not None:
        name, learned = f"{name}+unlabelled", learned.joined(splits.unlabelled)
    return name, learned


def _sampled(splits: Splits, fraction: float, seed: int) -> Split:
    train, labels = splits.train, TASKS[splits.task].labels
    strata = labels.strata(train.labels, len(splits.labels))
    size, classes = round(fraction * len(train)), len(np.unique(strata))
    if size < max(classes, 2):
        raise DataError(
            f"training.train_fraction must leave a row of every class, but got {fraction:g} of {len(train):,} rows for "
            f"{classes} {'groups of numbers' if labels.numeric else 'classes'}. Raise it."
        )
    return train.take(nested_sample(strata, size, stream(seed, "sample train")))


@functools.lru_cache(maxsize=4)
def _load(name: str, data_json: str, seed: int, stamps: tuple[object, ...]) -> Splits:
    data, task = DataSpec.model_validate_json(data_json), TASKS[name]
    rows = {split: read_rows(task, source, split, data) for split, source in data.sources.items()}
    columns = {split: _label_column(read) for split, read in rows.items()}
    classes = task.labels.classes(columns["train"], data.labels)
    form = form_of(task.words, data.text_columns)
    splits = {
        split: Split(tuple(read.inputs), task.labels.encode(split, columns[split], classes, data.labels), form)
        for split, read in rows.items()
    }
    log = _Log()
    splits = _hold_out(splits, task, classes, data, seed, log)
    splits = _remove_shared(splits, log, relatives=data.leaks == "drop")
    splits = _cap(splits, task, len(classes), data.max_rows, seed, log)
    _check(splits, task, classes, data, log.notes)
    unlabelled = _unlabelled(splits, task, len(classes), data, log)
    return Splits(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        labels=classes,
        fingerprint=_fingerprint(splits, task, classes, unlabelled),
        notes=tuple(log.notes),
        removed=log.removed,
        source_labels={split: read.label_names for split, read in rows.items() if read.label_names},
        labels_by=task.labels.labels_by(columns, data.labels),
        task=name,
        unlabelled=unlabelled,
    )


def _label_column(rows: Rows) -> LabelColumn:
    return LabelColumn(rows.labels, rows.label_names, rows.origin, rows.label_column)


@dataclass
class _Log:
    """What was removed on the way, as sentences and as numbers."""

    notes: list[str] = field(default_factory=list)
    removed: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in SPLITS})

    def remove(self, split: str, rows: Mapping[str, int], note: str) -> None:
        self.removed[split] |= rows
        self.notes.append(f"{split}: {note}")


# Steps


def _hold_out(
    splits: Mapping[str, Split], task: Task, classes: Sequence[str], data: DataSpec, seed: int, log: _Log
) -> dict[str, Split]:
    if set(SPLITS) <= set(splits):
        return dict(splits)
    train, labels = splits["train"], task.labels
    strata = labels.strata(train.labels, len(classes))
    out = hold_out(train.texts, strata, classes if labels.exclusive else None, data, seed)
    taken = sum(map(len, out.held.values()))
    if data.hold_out == "sentences":
        dropped = len(train) - taken - len(out.train)
        log.remove(
            "train",
            {"within a held-out sentence": dropped},
            f"{dropped:,} rows removed that are contained in one of "
            f"the {taken:,} sentences held out as {' and '.join(reversed(out.held))}.",
        )
    return {**splits, "train": train.take(out.train), **{name: train.take(rows) for name, rows in out.held.items()}}


def _remove_shared(splits: Mapping[str, Split], log: _Log, *, relatives: bool) -> dict[str, Split]:
    """Remove rows whose text, up to white space, stands in a split that is looked at later; its relatives too if asked.

    The later split keeps its rows: what it says is what a model is worth on all of them.
    """
    kept = dict(splits)
    for name, later in EARLIER:
        texts = [text for other in later for text in kept[other].texts]
        seen = {squeezed(text) for text in texts}
        fresh = np.flatnonzero([squeezed(text) not in seen for text in kept[name].texts])
        if removed := len(kept[name]) - len(fresh):
            rows = "1 row removed that also stands" if removed == 1 else f"{removed:,} rows removed that also stand"
            log.remove(name, {"repeated": removed}, f"{rows} in {' or '.join(later)}.")
            kept[name] = kept[name].take(fresh)
        if relatives:
            kept[name] = _remove_relatives(name, kept[name], later, texts, log)
    return kept


def _remove_relatives(name: str, split: Split, later: Sequence[str], texts: Sequence[str], log: _Log) -> Split:
    """Remove the rows that have a near duplicate among the texts of the later splits, or one within the other."""
    words = [words_of(text) for text in split.texts]
    found = kinds(words, relations(words, [words_of(text) for text in texts]))
    counts = Counter(kind for kind in found if kind is not None)
    if not counts:
        return split
    said = ", ".join(f"{counts[kind]:,} {what}" for kind, what in KINDS.items() if counts[kind])
    total = counts.total()
    rows = "1 row removed as a leak" if total == 1 else f"{total:,} rows removed as leaks"
    removed: dict[str, int] = {what: counts[kind] for kind, what in KINDS.items() if counts[kind]}
    log.remove(name, removed, f"{rows} of {' or '.join(later)} ({said}; data.leaks).")
    return split.take(np.flatnonzero([kind is None for kind in found]))


def _cap(
    splits: Mapping[str, Split], task: Task, num_classes: int, max_rows: int | None, seed: int, log: _Log
) -> dict[str, Split]:
    capped = dict(splits)
    for name, split in splits.items():
        if max_rows is not None and len(split) > max_rows:
            strata = task.labels.strata(split.labels, num_classes)
            rows = stratified_sample(strata, max_rows, stream(seed, f"cap {name}"))
            capped[name] = split.take(rows)
            above = len(split) - max_rows
            log.remove(name, {"above max_rows": above}, f"{max_rows:,} of {len(split):,} rows kept (data.max_rows).")
    return capped


def _unlabelled(splits: Mapping[str, Split], task: Task, num_classes: int, data: DataSpec, log: _Log) -> Split | None:
    """The texts without labels that stand in no split, each once."""
    if data.unlabelled is None:
        return None
    read, form = read_inputs(task, data.unlabelled, data), splits["train"].form
    seen = {squeezed(text) for split in splits.values() for text in split.texts}
    rows = []
    for row, text in enumerate(readable(read, form)):
        if (plain := squeezed(text)) not in seen:
            seen.add(plain)
            rows.append(row)
    if not rows:
        raise DataError(
            f"some text of data.unlabelled must stand in no split, but all {len(read):,} do. Give others, or remove it."
        )
    known = f", {len(read) - len(rows):,} others stand there before or in a split" if len(rows) < len(read) else ""
    log.notes.append(f"unlabelled: {len(rows):,} texts of which only the teachers say what they are{known}.")
    inputs = tuple(read[row] for row in rows)
    return Split(inputs, task.labels.unknown(inputs, num_classes), form)


def squeezed(text: str) -> str:
    """A text up to white space, by which rows are the same."""
    return " ".join(text.split())


def _fingerprint(splits: Mapping[str, Split], task: Task, classes: Sequence[str], unlabelled: Split | None) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode())
    for name in SPLITS:
        content: list[Any] = [name, splits[name].inputs, task.labels.plain(splits[name].labels)]
        digest.update(json.dumps(content).encode())
    if unlabelled is not None:
        digest.update(json.dumps(["unlabelled", unlabelled.inputs]).encode())
    return digest.hexdigest()


# Checks


def _check(splits: Mapping[str, Split], task: Task, classes: Sequence[str], data: DataSpec, notes: list[str]) -> None:
    so_far = f" So far: {' '.join(notes)}" if notes else ""
    for name in SPLITS:
        if not len(splits[name]):
            raise DataError(f"{name} must have rows, but got none.{so_far} Give more or other rows.")
    if task.labels.numeric:
        _check_numbers(splits, so_far, notes)
        return
    there = {name: task.labels.counts(splits[name].labels, len(classes)) > 0 for name in SPLITS}
    if there["train"].sum() < 2:
        only = classes[int(there["train"].argmax())]
        raise DataError(
            f"train must have at least two classes, but all its rows are {only!r}.{so_far} "
            "Check data.label_column and `where`, or add rows of another class."
        )
    kinds = np.array(task.labels.kinds(classes))
    learned = np.isin(kinds, kinds[there["train"]])
    for name in ("validation", "test"):
        if (unlearned := there[name] & ~learned).any():
            raise DataError(
                f"every class of {name} must also be in train, but got "
                f"{quoted(_where(unlearned, classes))}, of which train has no "
                f"row.{so_far} Add rows of it to train{', or raise data.max_rows' if data.max_rows else ''}."
            )
    for name in SPLITS:
        if not there[name].all():
            absent = quoted(_where(~there[name], classes))
            notes.append(f"{name}: no row of {absent}.")


def _check_numbers(splits: Mapping[str, Split], so_far: str, notes: list[str]) -> None:
    for name in SPLITS:
        if len(np.unique(splits[name].labels)) < 2:
            raise DataError(
                f"the numbers of {name} must differ, but all its rows have {splits[name].labels[0]:g}.{so_far} "
                "Check data.label_column and `where`, or give more rows."
            )
    mean, spread = float(splits["train"].labels.mean()), float(splits["train"].labels.std())
    if max(abs(mean), spread) > FAR:
        notes.append(
            f"train: its numbers have a mean of {mean:.4g} and a standard deviation of {spread:.4g}. A new head begins "
            "near 0 and takes small steps: numbers near 1 are learned sooner, such as these divided by a constant."
        )


def _where(mask: NDArray[np.bool_], classes: Sequence[str]) -> list[str]:
    return [label for label, chosen in zip(classes, mask, strict=True) if chosen]
