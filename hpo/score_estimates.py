"""Scores of a configuration on a split, and the difference between two, with intervals over seeds and examples.

Each score is turned into a table of jackknife pseudo-values [seeds, examples]: what each example contributes to it.
Their mean is the score itself, as scikit-learn has it (`hpo/training/metrics.py`); `hpo/statistics.py` does the rest.
Leaving one example out changes a score in few different ways, so that no score is computed again per example.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
    (expected calibration error of the predicted class's probability) and `f1/<class>`: the mean over the seeds.

    Intervals are cut where the score is bounded. Shares of examples and their like have Wilson's interval, which has
    a width also where nothing was wrong. A class without rows has an F1 of 0 that says nothing: its interval is all of
    [0, 1]. The calibration error is too high on few rows, as gaps by chance do not cancel: its interval reaches down by
    as much as that may be.
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
    different logits do not: shares of examples count half an example more that only the winner has right, and half
    a one that only the default has. With one seed, intervals and p-values cover the examples only.
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
    low, high = mean.interval() if score.rows is None else _wilson_interval(mean, score.rows, *score.bounds)
    return Estimate(value=mean.value, low=max(low - score.excess, score.bounds[0]), high=min(high, score.bounds[1]))


def _wilson_interval(mean: Mean, rows: float, lowest: float, highest: float) -> tuple[float, float]:
    """Wilson's interval of a share of as many independent examples as have the variance of `mean`.

    That number is p (1 - p) / variance (Kott & Carr 1997). One example that all seeds have wrong is added to both, so
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
    if winner.rows == 0:
        return Difference(value=0.0, low=-width, high=width, p_value=1.0)
    # Below the precision of logits, a difference is rounding.
    further = SINGLE_PRECISION**2 if winner.rows is None else (width / winner.rows) ** 2
    mean = mean_over_seeds_and_examples(winner.contributions - default.contributions, further)
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
    yield Score("loss", log_total - wide[:, np.arange(len(labels)), labels], (0.0, np.inf))
    yield _calibration_error(np.exp(wide.max(axis=2) - log_total), correct)
    yield from _confusion_scores(predictions, labels, classes)


def _calibration_error(confidences: Reals, correct: NDArray[np.bool_]) -> Score:
    contributions, excess = [], []
    for confidence, is_correct in zip(confidences, correct, strict=True):
        bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
        gaps = confidence - is_correct
        of_bins = np.bincount(bins, weights=gaps, minlength=CALIBRATION_BINS)
        total = np.abs(of_bins).sum()
        # Leaving an example out changes the gap of its own bin only.
        without = total - np.abs(of_bins)[bins] + np.abs(of_bins[bins] - gaps)
        contributions.append(_pseudo_values(total / len(gaps), without / (len(gaps) - 1)))
        # A calibrated bin has a gap by chance, of mean size sqrt(2 / pi) standard deviations. Bins within two
        # standard deviations of 0 may well be calibrated.
        deviations = np.bincount(bins, weights=confidence * (1 - confidence), minlength=CALIBRATION_BINS) ** 0.5
        by_chance = deviations[np.abs(of_bins) <= 2 * deviations].sum()
        excess.append(np.sqrt(2 / np.pi) * by_chance / len(gaps))
    return Score("calibration_error", np.stack(contributions), excess=float(np.mean(excess)))


def _confusion_scores(predictions: Integers, labels: Integers, classes: Sequence[str]) -> Iterator[Score]:
    support = np.bincount(labels, minlength=len(classes))
    counts = [_Counts.of(of_seed, labels, len(classes)) for of_seed in predictions]
    share_rows, f1_rows = _macro_rows(support)
    for name, share, rows in (
        ("f1", _f1, f1_rows),
        ("precision", _precision, share_rows),
        ("recall", _recall, share_rows),
    ):
        yield Score(f"{name}_macro", np.stack([c.macro_contributions(share) for c in counts]), rows=rows)
    yield Score("mcc", np.stack([c.mcc_contributions() for c in counts]), (-1.0, 1.0), f1_rows)
    for number, name in enumerate(classes):
        of_class = np.stack([c.class_contributions(_f1, number) for c in counts])
        # A miss or a false alarm changes an F1 by one in twice the rows.
        yield Score(f"f1/{name}", of_class, rows=2.0 * support[number])


