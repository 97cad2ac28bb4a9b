"""Settings that together would do nothing or tell nothing, by the study files that they stand in."""

from typing import Any

import pytest

from hpo.errors import Problem
from hpo.space_checks import search_space_problems

RATE: dict[str, Any] = {"learning_rate": {"low": 1e-5, "high": 1e-2}}


def problems(space: Any, training: dict[str, Any] | None = None, **sections: Any) -> list[Problem]:
    return search_space_problems({"model": {"name": "m"}, "training": training or {}, "search_space": space} | sections)


SHARES = {"train_fraction": {"choices": [0.25, 0.5, 1.0]}}
EVENLY = {"sampler": {"name": "random"}, "pruner": {"name": "none"}}


def of_study(**raw: Any) -> list[tuple[str, str, str]]:
    return [(found.path, found.rule, found.way_out) for found in search_space_problems(raw)]


def test_a_study_of_more_data() -> None:
    assert of_study(search_space=SHARES, training={}, **EVENLY) == []


@pytest.mark.parametrize(
    ("changed", "rule", "way_out"),
    [
        ({"pruner": {"name": "median"}}, "a pruner would stop the trials with few rows", "Set `pruner: {name: none}`."),
        ({"pruner": None}, "a pruner would stop the trials with few rows", "Set `pruner: {name: none}`."),
        ({"sampler": {"name": "tpe"}}, "the sampler tpe goes where the score is best", "Set `sampler: {name: random}`"),
        ({"search_space": {"train_fraction": {"low": 0.1, "high": 1.0}}}, "but got a range", "Give it `choices`."),
        ({"training": {"train_fraction": 0.5}}, "the untuned default learns from all rows", "Remove it"),
        (
            {"search_space": {"train_fraction@a": {"choices": [0.5, 1.0]}}},
            "only a setting that no other one builds on",
            "Search `train_fraction`",
        ),
        ({"search_space": {"train_fraction": {"choices": [1.5, 1.0]}}}, "less than or equal to 1", "Change it."),
    ],
)
def test_a_study_of_more_data_that_would_not_tell(changed: dict[str, Any], rule: str, way_out: str) -> None:
    ((_, found, out),) = of_study(**{"search_space": SHARES, "training": {}} | EVENLY | changed)
    assert rule in found and out.startswith(way_out)


@pytest.mark.parametrize(
    ("training", "path", "rule"),
    [
        ({"lora_rank": 16}, "training.lora_rank", "only method=lora has it, but got method=full"),
        ({"momentum": 0.3}, "training.momentum", "only optimizer=sgd or muon has it, but got optimizer=adamw"),
        ({"augment_probability": 0.4}, "training.augment_probability", "but got augment_method=none"),
    ],
)
def test_what_is_set_for_nothing(training: dict[str, Any], path: str, rule: str) -> None:
    (found,) = problems(RATE, training)
    assert found.path == path and rule in found.rule and found.way_out.endswith("or remove it.")
    assert problems(RATE, training | {"method": "lora", "optimizer": "muon", "augment_method": "swap"}) == []


def test_what_is_set_for_some_trials() -> None:
    space = RATE | {"method": {"choices": ["full", "lora"]}}
    assert problems(space, {"lora_rank": 16}) == [] and problems(RATE, {"lora_rank": 8, "momentum": 0.9}) == []


@pytest.mark.parametrize(
    ("space", "training", "path"),
    [
        ({"label_smoothing": {"low": 0.0, "high": 0.3}}, {}, "search_space.label_smoothing"),
        ({"class_weights": {"choices": [None, "balanced"]}}, {}, "search_space.class_weights"),
        (RATE, {"label_smoothing": 0.1}, "training.label_smoothing"),
        (RATE, {"class_weights": "balanced"}, "training.class_weights"),
    ],
)
def test_settings_of_classes_are_not_for_numbers(space: dict[str, Any], training: dict[str, Any], path: str) -> None:
    (found,) = problems(space, training, task="regression")
    assert found.path == path and "is of classes, but regression has numbers" in found.rule
    assert problems(space, training) == []


R_DROP = {"r_drop_alpha": {"low": 0.0, "high": 1.0}}


def test_adapters_have_a_dropout_of_their_own_that_r_drop_compares() -> None:
    (found,) = problems(R_DROP, {"dropout": 0.0, "method": "lora"})
    assert "but got dropout=0" in found.rule
    assert problems(R_DROP, {"dropout": 0.0, "method": "lora", "lora_dropout": 0.1}) == []


