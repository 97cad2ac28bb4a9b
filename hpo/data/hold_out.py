"""Validation and test held out of train: at random by class, or by whole sentences where train is made of phrases."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.data.overlap import Words, contained_in
from hpo.errors import DataError
from hpo.spec import DataSpec

DEFAULT_SHARE = 0.1  # of train, held out for a split that is neither given nor sized
# Each draw has a stream of its own, so that what one split is given or capped at leaves the others' draws alone.
_STREAMS = {
    "hold out test": 0,
    "hold out validation": 1,
    "cap train": 2,
    "cap validation": 3,
    "cap test": 4,
    "sample train": 5,
}

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Row numbers of train: those held out for each split, and those that stay."""

    held: dict[str, Indices]
    train: Indices


def hold_out(
    texts: Sequence[str], strata: NDArray[np.int64], classes: Sequence[str] | None, data: DataSpec, seed: int
) -> HeldOut:
    """Draw the one or two splits that `data` does not give: test first, the same whatever validation's size.

    Args:
        strata: by row, such as its class; of each a split gets its share.
        classes: what the strata are called, if every split must have rows of each; None if it need not.

    Raises:
        DataError: there are too few rows or sentences, of all or of one class.
    """
    rows = [tuple(text.split()) for text in texts]
    whole = whole_sentences(rows) if data.hold_out == "sentences" else np.arange(len(rows))
    pool, held = whole, {}
    for name in [name for name in ("test", "validation") if name not in data.sources]:
        asked = getattr(data, f"{name}_size") or DEFAULT_SHARE
        size = asked if isinstance(asked, int) else max(1, round(asked * len(whole)))
        _check(name, asked, size, strata[pool], classes, data.hold_out)
        drawn = stratified_sample(strata[pool], size, stream(seed, f"hold out {name}"))
        held[name] = pool[drawn]
        pool = np.delete(pool, drawn)
    taken = np.concatenate(list(held.values()))
    keep = np.ones(len(rows), dtype=bool)
    keep[taken] = False
    if data.hold_out == "sentences":
        inside = _inside(rows, (rows[row] for row in taken))
        keep &= np.array([row not in inside for row in rows])
    return HeldOut(held, np.flatnonzero(keep))


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


def nested_sample(labels: NDArray[np.int64], size: int, generator: np.random.Generator) -> Indices:
    """Draw `size` row numbers, in ascending order, with each class's share as in `labels`: of one generator's state the
    smaller sample is contained in every larger one.

    Rows are taken in the order of their place within their class, as a share of it, and so the first of every class
    comes before all others.
    """
    shuffled = generator.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = (np.arange(len(order)) - np.repeat(starts, counts)) / np.repeat(counts, counts)
    return np.sort(order[np.argsort(place, kind="stable")][:size])


def whole_sentences(rows: Sequence[Words]) -> Indices:
    """The numbers of the rows that stand in no other row, neither as a part of it nor word for word."""
    inside = _inside(rows, rows)
    times = Counter(rows)
    return np.array(
        [number for number, row in enumerate(rows) if row not in inside and times[row] == 1], dtype=np.int64
    )


def _inside(phrases: Iterable[Words], rows: Iterable[Words]) -> set[Words]:
    return {phrase for phrase, _ in contained_in(phrases, rows)}


def stream(seed: int, draw: str) -> np.random.Generator:
    """The random numbers of one draw."""
    return np.random.default_rng([seed, _STREAMS[draw]])


def _check(
    name: str,
    asked: float,
    size: int,
    labels: NDArray[np.int64],
    classes: Sequence[str] | None,
    unit: str,
) -> None:
    way_out = f"Lower data.{name}_size, or give data.{name}."
    if size >= len(labels):
        kind = "whole sentences (contained in no other row)" if unit == "sentences" else "rows"
        raise DataError(
            f"{name} is held out of train and must leave some of its {kind}, but got "
            f"{name}_size={asked} ({size:,} rows) where there are {len(labels):,}. {way_out}"
        )
    if classes is None:
        return
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
