"""A score as what each example contributes to it, so that its uncertainty can be computed.

Each score is a table of jackknife pseudo-values [seeds, examples], whose mean over the examples is the seed's score.
Leaving one example out changes a score in few different ways, so that no score is computed again per example.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """A score of every seed, and what each example contributes to it."""

    name: str
    contributions: Reals
    """[seeds, examples] Jackknife pseudo-values, whose mean over examples is the seed's score."""
    bounds: tuple[float, float] = (0.0, 1.0)
    rows: float | None = None
    """Of a share of examples, or its like: one over the most that one more wrong example takes from it."""
    excess: float = 0.0
    """By how much the score may be too high on average."""


Scores = Iterator[Score]


def pseudo_values(value: Reals, without: Reals) -> Reals:
    """From scores [seeds] and what they are without each example: their mean is made the score (Hillis 2005)."""
    influence: Reals = (without.shape[1] - 1) * without
    contributions: Reals = value[:, None] + influence.mean(axis=1, keepdims=True) - influence
    return contributions


def ratio(part: Integers | Reals, whole: Integers | Reals) -> Reals:
    """0 where there is nothing to divide by, as scikit-learn is asked for it."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def require_outputs(outputs: NDArray[np.float32], examples: int, shape: tuple[int, ...]) -> None:
    """Checks the outputs of all seeds, which are [seeds, *shape].

    Raises:
        ValueError: they have another shape, are not finite, or are of too few seeds or examples for an interval.
    """
    if outputs.ndim != 1 + len(shape) or outputs.shape[1:] != shape:
        raise ValueError(f"outputs need the shape [seeds, {', '.join(map(str, shape))}], but have {outputs.shape}")
    if outputs.shape[0] < 1 or examples < 2:
        raise ValueError(f"an interval needs a seed and two examples, but has {outputs.shape[0]} and {examples}")
    if not np.isfinite(outputs).all():
        raise ValueError("outputs need to be finite")
