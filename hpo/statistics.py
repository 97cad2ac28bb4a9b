"""The mean of a score over seeds and examples that are both drawn by chance: its variance, interval and p-value.

The same question is asked of readers and cases in radiology: a *multi-reader multi-case* study. Its standard answer is
a two-way analysis of variance of jackknife pseudo-values. Our readers are the seeds, our cases the examples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95

METHOD = (
    "95 % intervals over seeds and examples: multi-reader multi-case analysis, a two-way random-effects analysis of "
    "variance of jackknife pseudo-values (Dorfman, Berbaum & Metz 1992) with the degrees of freedom of Hillis (2007), "
    "seeds as readers and examples as cases; for scores between 0 and 1 as Wilson's (1927) interval with the effective "
    "number of examples (Kott & Carr 1997). Differences are paired by example and by seed, with a two-sided t-test "
    "and, as Bonett & Price (2012) have it, one more example won and one more lost."
)
"""How intervals and p-values are computed, for a report."""


@dataclass(frozen=True)
class Mean:
    """An estimated mean, with the variance of the estimate and the degrees of freedom of that variance."""

    value: float
    variance: float
    degrees_of_freedom: float

    @property
    def quantile(self) -> float:
        """Of Student's t: how many standard errors the interval reaches to each side."""
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, self.degrees_of_freedom))

    def interval(self) -> tuple[float, float]:
        half = self.quantile * self.variance**0.5
        return self.value - half, self.value + half

    def p_value(self) -> float:
        """Of the hypothesis that the mean is 0; two-sided."""
        if self.variance == 0:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / self.variance**0.5, self.degrees_of_freedom))


def mean_over_seeds_and_examples(table: NDArray[np.float64], further_variance: float = 0.0) -> Mean:
    """The mean of `table` [seeds, examples], whose rows and columns are both a random sample.

    With mean squares S of seeds, E of examples and I of their interaction, the variance of the mean is
    (S + max(E - I, 0)) / (seeds * examples) (Dorfman, Berbaum & Metz 1992), and its degrees of freedom are
    (S + max(E - I, 0))² / (S² / (seeds - 1)) (Hillis 2007), but no more than the examples have.
    `further_variance` is known to be there, and is added to that of the examples.

    A single seed tells nothing about other seeds: the variance is then that of the examples only.
    """
    seeds, examples = table.shape
    value = float(table.mean())
    if seeds == 1:
        return Mean(value, float(table.var(ddof=1)) / examples + further_variance, examples - 1)
    by_seed, by_example = table.mean(axis=1), table.mean(axis=0)
    residuals = table - by_seed[:, None] - by_example + value
    of_interaction = float((residuals**2).sum()) / ((seeds - 1) * (examples - 1))
    of_examples = seeds * float(by_example.var(ddof=1))
    of_seeds = examples * float(by_seed.var(ddof=1))
    total = of_seeds + max(of_examples - of_interaction, 0.0) + further_variance * seeds * examples
    freedom = examples - 1.0
    if of_seeds > 0:
        freedom = min(freedom, (seeds - 1) * (total / of_seeds) ** 2)
    return Mean(value, total / (seeds * examples), freedom)
