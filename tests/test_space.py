"""The declared space as distributions, points drawn from it, and what they settle."""

from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FixedTrial

from conftest import StudyMaker
from hpo.search_spec import ChoiceParameter, Parameter, RangeParameter
from hpo.space import default_params, distribution, grid, suggest, trial_config
from hpo.spec import StudySpec
from hpo.study_file import parse_study
from hpo.training_spec import TrainingSpec

CONDITIONAL: dict[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
    "optimizer": {"choices": ["adamw", "sgd"]},
    "momentum": {"low": 0.0, "high": 0.95, "when": {"optimizer": ["sgd"]}},
    "adam_beta2": {"low": 0.9, "high": 0.9999, "when": {"optimizer": ["adamw"]}},
    "max_grad_norm": {"choices": [None, 0.5, 1.0]},
}


@pytest.fixture
def conditional(raw_study: StudyMaker) -> StudySpec:
    return parse_study(raw_study(search_space=CONDITIONAL), "tiny.yaml")


@pytest.mark.parametrize(
    ("name", "parameter", "expected"),
    [
        ("learning_rate", RangeParameter(low=1e-5, high=1e-2, log=True), FloatDistribution(1e-5, 1e-2, log=True)),
        ("weight_decay", RangeParameter(low=0, high=1), FloatDistribution(0.0, 1.0)),
        ("dropout", RangeParameter(low=0.0, high=0.3, step=0.1), FloatDistribution(0.0, 0.3, step=0.1)),
        ("num_train_epochs", RangeParameter(low=1, high=5, step=2), FloatDistribution(1.0, 5.0, step=2.0)),
        ("train_batch_size", RangeParameter(low=8, high=64), IntDistribution(8, 64)),
        ("train_batch_size", RangeParameter(low=8, high=64, step=8), IntDistribution(8, 64, step=8)),
        ("max_length", RangeParameter(low=16, high=512, log=True), IntDistribution(16, 512, log=True)),
        ("max_grad_norm", ChoiceParameter(choices=[None, 0.5]), CategoricalDistribution([None, 0.5])),
        ("train_batch_size", ChoiceParameter(choices=[16, 32]), CategoricalDistribution([16, 32])),
        ("optimizer", ChoiceParameter(choices=["adamw", "sgd"]), CategoricalDistribution(["adamw", "sgd"])),
    ],
)
def test_each_kind_has_its_distribution(name: str, parameter: Parameter, expected: BaseDistribution) -> None:
    found = distribution(name, parameter)
    assert found == expected
    assert type(found) is type(expected)


def test_whole_bounds_of_a_float_are_drawn_as_floats() -> None:
    found = distribution("weight_decay", RangeParameter(low=0, high=1))
    assert isinstance(found, FloatDistribution)
    assert (type(found.low), type(found.high)) == (float, float)


@pytest.mark.parametrize(
    "point",
    [
        {"learning_rate": 1e-3, "optimizer": "adamw", "adam_beta2": 0.95, "max_grad_norm": None},
        {"learning_rate": 1e-4, "optimizer": "sgd", "momentum": 0.5, "max_grad_norm": 0.5},
    ],
)
def test_what_is_not_active_is_not_drawn(conditional: StudySpec, point: dict[str, Any]) -> None:
    others = {"momentum": 0.1, "adam_beta2": 0.99}
    drawn = suggest(FixedTrial(others | point), conditional)  # type: ignore[arg-type]
    assert drawn == point
    assert list(drawn) == [name for name in CONDITIONAL if name in point]


def test_real_trials_draw_only_what_is_active(conditional: StudySpec) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen: set[Any] = set()
    for _ in range(20):
        trial = study.ask()
        drawn = suggest(trial, conditional)
        assert trial.params == drawn
        assert ("momentum" in drawn) == (drawn["optimizer"] == "sgd") == ("adam_beta2" not in drawn)
        seen |= {drawn["optimizer"], drawn["max_grad_norm"]}
    assert seen == {"adamw", "sgd", None, 0.5, 1.0}


