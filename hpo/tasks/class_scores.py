"""Accuracy, loss, calibration and the scores of a confusion matrix, as what each example contributes to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hpo.scores import Integers, Reals, Score, Scores, pseudo_values, ratio, require_outputs

CALIBRATION_BINS = 15
"""Of equal width (Guo et al. 2017); a confidence on an edge belongs to the bin below it."""


def class_scores(logits: NDArray[np.float32], labels: Integers, classes: Sequence[str]) -> Scores:
    """Of logits [seeds, examples, classes] against labels [examples]; `hpo.score_estimates` says which.

    One after the other: with many classes, all tables at once would fill the memory.
    """
    require_outputs(logits, len(labels), (len(labels), len(classes)))
    from scipy.special import logsumexp  # a study file is read without it

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
    contributions = pseudo_values(total / examples, without / (examples - 1))
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


def _confusion_scores(counts: _Confusions, classes: Sequence[str]) -> Scores:
    share_rows, f1_rows = _macro_rows(counts.rows)
    f1 = _ClassScores.of(counts, lambda c: ratio(2 * c.hits, c.rows + c.predicted))
    precision = _ClassScores.of(counts, lambda c: ratio(c.hits, c.predicted))
    recall = _ClassScores.of(counts, lambda c: ratio(c.hits, c.rows))
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
        return pseudo_values(value, value[:, None] + changes)

    def contributions(self, number: int) -> Reals:
        """To the score of one class."""
        is_label, is_prediction = self.counts.labels == number, self.counts.predictions == number
        cases = [is_label & is_prediction, is_label & ~is_prediction, is_prediction]
        changes = np.select(cases, [of[:, [number]] for of in (self.hit, self.miss, self.false_alarm)], 0.0)
        value = self.value[:, number]
        return pseudo_values(value, value[:, None] + changes)


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
    return pseudo_values(_mcc(n, hits, products, rows2, predicted2)[:, 0], without)


def _mcc(n: int, hits: Integers, products: Integers, rows2: Integers, predicted2: Integers) -> Reals:
    """From sums over the classes: of hits, of rows times predictions, and of the squares of either."""
    root: Reals = np.sqrt((n**2 - rows2).astype(np.float64) * (n**2 - predicted2))
    return ratio(hits * n - products, root)
