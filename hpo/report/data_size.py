"""What twice the data would bring: the score against the rows that were learned from, where a study searches these.

The error (1 less the score, or the score itself where less is better) is taken to fall with a power of the rows, as
learning curves do over a wide range (Hestness et al. 2017). It is fitted to the most rows only: with few, a model does
little better than guessing, and from there its error falls faster than it will again. Such a curve has no floor: where
labels are wrong or texts say too little there is one, and then it foretells too much.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from hpo.report import formats
from hpo.report.parts import Findings, Table
from hpo.report.tables import SHARE, View, shares
from hpo.results import Estimate
from hpo.statistics import CONFIDENCE
from hpo.study import TRAIN_FRACTION

# The sizes that the curve is fitted to, those with the most rows. A line through two fits any two: nothing would say
# how far it is off. Through all of them it foretold the next doubling less well (benchmarks/README.md).
FITTED: Final = 3


@dataclass(frozen=True, kw_only=True)
class Size:
    """The complete trials that learned from as many rows."""

    rows: int
    scores: Sequence[float]

    @property
    def mean(self) -> float:
        return math.fsum(self.scores) / len(self.scores)

    @property
    def interval(self) -> Estimate | None:
        """Of the mean over trials, each of which has a seed of its own; None for a single one."""
        count = len(self.scores)
        if count < 2:
            return None
        half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * float(np.std(self.scores, ddof=1)) / math.sqrt(count)
        return Estimate(value=self.mean, low=self.mean - half, high=self.mean + half)


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """How the error falls: `error = exp(intercept) * rows ** -exponent`."""

    intercept: float
    exponent: float
    low: float
    high: float
    """Of the exponent, 95 %, by how far the sizes are off the curve."""

    def error(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.exp(self.intercept) * rows**-self.exponent
        return found


def sizes(view: View) -> list[Size]:
    """From the fewest rows to all of them; nothing where a study does not search them."""
    table = view.complete
    total = view.attributes.get("data", {}).get("rows", {}).get("train")
    if view.spec is None or TRAIN_FRACTION not in view.spec.search_space or not total or SHARE not in table:
        return []
    by_share = table.assign(share=shares(table)).groupby("share")["score"]
    return [Size(rows=round(float(str(share)) * total), scores=scores.tolist()) for share, scores in by_share]


def errors(view: View, scores: Sequence[float]) -> NDArray[np.float64]:
    """What falls: 1 less the score, or the score itself."""
    given = np.array(scores, dtype=np.float64)
    return given if view.direction == "minimize" else 1.0 - given


def power_law(view: View, found: Sequence[Size]) -> PowerLaw | None:
    """Fitted to the means of the largest sizes, all alike, in logarithms; None for too few or an error of 0."""
    largest = found[-FITTED:]
    error = errors(view, [size.mean for size in largest])
    if len(largest) < FITTED or (error <= 0).any():
        return None
    across, up = np.log([size.rows for size in largest]), np.log(error)
    centred = across - across.mean()
    slope = float(centred @ up / (centred @ centred))
    intercept = float(up.mean() - slope * across.mean())
    freedom = FITTED - 2
    residuals = up - intercept - slope * across
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(
        float(residuals @ residuals) / freedom / float(centred @ centred)
    )
    return PowerLaw(intercept=intercept, exponent=-slope, low=-slope - half, high=-slope + half)


def gain_of_twice(view: View, found: Sequence[Size], law: PowerLaw) -> Estimate:
    """How much the score would rise (a loss: fall) with twice as many rows as the most that were learned from."""
    error = float(errors(view, [found[-1].mean])[0])
    value, low, high = (error * (1 - 2.0**-exponent) for exponent in (law.exponent, law.low, law.high))
    return Estimate(value=value, low=low, high=high)


def more_data(view: View) -> Findings:
    """The learning curve over data size, in words and as a table."""
    found = sizes(view)
    if not found:
        return Findings()
    rows = [
        [f"{size.rows:,}", str(len(size.scores)), formats.score(size.mean), _interval(size), _gain(view, found, at)]
        for at, size in enumerate(found)
    ]
    header = [
        "Train rows",
        "Trials",
        f"Mean {view.metric}",
        "95 % interval over trials",
        "Better than the one above by",
    ]
    return Findings(
        sentences=[*_sentences(view, found)], tables=[Table(header=header, rows=rows, words=0)] if rows else []
    )


def _interval(size: Size) -> str:
    of = size.interval
    return "" if of is None else f"{formats.short(of.low)} to {formats.short(of.high)}"


def _gain(view: View, found: Sequence[Size], at: int) -> str:
    if at == 0:
        return ""
    before, now = errors(view, [found[at - 1].mean, found[at].mean])
    return formats.signed(float(before - now))


def _sentences(view: View, found: Sequence[Size]) -> Iterator[str]:
    twice = f"{2 * found[-1].rows:,} rows, twice the most that were learned from,"
    law = power_law(view, found)
    if law is None:
        why = (
            f"the score is known for {formats.count(len(found), 'size')}, and a curve can be told from {FITTED} on"
            if len(found) < FITTED
            else "the error came to 0, which nothing can fall below"
        )
        yield f"What {twice} would bring cannot be told: {why}."
    else:
        gain = gain_of_twice(view, found, law)
        verb = "fall" if view.direction == "minimize" else "rise"
        told = (
            f"With {twice} the {view.metric} would {verb} by {formats.short(gain.value)} (95 %: "
            f"{formats.signed(gain.low)} to {formats.signed(gain.high)}), if its error goes on to fall with a power of "
            f"the rows: each doubling has multiplied it by {2.0**-law.exponent:.2f}."
        )
        yield told + (" It may as well bring nothing." if gain.low <= 0 else "")
        yield (
            f"That is a line through the {FITTED} largest sizes in logarithms, its interval from how far they are off "
            "it. It has no floor, and foretells too much where wrong labels make one."
        )
    others = [name for name in (view.spec.search_space if view.spec else {}) if name != TRAIN_FRACTION]
    drew = f", whatever they drew for {formats.listed(others)}" if others else ""
    yield (
        f"Means are over all complete trials of a size{drew}. Those of a size learned from the same rows, for fewer "
        "optimizer steps the fewer there were, and were looked at on the same validation rows: what other rows would "
        "give, the intervals do not cover. The best trial and the winner are of those with all rows."
    )
