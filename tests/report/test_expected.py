import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from hpo.report.expected import (
    HOUR,
    another_hour,
    expected_best,
    expected_best_at_random,
    expected_best_of,
    expected_maximum,
    highest_gain,
    look_back,
    seed_spread,
)
from hpo.report.tables import View, view_of
from hpo.results import Finalist, Finals
from hpo.spec import StudySpec

SETTINGS: dict[str, Any] = {
    "name": "films",
    "data": {"train": "films.csv"},
    "model": {"name": "tiny"},
    "search_space": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}},
}
START = datetime(2026, 1, 1)
Trial = tuple[str, float | None]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Any]
SCORES: dict[str, Draw] = {
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "skewed": lambda generator, shape: generator.beta(5, 2, shape),
    "exponential": lambda generator, shape: generator.exponential(size=shape),
}


def view(
    trials: Sequence[Trial],
    *,
    direction: Literal["minimize", "maximize"] = "maximize",
    seconds: float = 60.0,
    workers: int = 1,
    starts: Sequence[float] | None = None,
    attributes: dict[int, dict[str, Any]] | None = None,
    spec: bool = True,
    **settings: Any,
) -> View:
    """Trials of equal length, `workers` at a time, by state and score; of a spec's study the first is the default."""
    study = optuna.create_study(direction=direction)
    if spec:
        metric = "eval/accuracy" if direction == "maximize" else "eval/loss"
        given = StudySpec.model_validate(SETTINGS | {"metric": metric} | settings)
        study.set_user_attr("spec", given.model_dump(mode="json"))
    for number, (state, score) in enumerate(trials):
        start = START + timedelta(seconds=number // workers * seconds if starts is None else starts[number])
        study.add_trial(
            FrozenTrial(
                number=number,
                trial_id=number,
                state=TrialState[state],
                value=score if state == "COMPLETE" else None,
                datetime_start=start,
                datetime_complete=None if state == "RUNNING" else start + timedelta(seconds=seconds),
                params={"learning_rate": 1e-4},
                distributions={"learning_rate": FloatDistribution(1e-5, 1e-3, log=True)},
                user_attrs=(attributes or {}).get(number, {}),
                system_attrs={},
                intermediate_values={} if score is None else {1: score},
            )
        )
    return view_of(study)


def complete(*scores: float) -> list[Trial]:
    return [("COMPLETE", score) for score in scores]


def finals(*scores: list[float]) -> Finals:
    of_one: dict[str, Any] = {"is_default": False, "searched": 0.8, "mean": 0.8, "runs": []}
    finalists = [Finalist(trial=number, scores=given, **of_one) for number, given in enumerate(scores, start=1)]
    asked: dict[str, Any] = {"ended_trials": 9, "asked_trials": 3, "asked_seeds": 3}
    return Finals(**asked, seeds=[1, 2, 3], finalists=finalists, winner=1, exported=0)


def test_the_formula_by_hand() -> None:
    """Of two draws from 1, 2, 4, the largest is 1 in 1 of 9 cases, 2 in 3, and 4 in 5: (1 + 6 + 20) / 9 = 3.

    Of three it is 1 in 1 of 27, 2 in 7 and 4 in 19: 91 / 27. Of one it is the mean.
    """
    assert expected_maximum([4.0, 1.0, 2.0], [1, 2, 3]) == pytest.approx([7 / 3, 3.0, 91 / 27])
    curve = expected_best_of([2.0, 4.0, 1.0], [10.0, math.nan, 30.0])
    assert curve.mean == pytest.approx([7 / 3, 3.0, 91 / 27])
    assert curve.trials.tolist() == [1, 2, 3]
    assert curve.seconds is not None
    assert curve.seconds.tolist() == [20, 40, 60]


def test_the_formula_against_draws() -> None:
    scores = np.random.default_rng(1).beta(5, 2, 23)
    drawn = np.random.default_rng(2).choice(scores, size=(100_000, 7)).max(axis=1)
    error = drawn.std() / math.sqrt(len(drawn))
    assert expected_maximum(scores, [7])[0] == pytest.approx(drawn.mean(), abs=4 * error)


def test_of_a_score_to_minimize_the_curve_is_the_mirror_image() -> None:
    scores = np.random.default_rng(1).standard_normal(12)
    up, down = expected_best_of(scores), expected_best_of(-scores, maximize=False)
    assert down.mean == pytest.approx(-up.mean)
    assert down.low == pytest.approx(-up.high)
    assert down.high == pytest.approx(-up.low)
    assert np.all(np.diff(down.mean) < 0)


def test_a_curve_over_many_trials_has_few_points_and_ends_at_the_last() -> None:
    curve = expected_best_of(np.arange(1000.0))
    assert len(curve.trials) <= 100
    assert (curve.trials[0], curve.trials[-1], curve.draws) == (1, 1000, 1000)


@pytest.mark.parametrize(("scores", "at_least"), [("normal", 0.85), ("skewed", 0.85)])
def test_the_interval_of_the_curve_holds_the_truth(scores: str, at_least: float) -> None:
    """Of 30 trials; it undercovers somewhat (91 of 100), and the percentile bootstrap alone covers 40 to 50 at 30."""
    generator, studies = np.random.default_rng(3), 200
    at = [1, 5, 15, 30]
    truth = [SCORES[scores](generator, (20_000, n)).max(axis=1).mean() for n in at]
    hits = np.zeros(len(at))
    for _ in range(studies):
        curve = expected_best_of(SCORES[scores](generator, (30,)))
        places = np.array(at) - 1
        hits += (curve.low[places] <= truth) & (truth <= curve.high[places])
    assert np.all(hits / studies >= at_least), hits / studies


def test_the_interval_over_time_also_counts_that_trials_differ_in_length() -> None:
    generator = np.random.default_rng(0)
    scores = generator.standard_normal(30)
    equal, varied = expected_best_of(scores, np.full(30, 60.0)), expected_best_of(scores, generator.exponential(60, 30))
    for curve in (equal, varied):
        assert curve.low_by_time is not None
        assert curve.high_by_time is not None
        assert np.all(curve.low_by_time <= curve.high_by_time)
    assert equal.low_by_time == pytest.approx(equal.low)
    assert equal.high_by_time == pytest.approx(equal.high)
    assert varied.low_by_time is not None
    assert varied.low_by_time[4] < varied.low[4]
    assert expected_best_of(scores).seconds is None


def test_what_counts_as_a_draw() -> None:
    """Not the default, a failure, a running trial; once what was tried again; a diverged one as the worst."""
    trials: list[Trial] = [
        ("COMPLETE", 0.99),
        ("COMPLETE", 0.5),
        ("PRUNED", 0.3),
        ("PRUNED", 0.9),  # no better than the best complete one
        ("PRUNED", math.nan),
        ("FAIL", 0.95),
        ("COMPLETE", 0.7),
        ("RUNNING", 0.97),
    ]
    curve = expected_best(view(trials, attributes={6: {"retry_of": 5}}))
    assert curve is not None
    assert curve.draws == 5
    assert curve.mean == pytest.approx(expected_maximum([0.5, 0.3, 0.7, 0.3, 0.7], range(1, 6)))
    assert curve.high.max() <= 1.0
    assert curve.seconds is not None
    assert curve.seconds.tolist() == [60, 120, 180, 240, 300]


def test_the_first_trial_of_another_tools_study_is_a_draw() -> None:
    curve = expected_best(view(complete(0.9, 0.5, 0.6, 0.7), spec=False))
    assert curve is not None
    assert curve.draws == 4
    assert expected_best(view(complete(0.9, 0.5, 0.6, 0.7))) is None
    assert expected_best(view([("PRUNED", 0.5)] * 6)) is None
    assert expected_best(view([])) is None


def test_the_random_trials_are_those_that_started_before_the_startup_ended() -> None:
    """With two workers one more: trial 10 starts with trial 11 when 10 have ended, of which 9 are asked for."""
    trials = complete(*(0.5 + 0.01 * n for n in range(30)))
    startup: dict[str, Any] = {"sampler": {"name": "tpe", "n_startup_trials": 9}}
    one, two = (expected_best_at_random(view(trials, workers=workers, **startup)) for workers in (1, 2))
    assert one is not None
    assert two is not None
    assert (one.draws, two.draws) == (8, 9)
    assert one.mean[0] == pytest.approx(np.mean([0.5 + 0.01 * n for n in range(1, 9)]))


def test_pruned_trials_end_the_startup_of_tpe_only() -> None:
    trials: list[Trial] = [("COMPLETE", 0.5), *([("PRUNED", 0.4), ("COMPLETE", 0.6)] * 20)]
    drawn = {
        name: expected_best_at_random(view(trials, sampler={"name": name, "n_startup_trials": 9}))
        for name in ("tpe", "gp", "cmaes")
    }
    assert {name: curve and curve.draws for name, curve in drawn.items()} == {"tpe": 8, "gp": 16, "cmaes": 16}


def test_a_random_trial_that_was_tried_again_stays_random() -> None:
    trials: list[Trial] = [*complete(0.5), ("FAIL", None), *complete(*(0.6 + 0.01 * n for n in range(20)))]
    settings: dict[str, Any] = {"sampler": {"name": "tpe", "n_startup_trials": 9}}
    without, repeated = (
        expected_best_at_random(view(trials, attributes=attributes, **settings))
        for attributes in ({}, {21: {"retry_of": 1}})
    )
    assert without is not None
    assert repeated is not None
    assert repeated.draws == without.draws + 1


def test_all_of_a_random_search_is_random_and_too_few_are_no_curve() -> None:
    trials = complete(*(0.5 + 0.01 * n for n in range(12)))
    curve = expected_best_at_random(view(trials, sampler={"name": "random"}))
    assert curve is not None
    assert curve.draws == 11
    assert expected_best_at_random(view(trials[:8], sampler={"name": "random"})) is None
    assert expected_best_at_random(view(trials, sampler={"name": "qmc"})) is None
    assert expected_best_at_random(view(trials)) is None  # 5 startup trials


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


def tail_scale(scores: Any) -> float:
    """The mean excess of the best sqrt(n): what the upper end is a fixed multiple of."""
    k, ordered = max(3, round(math.sqrt(len(scores)))), np.sort(scores)
    return float(np.mean(ordered[-k:]) - ordered[-k - 1])


def test_another_hour_at_the_pace_of_the_search() -> None:
    """41 trials of 5 minutes, two at once, and a night in between: 24 an hour."""
    scores = np.random.default_rng(0).normal(0.8, 0.01, 41)
    starts = [number // 2 * 300.0 + (40_000.0 if number >= 20 else 0.0) for number in range(41)]
    seen = view(complete(*scores), seconds=300.0, starts=starts)
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
    outlook = another_hour(view(complete(*scores), seconds=30.0))
    assert outlook is not None
    assert outlook.trials == 20
    assert outlook.seconds == pytest.approx(600.0)
    assert outlook.chance == pytest.approx(0.5)
    assert outlook.sentence.startswith(
        "An hour is further than these trials can tell; as many again (20, in about 10 minutes) would bring "
    )
    slow = another_hour(view(complete(*scores), seconds=7200.0))
    assert slow is not None
    assert slow.trials == 1
    assert slow.seconds == pytest.approx(7200.0)
    assert slow.sentence.startswith("One more trial (about 2.0 hours) would bring ")


def test_another_hour_of_a_loss() -> None:
    scores = np.random.default_rng(0).normal(0.5, 0.05, 21)
    up = another_hour(view(complete(*scores), seconds=600.0))
    down = another_hour(view(complete(*(1 - scores)), direction="minimize", seconds=600.0))
    assert up is not None
    assert down is not None
    assert down.gain == pytest.approx(up.gain)
    assert down.high == pytest.approx(up.high)
    assert f"would bring {down.gain:.2g} less validation loss on average" in down.sentence


def test_a_default_that_nothing_beats() -> None:
    scores = np.random.default_rng(0).normal(0.8, 0.01, 20)
    outlook = another_hour(view(complete(0.95, *scores), seconds=600.0))
    assert outlook is not None
    assert (outlook.gain, outlook.chance, outlook.high) == (0.0, 0.0, 0.0)
    assert outlook.sentence == (
        "Another hour (about 6 more trials) may bring a new best or not: no trial drawn so far beats the untuned "
        "default, so they cannot tell how likely the next ones would (95 % interval of the gain: 0 to 0.0 points)."
    )
    lower = another_hour(view(complete(0.5, *scores), seconds=600.0))
    assert lower is not None
    assert lower.gain > 0


def test_a_default_that_the_next_trials_may_well_beat() -> None:
    """The drawn ones differ, and get close to it."""
    outlook = another_hour(view(complete(0.85, 0.70, 0.74, 0.78, 0.80, 0.82, 0.79), seconds=600.0))
    assert outlook is not None
    assert outlook.gain == 0 and outlook.high > 0.01
    assert "better than another" not in outlook.sentence
    assert f"0 to {100 * outlook.high:.1f} points)." in outlook.sentence


@pytest.mark.parametrize("default", [0.8, 0.9])
def test_trials_of_which_none_is_better_than_another(default: float) -> None:
    outlook = another_hour(view(complete(default, *[0.8] * 6), seconds=600.0))
    assert outlook is not None
    assert outlook.sentence.endswith("would likely bring nothing: no trial drawn so far has been better than another.")


def test_no_gain_beyond_a_perfect_score() -> None:
    outlook = another_hour(view(complete(0.5, 0.5, 0.6, 0.7, 0.8, 0.99), seconds=1200.0))
    assert outlook is not None
    assert outlook.high == pytest.approx(0.01)


def test_few_trials_have_no_outlook() -> None:
    assert another_hour(view(complete(0.5, 0.6, 0.7, 0.8))) is None
    assert another_hour(view([])) is None
    assert another_hour(view([("FAIL", None)] * 6)) is None


def test_the_spread_over_seeds() -> None:
    """Deviations of 1 and 2 points around each mean: (2 * 1 + 2 * 4) / (1 + 1) squared points."""
    assert seed_spread(finals([0.81, 0.79], [0.72, 0.68])) == pytest.approx(math.sqrt(5) / 100)
    assert seed_spread(finals([0.8], [0.7])) is None
    assert seed_spread(None) is None
