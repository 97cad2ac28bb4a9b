"""Scores of a configuration on a split, and the difference between two, with intervals over seeds and examples.

A task says what each example contributes to a score (`hpo/scores.py`); `hpo/statistics.py` does the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.results import Difference, Estimate
from hpo.scores import Score, Scores
from hpo.statistics import Mean, mean_over_seeds_and_examples

ScoresOf = Callable[[NDArray[np.float32], NDArray[Any], Sequence[str]], Scores]
"""Of outputs [seeds, ...], labels and classes: `Task.scores`."""
SINGLE_PRECISION = float(np.finfo(np.float32).eps)


def score_estimates(
    of: ScoresOf, outputs: NDArray[np.float32], labels: NDArray[Any], classes: Sequence[str]
) -> dict[str, Estimate]:
    """The scores of `outputs` [seeds, ...] against `labels`, by metric: the mean over the seeds.

    Of classes these are `accuracy`, `f1_macro`, `precision_macro`, `recall_macro`, `mcc`, `loss` (cross entropy),
    `calibration_error` (expected calibration error of the predicted class's probability) and `f1/<class>`. Of two
    classes also `f1`, `precision` and `recall` of the second, which is the positive one in training too.

    Intervals are cut where the score is bounded. Shares of examples and their like have Wilson's interval, which has
    a width also where nothing was wrong; losses and errors have one that is symmetric by a factor. A class without rows
    has an F1 of 0 that says nothing: its interval is all of [0, 1]. So is that of a precision where no seed predicted
    the class. The calibration error is too high on few rows, as gaps by chance do not cancel: its interval reaches down
    by as much as that may be.
    With one seed, intervals cover the examples only.
    """
    return {score.name: _estimate(score) for score in of(outputs, labels, classes)}


def score_differences(
    of: ScoresOf,
    winner: NDArray[np.float32],
    default: NDArray[np.float32],
    labels: NDArray[Any],
    classes: Sequence[str],
) -> dict[str, Difference]:
    """The winner's scores less the default's, by metric, paired by example and by seed.

    Outputs are [seeds, ...]; seed j of one belongs to seed j of the other. The p-value is below 0.05 just
    where the interval excludes 0. Equal outputs differ by exactly 0, with a p-value of 1. Equal predictions from
    different outputs do not: to shares of examples is added half an example that only the winner has right, and half an
    example that only the default has. This is cautious where they differ in a handful of predictions: intervals of 95 %
    cover 99 % or more. With one seed, intervals and p-values cover the examples only.
    """
    if winner.shape != default.shape:
        raise ValueError(f"winner and default need the same shape, but have {winner.shape}, {default.shape}")
    same = np.array_equal(winner, default)
    pairs = zip(of(winner, labels, classes), of(default, labels, classes), strict=True)
    return {own.name: _difference(own, other, same) for own, other in pairs}


def _estimate(score: Score) -> Estimate:
    mean = mean_over_seeds_and_examples(score.contributions)
    if score.rows is not None:
        low, high = _wilson_interval(mean, score.rows, *score.bounds)
    elif score.bounds[1] == np.inf:
        low, high = _logarithmic_interval(mean)
    else:
        low, high = mean.interval()
    return Estimate(value=mean.value, low=max(low - score.excess, score.bounds[0]), high=min(high, score.bounds[1]))


def _logarithmic_interval(mean: Mean) -> tuple[float, float]:
    """Symmetric by a factor: losses are mostly close to 0 and rarely large.

    Where a handful of examples has most of the loss the interval is still too narrow: it covers 91 % for 300 examples
    of which two are wrong.
    """
    if mean.value == 0:
        return 0.0, 0.0
    factor = float(np.exp(mean.quantile * mean.variance**0.5 / mean.value))
    return mean.value / factor, mean.value * factor


def _wilson_interval(mean: Mean, rows: float, lowest: float, highest: float) -> tuple[float, float]:
    """Wilson's interval of a share of as many independent examples as have the variance of `mean`.

    That number is p (1 - p) / variance (Franco et al. 2019). One example that all seeds have wrong is added to both, so
    that a perfect score is one of `rows` examples: 0 / 0 otherwise.
    """
    if rows == 0:
        return lowest, highest
    width = highest - lowest
    share = min(max((mean.value - lowest) / width, 0.0), 1.0)
    number = (share * (1 - share) + 1 / rows) / (mean.variance / width**2 + 1 / rows**2)
    square = mean.quantile**2 / number
    centre = (share + square / 2) / (1 + square)
    half = (square * share * (1 - share) + square**2 / 4) ** 0.5 / (1 + square)
    # Rounding can leave a share of exactly 0 or 1 outside.
    return lowest + width * min(centre - half, share), lowest + width * max(centre + half, share)


def _difference(winner: Score, default: Score, same: bool) -> Difference:
    if same:
        return Difference(value=0.0, low=0.0, high=0.0, p_value=1.0)
    width = winner.bounds[1] - winner.bounds[0]
    contributions = winner.contributions - default.contributions
    # Of a precision, whichever predicted the class less often says how little is known.
    rows = None if winner.rows is None or default.rows is None else min(winner.rows, default.rows)
    if rows == 0:
        return Difference(value=float(contributions.mean()), low=-width, high=width, p_value=1.0)
    # Below the precision of logits, a difference is rounding.
    further = SINGLE_PRECISION**2 if rows is None else (width / rows) ** 2
    mean = mean_over_seeds_and_examples(contributions, further)
    low, high = mean.interval()
    return Difference(value=mean.value, low=max(low, -width), high=min(high, width), p_value=mean.p_value())