def test_what_hangs_on_something_not_active_is_not_active(raw_study: StudyMaker) -> None:
    space = {
        "optimizer": {"choices": ["adamw", "sgd"]},
        "lr_scheduler_type": {"choices": ["linear", "cosine"], "when": {"optimizer": ["sgd"]}},
        "warmup_ratio": {"low": 0.0, "high": 0.5, "when": {"lr_scheduler_type": ["linear"]}},
    }
    spec = parse_study(raw_study(search_space=space), "tiny.yaml")
    point = {"optimizer": "adamw", "lr_scheduler_type": "linear", "warmup_ratio": 0.1}
    assert suggest(FixedTrial(point), spec) == {"optimizer": "adamw"}  # type: ignore[arg-type]
    assert suggest(FixedTrial(point | {"optimizer": "sgd"}), spec) == point | {"optimizer": "sgd"}  # type: ignore[arg-type]
    assert default_params(spec) == {"optimizer": "adamw"}


def test_the_default_is_what_training_says(conditional: StudySpec) -> None:
    assert default_params(conditional) == {
        "learning_rate": 1e-3,
        "optimizer": "adamw",
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
    }


def test_the_default_names_the_model_if_that_is_searched(raw_study: StudyMaker) -> None:
    model = raw_study()["model"]["name"]
    spec = parse_study(raw_study(search_space={"model.name": {"choices": ["other", model]}}), "tiny.yaml")
    assert default_params(spec) == {"model.name": model}


def test_a_configuration_carries_what_was_drawn_over_the_defaults(raw_study: StudyMaker) -> None:
    model = raw_study()["model"]["name"]
    space = CONDITIONAL | {"model.name": {"choices": ["other", model]}}
    spec = parse_study(raw_study(search_space=space, seed=5, model={"name": model, "revision": "r"}), "tiny.yaml")
    config = trial_config(spec, {"learning_rate": 1e-2, "max_grad_norm": None, "model.name": "other"}, seed=77)
    assert config.training == TrainingSpec.model_validate(
        spec.training.model_dump() | {"learning_rate": 1e-2, "max_grad_norm": None}
    )
    assert (config.model.name, config.model.revision) == ("other", "r")
    assert (config.seed, config.data_seed) == (77, 5)
    assert (config.data, config.metric, config.task) == (spec.data, spec.metric, spec.task)
    assert spec.model.name == model  # nothing changed underneath


def test_a_configuration_of_nothing_drawn_is_the_default(spec: StudySpec) -> None:
    config = trial_config(spec, {}, seed=0)
    assert (config.training, config.model) == (spec.training, spec.model)


@pytest.mark.parametrize("name", ["learning_rate", "train_batch_size", "max_grad_norm", "dropout"])
def test_the_whole_configuration_of_a_drawn_point_is_valid(raw_study: StudyMaker, name: str) -> None:
    """Also where a whole number was drawn for a float, as `choices: [1, 2]` would."""
    value: Any = {"learning_rate": 1, "train_batch_size": 8, "max_grad_norm": 5, "dropout": 0}[name]
    spec = parse_study(raw_study(), "tiny.yaml")
    assert getattr(trial_config(spec, {name: value}, seed=0).training, name) == value


def test_the_grid_by_hand(raw_study: StudyMaker) -> None:
    space = {
        "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
        "train_batch_size": {"low": 14, "high": 16},
        "max_grad_norm": {"choices": [None, 1.0]},
    }
    spec = parse_study(raw_study(search_space=space, sampler={"name": "grid"}), "tiny.yaml")
    found = grid(spec)
    assert found.pop("dropout") == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert found == {"train_batch_size": [14, 15, 16], "max_grad_norm": [None, 1.0]}


def test_a_setting_with_several_ranges_takes_the_one_that_was_drawn(raw_study: StudyMaker) -> None:
    space = {
        "optimizer": {"choices": ["adamw", "sgd"]},
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True, "when": {"optimizer": ["adamw"]}},
        "learning_rate@sgd": {"low": 0.1, "high": 1.0, "when": {"optimizer": ["sgd"]}},
        "train_batch_size@a": {"low": 8, "high": 16, "when": {"optimizer": ["adamw"]}},
    }
    spec = parse_study(raw_study(search_space=space), "tiny.yaml")
    assert default_params(spec) == {"optimizer": "adamw", "learning_rate": 1e-3, "train_batch_size@a": 16}
    drawn: Any = FixedTrial({"optimizer": "sgd", "learning_rate@sgd": 0.5})
    params = suggest(drawn, spec)
    assert params == {"optimizer": "sgd", "learning_rate@sgd": 0.5}
    training = trial_config(spec, params, seed=0).training
    assert (training.optimizer, training.learning_rate, training.train_batch_size) == ("sgd", 0.5, 16)
    assert isinstance(distribution("train_batch_size@a", spec.search_space["train_batch_size@a"]), IntDistribution)
