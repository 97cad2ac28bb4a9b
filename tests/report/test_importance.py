import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import create_trial

from hpo.report import figures
from hpo.report.charts import parameters
from hpo.report.importance import importances, unseen, unseen_sentence
from hpo.report.page import render
from hpo.report.tables import View, view_of
from views import SPACE, random_view, rate


def shares(seen: View) -> dict[str, float]:
    found = importances(seen)
    assert found is not None
    return {one.name: one.share for one in found}


def test_shares_come_near_the_known_ones() -> None:
    """Uniform ones of the weights 4 and 2 explain variances as 16 to 4; the rest does nothing."""
    seen = random_view(150, lambda p: 4 * rate(p) + 20 * p["weight_decay"])
    found = importances(seen)
    assert found is not None
    assert sum(one.share for one in found) == pytest.approx(1.0)
    assert [one.name for one in found][:2] == ["learning_rate", "weight_decay"]
    assert shares(seen)["learning_rate"] == pytest.approx(0.8, abs=0.06)
    assert shares(seen)["weight_decay"] == pytest.approx(0.2, abs=0.06)
    assert all(one.low <= one.share <= one.high for one in found[:2])
    assert found[0].p_value == found[1].p_value == 0.05


def test_of_ranges_that_are_not_logarithmic_the_shares_are_those_of_optuna() -> None:
    space = {name: {"low": 0.0, "high": 0.5} for name in ("weight_decay", "dropout", "warmup_ratio")}
    seen = random_view(40, lambda p: p["weight_decay"] + p["dropout"] ** 2, space=space, training={"dropout": 0.1})
    study = optuna.create_study(direction=seen.direction)
    study.add_trials(seen.trials)
    peer = FanovaImportanceEvaluator(n_trees=32, seed=0).evaluate(study)
    total = sum(peer.values())
    assert shares(seen) == pytest.approx({name: value / total for name, value in peer.items()}, abs=0.05)


def test_pruned_trials_count() -> None:
    """Where all bad values were pruned, the complete ones do not tell that the parameter decides."""
    seen = random_view(60, lambda p: -10.0 if p["optimizer"] == "sgd" else 0.1 * rate(p), noise=0.01)
    assert set(seen.complete["params.optimizer"]) == {"adamw"}
    assert shares(seen)["optimizer"] > 0.9


def test_a_choice_of_none_and_a_conditional_parameter_can_decide() -> None:
    off = random_view(80, lambda p: float(p["max_grad_norm"] is None))
    assert shares(off)["max_grad_norm"] > 0.9
    momentum = random_view(80, lambda p: p.get("momentum", 0.725))
    assert shares(momentum)["momentum"] > 0.9


def test_few_trials_or_equal_scores_tell_nothing() -> None:
    assert importances(random_view(3, rate)) is None
    assert importances(random_view(4, rate)) is not None
    assert importances(random_view(30, lambda p: 0.5)) is None
    assert importances(random_view(0, rate)) is None


def test_the_same_trials_give_the_same_shares() -> None:
    assert importances(random_view(20, rate)) == importances(random_view(20, rate))


def test_a_thousand_trials_take_two_seconds() -> None:
    seen = random_view(1000, rate, noise=0.1)
    start = time.process_time()
    importances(seen)
    assert time.process_time() - start < 4  # 2 on a quiet machine


def test_what_did_nothing_is_named_and_what_decides_is_not() -> None:
    """Over 6 studies: of the three that do nothing two in three are named, of the one that decides none."""
    named: list[str] = []
    for seed in range(6):
        seen = random_view(40, rate, noise=0.15, seed=seed)
        named += unseen(seen, importances(seen))
    assert "learning_rate" not in named
    assert len(named) > 6 * 4 * 0.4


def test_the_sentence_about_what_did_nothing() -> None:
    seen = random_view(40, rate)
    found = importances(seen)
    sentence, names = unseen_sentence(seen, found), unseen(seen, found)
    assert sentence is not None
    assert all(name in sentence for name in names)
    assert "over 40 trials" in sentence
    assert "no more of the score than is often seen when" in sentence  # the test's level is 0.3, not 1
    few = random_view(29, rate)
    assert unseen(few, importances(few)) == ()
    assert unseen_sentence(few, None) is None


def test_of_few_trials_it_is_said_that_they_cannot_tell() -> None:
    """Silence would say that all parameters mattered."""
    told = "Which parameters did nothing cannot be told from 29 trials; it takes 30."
    few = random_view(29, rate)
    assert unseen_sentence(few, importances(few)) == told
    page = render(few, Path("mlruns/films"), set())
    assert told in page[page.index("## What mattered") : page.index("## Trials")]
    for n in (3, 30):  # no importances, and enough
        seen = random_view(n, rate)
        assert "cannot be told from" not in render(seen, Path("mlruns/films"), set())


def test_the_number_of_trials_told_is_that_of_those_looked_at() -> None:
    seen = random_view(
        200, rate, space={"learning_rate": SPACE["learning_rate"], "weight_decay": SPACE["weight_decay"]}
    )
    bars, drawn = parameters.importance(seen), figures.importance(seen)
    assert bars and drawn
    for title in (bars.title, drawn.axes[0].get_title(loc="left")):
        assert title.endswith("over 150 of 200 trials")
    found = importances(seen)
    assert found
    unlikely = [replace(one, p_value=1.0) for one in found]
    sentence = unseen_sentence(seen, unlikely)
    assert sentence and "over 150 of 200 trials each explains" in sentence


def _distributions(values: Sequence[float], kind: BaseDistribution) -> View:
    study = optuna.create_study(direction="maximize")
    for value in values:
        study.add_trial(create_trial(value=value, params={"x": value}, distributions={"x": kind}))
    return view_of(study)


def test_kinds_of_other_tools() -> None:
    assert shares(_distributions([1, 2, 3, 4, 5], IntDistribution(1, 9))) == {"x": 1.0}
    assert importances(_distributions([1.0] * 5, FloatDistribution(1.0, 1.0))) is None
    assert shares(_distributions([1, 2, 1, 2], CategoricalDistribution([1, 2]))) == {"x": 1.0}