def _macro_rows(support: Integers) -> tuple[float, float]:
    """One over what one wrong example can change in a macro average: of recall or precision, and of F1 or MCC.

    A class counts one part in all, however few its rows. For recall the example is a miss of the smallest class; for
    F1 it is a miss of one of the two smallest and a false alarm of the other. With equal classes both are all rows.
    """
    present = np.sort(support[support > 0]).astype(np.float64)
    return float(len(support) * present[0]), float(2 * len(support) / (1 / present[:2]).sum())


ClassScore = Callable[[Integers, Integers, Integers], Reals]
"""Of every class, from its hits, its rows, and the predictions of it."""


def _f1(hits: Integers, rows: Integers, predicted: Integers) -> Reals:
    return _ratio(2 * hits, rows + predicted)


def _precision(hits: Integers, rows: Integers, predicted: Integers) -> Reals:
    return _ratio(hits, predicted)


def _recall(hits: Integers, rows: Integers, predicted: Integers) -> Reals:
    return _ratio(hits, rows)


def _ratio(part: Integers | Reals, whole: Integers | Reals) -> Reals:
    """0 where there is nothing to divide by, as scikit-learn is asked for it."""
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)


@dataclass(frozen=True)
class _Counts:
    """What the confusion matrix of one seed says of every class, and what leaving an example out makes of it."""

    labels: Integers
    predictions: Integers
    hits: Integers
    rows: Integers
    predicted: Integers

    @classmethod
    def of(cls, predictions: Integers, labels: Integers, classes: int) -> "_Counts":
        hits = np.bincount(labels[predictions == labels], minlength=classes)
        rows, predicted = (np.bincount(numbers, minlength=classes) for numbers in (labels, predictions))
        return cls(labels, predictions, hits, rows, predicted)

    def _changes(self, share: ClassScore) -> tuple[Reals, Reals, Reals]:
        """Of every class's score, without one of its hits, without a miss, and without a false alarm."""
        value = share(self.hits, self.rows, self.predicted)
        without_hit = share(self.hits - 1, self.rows - 1, self.predicted - 1)
        without_miss = share(self.hits, self.rows - 1, self.predicted)
        without_false_alarm = share(self.hits, self.rows, self.predicted - 1)
        return without_hit - value, without_miss - value, without_false_alarm - value

    def macro_contributions(self, share: ClassScore) -> Reals:
        hit, miss, false_alarm = self._changes(share)
        wrong = miss[self.labels] + false_alarm[self.predictions]
        changes = np.where(self.predictions == self.labels, hit[self.labels], wrong) / len(hit)
        value = share(self.hits, self.rows, self.predicted).mean()
        return _pseudo_values(value, value + changes)

    def class_contributions(self, share: ClassScore, number: int) -> Reals:
        hit, miss, false_alarm = (change[number] for change in self._changes(share))
        is_label, is_prediction = self.labels == number, self.predictions == number
        cases = [is_label & is_prediction, is_label, is_prediction]
        value = share(self.hits, self.rows, self.predicted)[number]
        return _pseudo_values(value, value + np.select(cases, [hit, miss, false_alarm], 0.0))

    def mcc_contributions(self) -> Reals:
        """Matthews' coefficient for any number of classes (Gorodkin 2004)."""
        n, hits = len(self.labels), self.hits.sum()
        products, rows2, predicted2 = self.rows @ self.predicted, self.rows @ self.rows, self.predicted @ self.predicted
        value = _mcc(n, hits, products, rows2, predicted2)
        correct = (self.predictions == self.labels).astype(np.int64)
        of_label, of_prediction = self.rows[self.labels], self.predicted[self.predictions]
        without = _mcc(
            n - 1,
            hits - correct,
            products - self.predicted[self.labels] - self.rows[self.predictions] + correct,
            rows2 - 2 * of_label + 1,
            predicted2 - 2 * of_prediction + 1,
        )
        return _pseudo_values(value, without)


def _mcc(n: int, hits: Integers, products: Integers, rows2: Integers, predicted2: Integers) -> Reals:
    """From sums over the classes: of hits, of rows times predictions, and of the squares of either."""
    spread = (n**2 - rows2).astype(np.float64) * (n**2 - predicted2)
    root: Reals = np.sqrt(spread)
    return _ratio(hits * n - products, root)


def _pseudo_values(value: Reals, without: Reals) -> Reals:
    """From a score and what it is without each example: moved so that their mean is the score itself (Hillis 2005)."""
    influence: Reals = (len(without) - 1) * without
    pseudo_values: Reals = value + influence.mean() - influence
    return pseudo_values
