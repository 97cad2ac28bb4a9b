"""Scores of a configuration on a split, and the difference between two, with intervals over seeds and examples.

Each score is turned into a table of jackknife pseudo-values [seeds, examples]: what each example contributes to it.
Their mean is the score itself, as scikit-learn has it (`hpo/training/metrics.py`); `hpo/statistics.py` does the rest.
Leaving one example out changes a score in few different ways, so that no score is computed again per example.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from hpo.results import Difference, Estimate
from hpo.statistics import Mean, mean_over_seeds_and_examples

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]

CALIBRATION_BINS = 15
"""Of equal width (Guo et al. 2017); a confidence on an edge belongs to the bin below it."""

SINGLE_PRECISION = float(np.finfo(np.float32).eps)


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


def score_estimates(logits: NDArray[np.float32], labels: Integers, classes: Sequence[str]) -> dict[str, Estimate]:
    """The scores of `logits` [seeds, examples, classes] against `labels` [examples], by metric.

    `accuracy`, `f1_macro`, `precision_macro`, `recall_macro`, `mcc`, `loss` (cross entropy), `calibration_error`
    (expected calibration error of the predicted class's probability) and `f1/<class>`: the mean over the seeds. Of two
    classes also `f1`, `precision` and `recall` of the second, which is the positive one in training too.

    Intervals are cut where the score is bounded. Shares of examples and their like have Wilson's interval, which has
    a width also where nothing was wrong; the loss has one that is symmetric by a factor. A class without rows has an
    F1 of 0 that says nothing: its interval is all of [0, 1]. So is that of a precision where no seed predicted the
    class. The calibration error is too high on few rows, as gaps
    by chance do not cancel: its interval reaches down by as much as that may be.
    With one seed, intervals cover the examples only.
    """
    return {score.name: _estimate(score) for score in _scores(logits, labels, classes)}


def score_differences(
    winner_logits: NDArray[np.float32],
    default_logits: NDArray[np.float32],
    labels: Integers,
    classes: Sequence[str],
) -> dict[str, Difference]:
    """The winner's scores less the default's, by metric, paired by example and by seed.

    Logits are [seeds, examples, classes]; seed j of one belongs to seed j of the other. The p-value is below 0.05 just
    where the interval excludes 0. Equal logits differ by exactly 0, with a p-value of 1. Equal predictions from
    different logits do not: to shares of examples is added half an example that only the winner has right, and half an
    example that only the default has. This is cautious where they differ in a handful of predictions: intervals of 95 %
    cover 99 % or more. With one seed, intervals and p-values cover the examples only.
    """
    if winner_logits.shape != default_logits.shape:
        raise ValueError(
            f"winner and default need the same shape, but have {winner_logits.shape}, {default_logits.shape}"
        )
    same = np.array_equal(winner_logits, default_logits)
    pairs = zip(_scores(winner_logits, labels, classes), _scores(default_logits, labels, classes), strict=True)
    return {winner.name: _difference(winner, default, same) for winner, default in pairs}


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


def _scores(logits: NDArray[np.float32], labels: Integers, classes: Sequence[str]) -> Iterator[Score]:
    """One after the other: with many classes, all tables at once would fill the memory."""
    if logits.ndim != 3 or logits.shape[1:] != (len(labels), len(classes)):
        raise ValueError(
            f"logits need the shape [seeds, {len(labels)} examples, {len(classes)} classes], but have {logits.shape}"
        )
    if logits.shape[0] < 1 or len(labels) < 2:
        raise ValueError(f"an interval needs a seed and two examples, but has {logits.shape[0]} and {len(labels)}")
    if not np.isfinite(logits).all():
        raise ValueError("logits need to be finite")
    wide = logits.astype(np.float64)
    predictions = logits.argmax(axis=2)
    correct = predictions == labels
    yield Score("accuracy", correct.astype(np.float64), rows=len(labels))
    log_total = logsumexp(wide, axis=2)
    losses = np.maximum(log_total - wide[:, np.arange(len(labels)), labels], 0.0)  # rounding can go below 0
    yield Score("loss", losses, (0.0, np.inf))
    yield _calibration_error(np.exp(wide.max(axis=2) - log_total), correct)
    yield from _confusion_scores(_Confusions.of(predictions, labels, len(classes)), classes)


def _calibration_error(confidence: Reals, correct: NDArray[np.bool_]) -> Score:
    seeds, examples = confidence.shape
    within = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    bins = within + CALIBRATION_BINS * np.arange(seeds)[:, None]

    def sums(values: Reals) -> Reals:
        """Over the examples of every bin of every seed."""
        of_bins = np.bincount(bins.ravel(), weights=values.ravel(), minlength=seeds * CALIBRATION_BINS)
        return of_bins.astype(np.float64)

    gaps = confidence - correct
    of_bins = sums(gaps)
    total = np.abs(of_bins).reshape(seeds, -1).sum(axis=1)
    # Leaving an example out changes the gap of its own bin only.
    without = total[:, None] - np.abs(of_bins)[bins] + np.abs(of_bins[bins] - gaps)
    contributions = _pseudo_values(total / examples, without / (examples - 1))
    # A calibrated bin has a gap by chance, of mean size sqrt(2 / pi) standard deviations. Bins within two standard
    # deviations of 0 may well be calibrated.
    deviations = sums(confidence * (1 - confidence)) ** 0.5
    by_chance = deviations[np.abs(of_bins) <= 2 * deviations].sum() / (seeds * examples)
    return Score("calibration_error", contributions, excess=float((2 / np.pi) ** 0.5 * by_chance))


@dataclass(frozen=True)
class _Confusions:
    """What the confusion matrix of every seed says of every class."""

    labels: Integers
    """[examples]"""
    predictions: Integers
    """[seeds, examples]"""
    hits: Integers
    """[seeds, classes]"""
    rows: Integers
    """[classes]"""
    predicted: Integers
    """[seeds, classes]"""

    @classmethod
    def of(cls, predictions: Integers, labels: Integers, classes: int) -> "_Confusions":
        hits = [np.bincount(labels[of_seed == labels], minlength=classes) for of_seed in predictions]
        predicted = [np.bincount(of_seed, minlength=classes) for of_seed in predictions]
        rows = np.bincount(labels, minlength=classes)
        return cls(labels, predictions, np.stack(hits), rows, np.stack(predicted))

    def without_hit(self) -> "_Confusions":
        """One example less in every class at once, which its seed has right."""
        return replace(self, hits=self.hits - 1, rows=self.rows - 1, predicted=self.predicted - 1)

    def without_miss(self) -> "_Confusions":
        return replace(self, rows=self.rows - 1)

    def without_false_alarm(self) -> "_Confusions":
        return replace(self, predicted=self.predicted - 1)


def _confusion_scores(counts: _Confusions, classes: Sequence[str]) -> Iterator[Score]:
    share_rows, f1_rows = _macro_rows(counts.rows)
    f1 = _ClassScores.of(counts, lambda c: _ratio(2 * c.hits, c.rows + c.predicted))
    precision = _ClassScores.of(counts, lambda c: _ratio(c.hits, c.predicted))
    recall = _ClassScores.of(counts, lambda c: _ratio(c.hits, c.rows))
    yield Score("f1_macro", f1.macro_contributions(), rows=f1_rows)
    yield Score("precision_macro", precision.macro_contributions(), rows=share_rows)
    yield Score("recall_macro", recall.macro_contributions(), rows=share_rows)
    yield Score("mcc", _mcc_contributions(counts), (-1.0, 1.0), f1_rows)
    if len(classes) == 2:
        yield Score("f1", f1.contributions(1), rows=2.0 * counts.rows[1])
        # Of a precision the rows are those that are predicted, as a mean over the seeds.
        yield Score("precision", precision.contributions(1), rows=float(counts.predicted[:, 1].mean()))
        yield Score("recall", recall.contributions(1), rows=float(counts.rows[1]))
    for number, name in enumerate(classes):
        # A miss or a false alarm changes an F1 by one in twice the rows.
        yield Score(f"f1/{name}", f1.contributions(number), rows=2.0 * counts.rows[number])


def _macro_rows(rows: Integers) -> tuple[float, float]:
    """One over what one wrong example can change in a macro average: of recall or precision, and of F1 or MCC.

    A class counts one part in all, however few its rows. For recall the example is a miss of the smallest class; for
    F1 it is a miss of one of the two smallest and a false alarm of the other. With equal classes both are all rows.
    """
    present = np.sort(rows[rows > 0]).astype(np.float64)
    return float(len(rows) * present[0]), float(2 * len(rows) / (1 / present[:2]).sum())


@dataclass(frozen=True)
class _ClassScores:
    """A score of every class [seeds, classes], and how it changes where an example is left out."""

    counts: _Confusions
    value: Reals
    hit: Reals
    miss: Reals
    false_alarm: Reals

    @classmethod
    def of(cls, counts: _Confusions, score: Callable[[_Confusions], Reals]) -> "_ClassScores":
        value = score(counts)
        less = (counts.without_hit(), counts.without_miss(), counts.without_false_alarm())
        return cls(counts, value, *(score(one_less) - value for one_less in less))

    def macro_contributions(self) -> Reals:
        labels, predictions = self.counts.labels, self.counts.predictions
        wrong = self.miss[:, labels] + np.take_along_axis(self.false_alarm, predictions, axis=1)
        changes = np.where(predictions == labels, self.hit[:, labels], wrong) / self.value.shape[1]
        value = self.value.mean(axis=1)
        return _pseudo_values(value, value[:, None] + changes)

    def contributions(self, number: int) -> Reals:
        """To the score of one class."""
        is_label, is_prediction = self.counts.labels == number, self.counts.predictions == number
        cases = [is_label & is_prediction, is_label & ~is_prediction, is_prediction]
        changes = np.select(cases, [of[:, [number]] for of in (self.hit, self.miss, self.false_alarm)], 0.0)
        value = self.value[:, number]
        return _pseudo_values(value, value[:, None] + changes)


def _mcc_contributions(counts: _Confusions) -> Reals:
    """To Matthews' coefficient, for any number of classes (Gorodkin 2004)."""
    n, labels, predictions = len(counts.labels), counts.labels, counts.predictions
    rows, predicted = counts.rows, counts.predicted
    hits, products = counts.hits.sum(axis=1)[:, None], (predicted @ rows)[:, None]
    rows2, predicted2 = rows @ rows, (predicted**2).sum(axis=1)[:, None]
    correct = (predictions == labels).astype(np.int64)
    without = _mcc(
        n - 1,
        hits - correct,
        products - predicted[:, labels] - rows[predictions] + correct,
        rows2 - 2 * rows[labels] + 1,
        predicted2 - 2 * np.take_along_axis(predicted, predictions, axis=1) + 1,
    )
    return _pseudo_values(_mcc(n, hits, products, rows2, predicted2)[:, 0], without)


def _mcc(n: int, hits: Integers, products: Integers, rows2: Integers, predicted2: Integers) -> Reals:
    """From sums over the classes: of hits, of rows times predictions, and of the squares of either."""
    root: Reals = np.sqrt((n**2 - rows2).astype(np.float64) * (n**2 - predicted2))
    return _ratio(hits * n - products, root)


def _ratio(part: Integers, whole: Integers | Reals) -> Reals:
    """0 where there is nothing to divide by, as scikit-learn is asked for it."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def _pseudo_values(value: Reals, without: Reals) -> Reals:
    """From scores [seeds] and what they are without each example: their mean is made the score (Hillis 2005)."""
    influence: Reals = (without.shape[1] - 1) * without
    pseudo_values: Reals = value[:, None] + influence.mean(axis=1, keepdims=True) - influence
    return pseudo_values
