import math
from typing import Any

import numpy as np
import pytest

from hpo.report.outlook import HOUR, another_hour, highest_gain, look_back, seed_spread
from views import SCORES, complete, finals, told_view


def tail_scale(scores: Any) -> float:
    """The mean excess of the best sqrt(n): what the upper end is a fixed multiple of."""
    k, ordered = max(3, round(math.sqrt(len(scores)))), np.sort(scores)
    return float(np.mean(ordered[-k:]) - ordered[-k - 1])


def test_looking_back_by_hand() -> None:
    """Of 4 scores and 4 more: back to 2. Of the 6 pairs of 1, 2, 4, 8 one has the best 2, two 4, three 8."""
    chance, gain = look_back([4.0, 1.0, 8.0, 2.0], 4)
    assert chance == pytest.approx(1 / 2)
    assert gain == pytest.approx((1 * 6 + 2 * 4 + 3 * 0) / 6)


@pytest.mark.parametrize(("n", "more"), [(16, 8), (30, 14), (100, 20)])
def test_without_ties_the_chance_is_the_share_of_the_trials_to_come(n: int, more: int) -> None:
    scores = np.random.default_rng(n).standard_normal(n)
    assert look_back(scores, more)[0] == pytest.approx(more / (n + more))


@pytest.mark.parametrize(
    ("scores", "least", "most"), [("normal", 0.95, 1.2), ("skewed", 1.05, 1.5), ("exponential", 0.85, 1.1)]
)
@pytest.mark.parametrize(("n", "more"), [(16, 8), (16, 16), (30, 14), (100, 20)])
def test_the_gain_and_its_interval_against_what_came(scores: str, least: float, most: float, n: int, more: int) -> None:
    """The gain is right within a factor, and its upper end holds in 95 of 100 studies, for lighter tails in more."""
    generator, studies = np.random.default_rng(n + more), 2000
    seen, to_come = SCORES[scores](generator, (studies, n)), SCORES[scores](generator, (studies, more))
    gained = np.maximum(0.0, to_come.max(axis=1) - seen.max(axis=1))
    told = np.array([look_back(of_one, more) for of_one in seen])
    unit = highest_gain(seen[0], more) / tail_scale(seen[0])
    high = np.array([unit * tail_scale(of_one) for of_one in seen])
    assert high[:5] == pytest.approx([highest_gain(of_one, more) for of_one in seen[:5]])
    assert least < told[:, 1].mean() / gained.mean() < most
    error = math.sqrt(0.25 / studies)
    assert np.mean(gained > 0) == pytest.approx(told[:, 0].mean(), abs=4 * error)
    covered = np.mean(gained <= high)
    assert covered > 0.95 - 4 * math.sqrt(0.95 * 0.05 / studies)
    if scores == "exponential":
        assert covered < 0.95 + 4 * math.sqrt(0.95 * 0.05 / studies)


