from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from optuna.distributions import IntDistribution

from hpo.report.ranges import _in_outer, favourites, pressed_edges
from hpo.report.tables import view_of
from views import random_view, rate, spec_of


@pytest.mark.parametrize(
    ("name", "declared", "training", "up", "expected"),
    [
        ("learning_rate", {"low": 1e-5, "high": 1e-3, "log": True}, {}, True, {"low": 5e-5, "high": 0.01, "log": True}),
        (
            "learning_rate",
            {"low": 1e-5, "high": 1e-3, "log": True},
            {},
            False,
            {"low": 1e-6, "high": 1e-4, "log": True},
        ),
        ("weight_decay", {"low": 0.0, "high": 0.1}, {"weight_decay": 0.05}, True, {"low": 0.05, "high": 0.15}),
        ("weight_decay", {"low": 0.0, "high": 0.1}, {}, False, None),
        ("warmup_ratio", {"low": 0.0, "high": 0.9}, {"warmup_ratio": 0.5}, True, {"low": 0.45, "high": 0.95}),
        ("num_train_epochs", {"low": 1.0, "high": 4.0}, {}, False, {"low": 0.5, "high": 3.0}),
        (
            "dropout",
            {"low": 0.0, "high": 0.5, "step": 0.05},
            {"dropout": 0.1},
            True,
            {"low": 0.1, "high": 0.75, "step": 0.05},
        ),
        ("train_batch_size", {"low": 8, "high": 40}, {}, True, {"low": 24, "high": 56}),
        ("train_batch_size", {"low": 8, "high": 40}, {}, False, {"low": 1, "high": 32}),
        ("max_length", {"low": 16, "high": 256, "log": True}, {}, True, {"low": 64, "high": 1024, "log": True}),
    ],
)
def test_a_range_that_the_best_press_against(
    name: str, declared: Any, training: Any, up: bool, expected: dict[str, Any] | None
) -> None:
    seen = random_view(160, lambda p: p[name] if up else -p[name] / 1e3, space={name: declared}, training=training)
    (edge,) = pressed_edges(seen)
    assert (edge.name, edge.side, edge.bound) == (name, "high" if up else "low", declared["high" if up else "low"])
    if expected is None:
        assert edge.suggestion is None
        assert "allows nothing beyond" in edge.sentence
        return
    assert edge.suggestion is not None
    moved = yaml.safe_load(edge.suggestion.replace("e-0", ".0e-0"))
    assert moved[name] == pytest.approx(expected)
    spec_of(moved, training)


def test_no_end_is_named_where_the_best_lie_inside_or_anywhere() -> None:
    inside = random_view(80, lambda p: -abs(rate(p) - 0.5))
    assert "learning_rate" not in [edge.name for edge in pressed_edges(inside)]
    generator = np.random.default_rng(0)
    named = sum(len(pressed_edges(random_view(40, lambda p: generator.random(), seed=seed))) for seed in range(40))
    assert named <= 3
    assert pressed_edges(random_view(0, rate)) == ()


@pytest.mark.parametrize("side", ["low", "high"])
@pytest.mark.parametrize(("low", "high"), [(1, 8), (2, 5), (16, 256)])
def test_the_chance_of_a_logarithmic_integers_ends_is_that_of_optunas_draws(low: int, high: int, side: str) -> None:
    kind = IntDistribution(low, high, log=True)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [study.ask({"x": kind}).params["x"] for _ in range(1500)]
    inside, chance = _in_outer(kind, drawn, side)
    assert inside / 1500 == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 1500) ** 0.5)
    assert 0 < inside < 1500


def test_a_logarithmic_integer_that_does_nothing_has_no_end_named() -> None:
    generator, kind, named = np.random.default_rng(0), IntDistribution(1, 8, log=True), 0
    for seed in range(40):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed), direction="maximize")
        for _ in range(24):
            study.tell(study.ask({"n_layers": kind}), generator.random())
        named += len(pressed_edges(view_of(study)))
    assert named <= 2


def test_a_conditional_range_keeps_its_condition() -> None:
    seen = random_view(300, lambda p: p.get("momentum", 0.0))
    (edge,) = [edge for edge in pressed_edges(seen) if edge.name == "momentum"]
    assert edge.suggestion == 'momentum: {low: 0.72, high: 0.97, when: {optimizer: ["sgd"]}}'


def test_another_tools_study_gets_no_line_of_a_study_file() -> None:
    seen = random_view(80, rate, spec=False)
    (edge,) = [edge for edge in pressed_edges(seen) if edge.name == "learning_rate"]
    assert edge.suggestion is None
    assert edge.sentence.endswith("at 0.001.")


def test_the_choice_that_all_the_best_made() -> None:
    seen = random_view(80, lambda p: float(p["max_grad_norm"] is None) + 0.1 * rate(p))
    (found,) = favourites(seen)
    assert (found.name, found.choice, found.best) == ("max_grad_norm", None, 20)
    assert "`max_grad_norm: null`" in found.sentence
    assert favourites(random_view(80, rate)) == ()
    assert favourites(random_view(0, rate)) == ()