def test_r_drop_and_mixup_that_never_meet() -> None:
    space = {"augment_method": {"choices": ["none", "mixup"]}}
    apart = space | {"r_drop_alpha": R_DROP["r_drop_alpha"] | {"when": {"augment_method": ["none"]}}}
    assert problems(apart) == []
    (found,) = problems(space | R_DROP)
    assert "mixup mixes them anew" in found.rule
    (found,) = problems(apart, {"r_drop_alpha": 0.5})
    assert "mixup mixes them anew" in found.rule


PROBABILITY = {"low": 0.05, "high": 0.5}
METHODS_AND_NONE = {"choices": ["none", "swap"]}


@pytest.mark.parametrize(
    ("space", "training", "rule", "way_out"),
    [
        ({"augment_probability": PROBABILITY}, {}, "but got augment_method=none", "Set `training.augment_method`."),
        (
            {"augment_method": METHODS_AND_NONE, "augment_probability": PROBABILITY},
            {},
            "it is searched beside others too",
            "Add `when: {augment_method: [deletion, swap",
        ),
        (
            {"augment_probability": {"low": 0.05, "high": 1.0}},
            {"augment_method": "swap"},
            "high must be less than 1, but got 1.0",
            "Change it.",
        ),
        (
            {"augment_method": {"choices": ["none", "mixup"]}},
            {"r_drop_alpha": 1.0},
            "augment_method mixup mixes them anew",
            "Remove one of them",
        ),
    ],
)
def test_augmentation(space: dict[str, Any], training: dict[str, Any], rule: str, way_out: str) -> None:
    ((_, found, out),) = of_study(search_space=space, training=training)
    assert rule in found and out.startswith(way_out)


def test_the_probability_beside_the_methods_that_have_it() -> None:
    space = {
        "augment_method": METHODS_AND_NONE,
        "augment_probability": {**PROBABILITY, "when": {"augment_method": ["swap"]}},
    }
    assert of_study(search_space=space, training={}) == []


METHOD = {"method": {"choices": ["full", "head_only", "last_layers", "lora"]}}
TEACHERS = {"teachers": ["mlruns/teacher/model"]}
SOME_ALPHA = {"distillation_alpha": {"low": 0.0, "high": 1.0}}
TEMPERATURES = {"distillation_temperature": {"low": 1.0, "high": 8.0}}


@pytest.mark.parametrize(
    ("space", "training"),
    [
        (SOME_ALPHA | TEMPERATURES, {}),
        (TEMPERATURES, {"distillation_alpha": 0.5}),
        ({"learning_rate": {"low": 1e-5, "high": 1e-2}}, {"distillation_alpha": 1.0}),
        (SOME_ALPHA | {"model.num_hidden_layers": {"choices": [None, 1, 2]}}, {}),
    ],
)
def test_distillation_with_teachers(space: dict[str, Any], training: dict[str, Any]) -> None:
    assert problems(space, training, **TEACHERS) == []


@pytest.mark.parametrize(
    ("space", "training", "sections", "path", "rule", "way_out"),
    [
        (SOME_ALPHA, {}, {}, "search_space.distillation_alpha", "learns from `teachers`", "Name their model folders"),
        (
            METHOD,
            {"distillation_alpha": 0.5},
            {},
            "training.distillation_alpha",
            "has none",
            "Name their model folders",
        ),
        (METHOD, {}, TEACHERS, "teachers", "nothing is learned from them", "Set `training.distillation_alpha`"),
        (TEMPERATURES, {}, {}, "search_space.distillation_temperature", "does nothing", "Set `training."),
        (
            METHOD,
            {},
            {"data": {"unlabelled": "./texts.csv"}},
            "data.unlabelled",
            "nobody but `teachers` says",
            "Name their model folders, or remove it.",
        ),
        (
            SOME_ALPHA | TEMPERATURES,
            {},
            TEACHERS | {"task": "regression"},
            "search_space.distillation_temperature",
            "regression has numbers",
            "Remove it.",
        ),
    ],
)
def test_distillation_that_would_do_nothing(
    space: dict[str, Any], training: dict[str, Any], sections: dict[str, Any], path: str, rule: str, way_out: str
) -> None:
    (problem,) = problems(space, training, **sections)
    assert problem.path == path and rule in problem.rule and problem.way_out.startswith(way_out)