def test_another_hour_at_the_pace_of_the_search() -> None:
    """41 trials of 5 minutes, two at once, and a night in between: 24 an hour."""
    scores = np.random.default_rng(0).normal(0.8, 0.01, 41)
    starts = [number // 2 * 300.0 + (40_000.0 if number >= 20 else 0.0) for number in range(41)]
    seen = told_view(complete(*scores), seconds=300.0, starts=starts)
    outlook = another_hour(seen, finals([0.80, 0.81, 0.82], [0.7, 0.7, 0.7]))
    assert outlook is not None
    assert outlook.trials == round(HOUR * 41 / (21 * 300))
    assert outlook.seconds == HOUR
    assert outlook.chance == pytest.approx(outlook.trials / (40 + outlook.trials))
    assert outlook.gain == pytest.approx(look_back(scores[1:], outlook.trials)[1])
    assert outlook.high == pytest.approx(highest_gain(scores[1:], outlook.trials))
    assert outlook.last == round(40 - 1600 / 63)
    assert outlook.brought == pytest.approx(max(scores[1:]) - max(scores[1 : 41 - outlook.last]))
    assert outlook.seed_spread == pytest.approx(math.sqrt(0.0002 / 4))
    assert outlook.sentence == (
        f"Another hour (about 23 more trials) would bring {100 * outlook.gain:.1f} points more validation accuracy on "
        f"average (95 % interval 0 to {100 * outlook.high:.1f}), and a new best with a chance of 37%, were its "
        f"trials like those so far. The last 15 brought {100 * outlook.brought:.1f} points. Seeds alone move a score "
        "by 0.7 points (standard deviation)."
    )


def test_nobody_looks_further_ahead_than_the_search_was_long() -> None:
    scores = np.random.default_rng(0).normal(0.8, 0.01, 21)
    outlook = another_hour(told_view(complete(*scores), seconds=30.0))
    assert outlook is not None
    assert outlook.trials == 20
    assert outlook.seconds == pytest.approx(600.0)
    assert outlook.chance == pytest.approx(0.5)
    assert outlook.sentence.startswith(
        "An hour is further than these trials can tell; as many again (20, in about 10 minutes) would bring "
    )
    slow = another_hour(told_view(complete(*scores), seconds=7200.0))
    assert slow is not None
    assert slow.trials == 1
    assert slow.seconds == pytest.approx(7200.0)
    assert slow.sentence.startswith("One more trial (about 2.0 hours) would bring ")


def test_another_hour_of_a_loss() -> None:
    scores = np.random.default_rng(0).normal(0.5, 0.05, 21)
    up = another_hour(told_view(complete(*scores), seconds=600.0))
    down = another_hour(told_view(complete(*(1 - scores)), direction="minimize", seconds=600.0))
    assert up is not None
    assert down is not None
    assert down.gain == pytest.approx(up.gain)
    assert down.high == pytest.approx(up.high)
    assert f"would bring {down.gain:.2g} less validation loss on average" in down.sentence


def test_a_default_that_nothing_beats() -> None:
    scores = np.random.default_rng(0).normal(0.8, 0.01, 20)
    outlook = another_hour(told_view(complete(0.95, *scores), seconds=600.0))
    assert outlook is not None
    assert (outlook.gain, outlook.chance, outlook.high) == (0.0, 0.0, 0.0)
    assert outlook.sentence == (
        "Another hour (about 6 more trials) may bring a new best or not: no trial drawn so far beats the untuned "
        "default, so they cannot tell how likely the next ones would (95 % interval of the gain: 0 to 0.0 points)."
    )
    lower = another_hour(told_view(complete(0.5, *scores), seconds=600.0))
    assert lower is not None
    assert lower.gain > 0


def test_a_default_that_the_next_trials_may_well_beat() -> None:
    """The drawn ones differ, and get close to it."""
    outlook = another_hour(told_view(complete(0.85, 0.70, 0.74, 0.78, 0.80, 0.82, 0.79), seconds=600.0))
    assert outlook is not None
    assert outlook.gain == 0 and outlook.high > 0.01
    assert "better than another" not in outlook.sentence
    assert f"0 to {100 * outlook.high:.1f} points)." in outlook.sentence


@pytest.mark.parametrize("default", [0.8, 0.9])
def test_trials_of_which_none_is_better_than_another(default: float) -> None:
    outlook = another_hour(told_view(complete(default, *[0.8] * 6), seconds=600.0))
    assert outlook is not None
    assert outlook.sentence.endswith("would likely bring nothing: no trial drawn so far has been better than another.")


def test_no_gain_beyond_a_perfect_score() -> None:
    outlook = another_hour(told_view(complete(0.5, 0.5, 0.6, 0.7, 0.8, 0.99), seconds=1200.0))
    assert outlook is not None
    assert outlook.high == pytest.approx(0.01)


def test_no_gain_on_average_beyond_a_perfect_score_either() -> None:
    """The trials before a perfect one were far below it: looking back tells of a gain that no room is left for."""
    seen = told_view(complete(0.1, 0.1, 0.0, 0.9565, 0.0), seconds=1.0, starts=[float(at) for at in range(5)])
    outlook = another_hour(seen, None)
    assert outlook and outlook.gain == outlook.high == pytest.approx(1 - 0.9565)


def test_few_trials_have_no_outlook() -> None:
    assert another_hour(told_view(complete(0.5, 0.6, 0.7, 0.8))) is None
    assert another_hour(told_view([])) is None
    assert another_hour(told_view([("FAIL", None)] * 6)) is None


def test_the_spread_over_seeds() -> None:
    """Deviations of 1 and 2 points around each mean: (2 * 1 + 2 * 4) / (1 + 1) squared points."""
    assert seed_spread(finals([0.81, 0.79], [0.72, 0.68])) == pytest.approx(math.sqrt(5) / 100)
    assert seed_spread(finals([0.8], [0.7])) is None
    assert seed_spread(None) is None
