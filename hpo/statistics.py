"""The mean of a score over seeds and examples that are both drawn by chance: its variance, interval and p-value.

The same question is asked of readers and cases in radiology: a *multi-reader multi-case* study. Its standard answer is
a two-way analysis of variance of jackknife pseudo-values. Our readers are the seeds, our cases the examples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95

SHARES_AND_LOSS = (
    "shares of examples have Wilson's interval with the effective number of examples (Franco et al. 2019), the loss a "
    "logarithmic one."
)
OF_SEVERAL_SEEDS = (
    "95 % intervals over seeds and examples: multi-reader multi-case analysis of jackknife pseudo-values by two-way "
    "random-effects analysis of variance (Dorfman, Berbaum & Metz 1992) with degrees of freedom after Hillis (2007), "
    f"seeds as readers and examples as cases; {SHARES_AND_LOSS} Differences are paired by example and by seed and have "
    "a two-sided t-test; of shares, with half an example added to either side's wins (after Agresti & Min 2005)."
)
OF_ONE_SEED = (
    "95 % intervals and p-values over the examples of a single seed: they do not cover what another seed would change. "
    f"Of jackknife pseudo-values by Student's t; {SHARES_AND_LOSS} Differences are paired by example and have a "
    "two-sided t-test; of shares, with half an example added to either side's wins (after Agresti & Min 2005)."
)


def method(seeds: int) -> str:
    """How intervals and p-values of so many seeds are computed, for a report."""
    return OF_ONE_SEED if seeds == 1 else OF_SEVERAL_SEEDS


@dataclass(frozen=True)
class Mean:
    """An estimated mean, with the variance of the estimate and the degrees of freedom of that variance."""

    value: float
    variance: float
    degrees_of_freedom: float

    @property
    def quantile(self) -> float:
        """Of Student's t: how many standard errors the interval reaches to each side."""
        return float(stdtrit(self.degrees_of_freedom, (1 + CONFIDENCE) / 2))

    def interval(self) -> tuple[float, float]:
        half = self.quantile * self.variance**0.5
        return self.value - half, self.value + half

    def p_value(self) -> float:
        """Of the hypothesis that the mean is 0; two-sided."""
        if self.variance == 0:
            return float(self.value == 0)
        return float(2 * stdtr(self.degrees_of_freedom, -abs(self.value) / self.variance**0.5))


def mean_over_seeds_and_examples(table: NDArray[np.float64], further_variance: float = 0.0) -> Mean:
    """The mean of `table` [seeds, examples], whose rows and columns are both a random sample.

    With mean squares S of seeds, E of examples and I of their interaction, and X = max(E - I, 0), the variance of the
    mean is (S + X) / (seeds * examples) (Dorfman, Berbaum & Metz 1992).

    Its degrees of freedom are (seeds - 1) (1 + c X / S)², and no more than the examples have. Hillis (2007) has c = 1.
    Where the S of few seeds is small by chance that is far too many. Intervals of 95 % then cover, by what part of the
    variance is the seeds', as little as 92.2 % with three seeds, 94.1 with five, 87.2 with two. With
    c = (seeds - 1) / (seeds + 3) they cover 94.7 to 96.1 % with three, 95.0 to 95.6 with five, 92.5 to 96.5 with two.

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
    of_examples_alone = max(of_examples - of_interaction, 0.0) + further_variance * seeds * examples
    freedom = examples - 1.0
    if of_seeds > 0:
        cautious = (seeds - 1) / (seeds + 3)
        freedom = min(freedom, (seeds - 1) * (1 + cautious * of_examples_alone / of_seeds) ** 2)
    return Mean(value, (of_seeds + of_examples_alone) / (seeds * examples), freedom)
