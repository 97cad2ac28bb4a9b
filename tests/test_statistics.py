"""Means over seeds and examples: by hand, against a published study, against scipy, and in simulations."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from hpo.statistics import Mean, mean_over_seeds_and_examples, method

Reals = NDArray[np.float64]


def test_mean_squares_by_hand() -> None:
    table = np.array([[0.0, 1.0, 5.0], [4.0, 7.0, 7.0]])
    # Means: of seeds 2, 6; of examples 2, 4, 6; of all 4. Residuals: 0, -1, 1 and 0, 1, -1.
    # Mean squares: of seeds 3 * (4 + 4) / 1 = 24, of examples 2 * (4 + 0 + 4) / 2 = 8, of interaction 4 / (1 * 2) = 2.
    mean = mean_over_seeds_and_examples(table)
    # Variance (24 + 8 - 2) / (2 * 3); degrees of freedom 1 * (1 + 1 / 5 * 6 / 24)^2.
    assert (mean.value, mean.variance, mean.degrees_of_freedom) == pytest.approx((4, 5, 1.1025))
    half = stats.t.ppf(0.975, 1.1025) * 5**0.5
    assert mean.interval() == pytest.approx((4 - half, 4 + half))
    assert mean.p_value() == pytest.approx(2 * stats.t.sf(4 / 5**0.5, 1.1025))


def test_a_negative_variance_of_examples_is_none() -> None:
    # All means are 1: mean squares are 0 of seeds, 0 of examples, and 8 / (1 * 3) of interaction.
    table = np.array([[0.0, 2.0, 0.0, 2.0], [2.0, 0.0, 2.0, 0.0]])
    assert mean_over_seeds_and_examples(table) == Mean(1.0, 0.0, 3.0)


def test_there_are_no_more_degrees_of_freedom_than_the_examples_have() -> None:
    table = np.array([[0.0, 1.0, 6.0], [1.0, 3.0, 7.0]])  # seeds differ by little, examples by much
    assert mean_over_seeds_and_examples(table).degrees_of_freedom == 2


def test_further_variance_belongs_to_the_examples() -> None:
    table = np.array([[0.0, 1.0, 5.0], [4.0, 7.0, 7.0]])
    mean = mean_over_seeds_and_examples(table, further_variance=1.0)
    # To the 8 - 2 above come 1.0 * 2 * 3.
    assert (mean.variance, mean.degrees_of_freedom) == pytest.approx((6, (1 + 1 / 5 * 12 / 24) ** 2))
    assert mean_over_seeds_and_examples(table[:1], further_variance=1.0).variance == pytest.approx(7 / 3 + 1)


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.1, 0.0)])
def test_without_any_variance(value: float, p_value: float) -> None:
    mean = mean_over_seeds_and_examples(np.full((3, 5), value))
    assert mean.interval() == pytest.approx((value, value))
    assert Mean(value, 0.0, 4.0).p_value() == p_value


def test_one_seed_is_the_t_test_over_examples() -> None:
    values = np.random.default_rng(0).normal(0.2, 1, 50)
    mean, expected = mean_over_seeds_and_examples(values[None]), stats.ttest_1samp(values, 0)
    assert mean.p_value() == pytest.approx(expected.pvalue)
    assert mean.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_what_is_said_of_the_method_is_what_was_done() -> None:
    assert "over seeds and examples" in method(2) and method(2) == method(5)
    assert "over seeds" not in method(1) and "do not cover what another seed would change" in method(1)


def test_equal_examples_leave_the_t_test_over_seeds() -> None:
    of_seeds = np.random.default_rng(1).normal(0.2, 1, 5)
    mean, expected = mean_over_seeds_and_examples(np.tile(of_seeds[:, None], 40)), stats.ttest_1samp(of_seeds, 0)
    assert mean.p_value() == pytest.approx(expected.pvalue)
    assert mean.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))


CASES = 114
READERS = {
    "spin echo": [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066],
    "cine": [0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169],
}


def table_with(of_readers: Sequence[float], variance: float, covariance: float) -> Reals:
    """Pseudo-values whose means are those of the readers, with a variance of each and a covariance of any two.

    Both are of the means, as publications have them; of pseudo-values they are as many times that as there are cases.
    """
    readers = len(of_readers)
    noise = np.random.default_rng(0).normal(size=(CASES, readers))
    exactly_standard = np.linalg.qr(noise - noise.mean(axis=0))[0] * (CASES - 1) ** 0.5
    wanted = CASES * ((variance - covariance) * np.eye(readers) + covariance)
    table: Reals = np.array(of_readers)[:, None] + np.linalg.cholesky(wanted) @ exactly_standard.T
    return table


# Van Dyke et al. (1993): 5 readers judge 114 cases by two modalities. The areas under the ROC curve, their jackknife
# variances and covariances and the results are those that RJafroc prints for the data set, which are also those of the
# University of Iowa's OR-DBM MRMC 2.51 (Chakraborty, "The RJafroc Roc Book", Illustrations of the OR method).
@pytest.mark.parametrize(
    ("of_readers", "variance", "covariance", "error", "freedom", "low", "high"),
    [
        (READERS["spin echo"], 0.00101410277, 0.00048396180, 0.033173597, 12.744648, 0.82522360, 0.96885048),
        (READERS["cine"], 0.00059047376, 0.00020418785, 0.021566368, 12.710190, 0.89413783, 0.98753689),
        # Of paired differences the variance is 2 (Var - Cov1), the covariance 2 (Cov2 - Cov3).
        (
            [first - second for first, second in zip(*READERS.values(), strict=True)],
            2 * (0.00080228827 - 0.00034661371),
            2 * (0.00034407483 - 0.00023902837),
            0.020748618,
            15.259675,
            -0.087959499,
            0.00035885444,
        ),
    ],
)
def test_a_published_study(
    of_readers: list[float], variance: float, covariance: float, error: float, freedom: float, low: float, high: float
) -> None:
    mean = mean_over_seeds_and_examples(table_with(of_readers, variance, covariance))
    assert mean.variance**0.5 == pytest.approx(error, rel=1e-6)
    published = replace(mean, degrees_of_freedom=freedom)
    assert published.interval() == pytest.approx((low, high), abs=1e-6)
    # Published are Hillis' degrees of freedom, 4 (1 + ratio)^2; ours take half the ratio of five seeds.
    ratio = (freedom / 4) ** 0.5 - 1
    assert mean.degrees_of_freedom == pytest.approx(4 * (1 + ratio / 2) ** 2, rel=1e-5)


def test_the_p_value_of_the_published_study() -> None:
    differences = np.subtract(READERS["spin echo"], READERS["cine"]).tolist()
    table = table_with(differences, 2 * (0.00080228827 - 0.00034661371), 2 * (0.00034407483 - 0.00023902837))
    mean = replace(mean_over_seeds_and_examples(table), degrees_of_freedom=15.259675)
    assert mean.p_value() == pytest.approx(0.051665686, abs=1e-7)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    ("of_seeds", "of_examples", "of_interaction"),
    [
        pytest.param(0.0, 1.0, 1.0, id="seeds are alike"),
        pytest.param(0.1, 1.0, 1.0, id="seeds and examples count alike"),
        pytest.param(0.5, 1.0, 1.0, id="seeds differ"),
        pytest.param(0.1, 0.0, 1.0, id="examples are alike"),
        pytest.param(0.1, 1.0, 0.0, id="no interaction"),
    ],
)
def test_intervals_cover_and_p_values_are_uniform(
    seeds: int, of_seeds: float, of_examples: float, of_interaction: float
) -> None:
    generator, examples, studies = np.random.default_rng(seeds), 200, 1_000
    p_values = []
    for _ in range(studies):
        table = of_seeds * generator.normal(size=(seeds, 1)) + of_examples * generator.normal(size=examples)
        p_values.append(
            mean_over_seeds_and_examples(table + of_interaction * generator.normal(size=(seeds, examples))).p_value()
        )
    covered = np.mean(np.array(p_values) >= 0.05)
    # Of 95 % among 1,000 studies three standard deviations are 2.1 points.
    assert covered == pytest.approx(0.95, abs=0.021)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
