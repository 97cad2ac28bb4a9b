"""What a search space may declare, held against the settings that it searches."""

from typing import Any

import pytest

from hpo.errors import Problem
from hpo.search_spec import ChoiceParameter, Parameter, RangeParameter
from hpo.space_checks import SEARCHABLE, did_you_mean, grid_values, is_active, is_integer, search_space_problems

METHODS = {"choices": ["full", "head_only", "last_layers", "lora"]}
OPTIMIZERS = {"choices": ["adamw", "adam", "sgd", "adafactor", "muon"]}


def problems(space: Any, training: dict[str, Any] | None = None, **sections: Any) -> list[Problem]:
    return search_space_problems({"model": {"name": "m"}, "training": training or {}, "search_space": space} | sections)


@pytest.mark.parametrize(
    ("space", "training"),
    [
        ({"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}, {}),
        ({"learning_rate": {"low": 5e-5, "high": 1e-2}}, {}),  # the default is the lower bound
        ({"dropout": {"low": 0.0, "high": 0.3, "step": 0.1}}, {"dropout": 0.3}),  # 3 * 0.1 is not 0.3
        ({"dropout": {"choices": [None, 0.1]}}, {}),
        ({"max_grad_norm": {"choices": [None, 1]}}, {}),  # 1 is 1.0
        ({"train_batch_size": {"low": 8, "high": 64, "step": 8}}, {}),
        ({"train_batch_size": {"low": 1, "high": 2**40, "log": True}}, {}),
        ({"weight_decay": {"low": 0.0, "high": 1.0, "step": 1e-9}}, {}),
        ({"optimizer": OPTIMIZERS, "momentum": {"low": 0.0, "high": 0.99, "when": {"optimizer": ["sgd"]}}}, {}),
        ({"momentum": {"low": 0.5, "high": 0.99}}, {"optimizer": "sgd"}),
        ({"lora_rank": {"choices": [4, 8]}, "layer_lr_decay": {"low": 0.5, "high": 1.0}}, {"method": "lora"}),
        ({"method": METHODS, "num_trained_layers": {"low": 1, "high": 4, "when": {"method": ["last_layers"]}}}, {}),
        ({"optimizer": OPTIMIZERS, "adam_beta2": {"low": 0.9, "high": 0.9999, "when": {"optimizer": ["adam"]}}}, {}),
        ({"model.name": {"choices": ["m", "other"]}}, {}),
        # Not active beside the default: what it would be then need not lie in the range.
        (
            {"optimizer": OPTIMIZERS, "warmup_ratio": {"low": 0.1, "high": 0.5, "when": {"optimizer": ["sgd"]}}},
            {"warmup_ratio": 0.0},
        ),
        # Nor if what it hangs on is itself not active.
        (
            {
                "optimizer": OPTIMIZERS,
                "lr_scheduler_type": {"choices": ["linear", "cosine"], "when": {"optimizer": ["sgd"]}},
                "warmup_ratio": {"low": 0.1, "high": 0.5, "when": {"lr_scheduler_type": ["linear"]}},
            },
            {"warmup_ratio": 0.0},
        ),
    ],
)
def test_nothing_to_say(space: dict[str, Any], training: dict[str, Any]) -> None:
    assert problems(space, training) == []


@pytest.mark.parametrize(
    ("space", "training", "rule", "way_out"),
    [
        ({"learning_rat": {"low": 1, "high": 2}}, {}, "must be a setting of a trial", "Did you mean `learning_rate`?"),
        (
            {"zzz": {"low": 1, "high": 2}},
            {},
            "must be a setting of a trial",
            "Choose one of method, num_trained_layers",
        ),
        ({"data.max_rows": {"choices": [9, 99]}}, {}, "compared on the same rows", "Make a study of each."),
        ({"seed": {"low": 0, "high": 9}}, {}, "would choose the luckiest one", "Make a study of each."),
        ({"model.revision": {"choices": ["v1", ""]}}, {}, "choices must have at least 1 character, but got ''", ""),
        ({"model.revision": {"choices": ["v1", "v2"]}}, {}, "but got model.revision=None", "Add it to ['v1', 'v2']"),
        ({"eval_batch_size": {"choices": [1, 2]}}, {}, "it changes no result", "Set it in `training`."),
        ({"num_evaluations": {"choices": [1, 2]}}, {}, "compared at equal evaluations", "Set it in `training`."),
        ({"train_batch_size": {"choices": [0, 32]}}, {}, "choices must be greater than or equal to 1, but got 0", ""),
        ({"train_batch_size": {"choices": [16.5, 32]}}, {}, "choices must be a valid integer, but got 16.5", ""),
        ({"train_batch_size": {"low": 0, "high": 64}}, {}, "low must be greater than or equal to 1, but got 0", ""),
        ({"train_batch_size": {"low": 1.0, "high": 64}}, {}, "low must be a valid integer, but got 1.0", ""),
        ({"max_length": {"low": 8, "high": 129, "step": 5.5}}, {}, "step must be a valid integer, but got 5.5", ""),
        ({"dropout": {"low": 0.0, "high": 1.0}}, {"dropout": 0.1}, "high must be less than 1, but got 1.0", ""),
        ({"dropout": {"choices": ["0.1", 0.2]}}, {"dropout": 0.2}, "choices must be a valid number, but got '0.1'", ""),
        ({"lr_scheduler_type": {"choices": ["linear", "cosin"]}}, {}, "but got 'cosin'", "Did you mean `cosine`?"),
        (
            {"optimizer": {"low": 1, "high": 2}},
            {},
            "low must be 'adamw'",
            "Choose one of adamw, adam, sgd, adafactor, muon.",
        ),
        ({"model.name": {"choices": ["m", None]}}, {}, "choices must be a valid string, but got None", ""),
        ({"dropout": {"low": 0.2, "high": 0.3}}, {"dropout": 0.1}, "training.dropout=0.1", "Widen the range"),
        ({"dropout": {"low": 0.0, "high": 0.3}}, {}, "training.dropout=None", "Widen the range"),
        ({"dropout": {"low": 0.0, "high": 0.3, "step": 0.1}}, {"dropout": 0.15}, "in steps of 0.1", "Widen the range"),
        ({"dropout": {"choices": [0.1, 0.2]}}, {}, "must be among the choices", "Add it to [0.1, 0.2]"),
        ({"train_batch_size": {"low": 10, "high": 40, "step": 10}}, {}, "training.train_batch_size=32", ""),
        ({"model.name": {"choices": ["n", "o"]}}, {}, "but got model.name='m'", "Add it to ['n', 'o']"),
    ],
)
def test_a_mistake(space: dict[str, Any], training: dict[str, Any], rule: str, way_out: str) -> None:
    found = problems(space, training)
    (name,) = space
    assert {problem.path for problem in found} == {f"search_space.{name}"}
    assert found[0].rule.startswith(f"{name}: ")
    assert rule in found[0].rule
    assert found[0].way_out.startswith(way_out)


MOMENTUM = {"low": 0.0, "high": 0.99}
BETA = {"low": 0.8, "high": 0.9999}


@pytest.mark.parametrize(
    ("when", "rule"),
    [
        ({"precision": ["fp32"]}, "must name a searched parameter, but got `precision`"),
        ({"warmup_ratio": [0.1]}, "must name a parameter declared before, but got `warmup_ratio`"),
        ({"weight_decay": [0.1]}, "must name a parameter declared before, but got `weight_decay`"),  # itself
        ({"optimizer": ["lion"]}, "must use choices of `optimizer`, but got 'lion'"),
        ({"dropout": [0.1]}, "must name a parameter with `choices`, but `dropout` is a range"),
    ],
)
def test_a_condition_that_cannot_be_held(when: dict[str, Any], rule: str) -> None:
    space = {
        "optimizer": OPTIMIZERS,
        "dropout": {"low": 0.0, "high": 0.3},
        "weight_decay": {"low": 0.0, "high": 0.1, "when": when},
        "warmup_ratio": {"low": 0.0, "high": 0.2},
    }
    (problem,) = problems(space, {"dropout": 0.1})
    assert rule in problem.rule
    assert problem.path == "search_space.weight_decay"


@pytest.mark.parametrize(
    ("space", "training", "rule"),
    [
        ({"momentum": MOMENTUM}, {}, "only optimizer=sgd, muon has it, but got optimizer=adamw"),
        ({"adam_beta1": BETA}, {"optimizer": "sgd"}, "only optimizer=adamw, adam, muon has it, but got optimizer=sgd"),
        ({"adam_beta2": BETA}, {"optimizer": "sgd"}, "only optimizer=adamw, adam, muon has it, but got optimizer=sgd"),
        ({"lora_rank": {"choices": [4, 8]}}, {}, "only method=lora has it, but got method=full"),
        ({"lora_alpha": {"low": 1, "high": 64}}, {}, "only method=lora has it, but got method=full"),
        ({"lora_dropout": {"low": 0.0, "high": 0.1}}, {"method": "head_only"}, "only method=lora has it"),
        ({"lora_target_modules": {"choices": ["query_value", "all_linear"]}}, {}, "only method=lora has it"),
        ({"num_trained_layers": {"low": 1, "high": 4}}, {"method": "lora"}, "only method=last_layers has it"),
        ({"layer_lr_decay": {"low": 0.5, "high": 1.0}}, {"method": "head_only"}, "only method=full, last_layers, lora"),
        (
            {"method": METHODS, "layer_lr_decay": {"low": 0.5, "high": 1.0}},
            {},
            "only method=full, last_layers, lora has it, but it is searched beside others too",
        ),
        (
            {"adam_epsilon": {"low": 1e-9, "high": 1e-6, "log": True}},
            {"optimizer": "sgd"},
            "only optimizer=adamw, adam, muon has it",
        ),
        ({"adam_beta1": BETA}, {"optimizer": "adafactor"}, "has it, but got optimizer=adafactor"),
        ({"momentum": MOMENTUM}, {"optimizer": "adafactor"}, "has it, but got optimizer=adafactor"),
        ({"optimizer": OPTIMIZERS, "momentum": MOMENTUM}, {}, "searched beside others too"),
        (
            {"optimizer": OPTIMIZERS, "momentum": MOMENTUM | {"when": {"optimizer": ["sgd", "adam"]}}},
            {},
            "searched beside others too",
        ),
        (
            {"optimizer": OPTIMIZERS, "adam_beta1": BETA | {"when": {"optimizer": ["sgd"]}}},
            {},
            "searched beside others too",
        ),
    ],
)
def test_a_search_that_would_change_nothing(space: dict[str, Any], training: dict[str, Any], rule: str) -> None:
    (problem,) = problems(space, training)
    assert rule in problem.rule


@pytest.mark.parametrize("name", ["tpe", "random", "gp", "cmaes", "qmc"])
def test_only_the_grid_needs_a_finite_list(name: str) -> None:
    space = {"learning_rate": {"low": 1e-5, "high": 1e-2}}
    assert problems(space, sampler={"name": name}) == []
    (problem,) = problems(space, sampler={"name": "grid"})
    assert "finite list of values" in problem.rule
    assert problem.path == "search_space.learning_rate"


def test_the_grid_has_no_conditions() -> None:
    space = {"optimizer": OPTIMIZERS, "momentum": {"choices": [0.9, 0.95], "when": {"optimizer": ["sgd"]}}}
    assert problems(space) == []
    (problem,) = problems(space, sampler={"name": "grid"})
    assert "every combination, but got a parameter with `when`" in problem.rule


def test_conditions_that_exclude_each_other() -> None:
    space = {
        "optimizer": OPTIMIZERS,
        "lr_scheduler_type": {"choices": ["linear", "cosine"], "when": {"optimizer": ["sgd"]}},
        "warmup_ratio": {"low": 0.0, "high": 0.2, "when": {"lr_scheduler_type": ["linear"], "optimizer": ["adamw"]}},
        "momentum": {"low": 0.5, "high": 0.99, "when": {"lr_scheduler_type": ["linear"], "optimizer": ["sgd"]}},
    }
    (problem,) = problems(space)
    assert problem.path == "search_space.warmup_ratio"
    assert "must be searched in some trials, but its `when` and those it builds on exclude each other" in problem.rule


def test_no_condition_is_needed_where_every_choice_has_it() -> None:
    space = {"optimizer": {"choices": ["adamw", "adam"]}, "adam_beta1": BETA}
    assert problems(space) == []


def test_all_mistakes_at_once_also_beside_sections_that_cannot_be_read() -> None:
    space = {
        "dropuot": {"low": 0.0, "high": 0.3},
        "learning_rate": 3,  # left to its own section
        "train_batch_size": {"choices": [0, -1]},
        1: {"low": 1, "high": 2},  # no name, as its section says
        "momentum": MOMENTUM,
    }
    found = problems(space, {"dropout": 7})
    assert [problem.path.removeprefix("search_space.") for problem in found] == [
        *("dropuot", "train_batch_size", "train_batch_size", "momentum"),
    ]


@pytest.mark.parametrize("space", [None, 3, [], "tpe"])
def test_what_is_no_space_is_left_to_its_section(space: Any) -> None:
    assert problems(space) == []


@pytest.mark.parametrize(
    ("value", "allowed", "active"),
    [(True, [True], True), (1, [True], False), (True, [1], False), (1.0, [1], True), (None, [None], True)],
)
def test_a_condition_does_not_take_true_for_one(value: Any, allowed: list[Any], active: bool) -> None:
    parameter = RangeParameter(low=0, high=1, when={"parent": allowed})
    assert is_active(parameter, {"parent": value}) is active
    assert not is_active(parameter, {})


def test_every_condition_must_hold() -> None:
    parameter = ChoiceParameter(choices=[1, 2], when={"a": [1], "b": [2, 3]})
    assert is_active(parameter, {"a": 1, "b": 3})
    assert not is_active(parameter, {"a": 1, "b": 4})
    assert is_active(ChoiceParameter(choices=[1, 2]), {})


@pytest.mark.parametrize(
    ("name", "parameter", "values"),
    [
        ("dropout", RangeParameter(low=0.0, high=0.3, step=0.1), [0.0, 0.1, 0.2, 0.3]),
        ("train_batch_size", RangeParameter(low=8, high=32, step=8), [8, 16, 24, 32]),
        ("train_batch_size", RangeParameter(low=1, high=4), [1, 2, 3, 4]),
        ("train_batch_size", RangeParameter(low=1, high=3, log=True), [1, 2, 3]),
        ("max_grad_norm", ChoiceParameter(choices=[None, 1.0]), [None, 1.0]),
        ("learning_rate", RangeParameter(low=0.1, high=0.3), None),
    ],
)
def test_the_values_of_a_grid(name: str, parameter: Parameter, values: list[Any] | None) -> None:
    found = grid_values(name, parameter)
    if values is None:
        assert found is None
        return
    assert found == pytest.approx(values) if isinstance(parameter, RangeParameter) else found == values
    if isinstance(parameter, RangeParameter):
        assert all(parameter.low <= value <= parameter.high for value in found)  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(
    ("name", "integer"),
    [
        ("train_batch_size", True),
        ("model.num_hidden_layers", True),
        ("model.name", False),
        ("max_length", True),
        ("dropout", False),
        ("num_train_epochs", False),
        ("x", False),
    ],
)
def test_integers_are_known_by_their_setting(name: str, integer: bool) -> None:
    assert is_integer(name) is integer


@pytest.mark.parametrize(
    ("given", "way_out"),
    [
        ("lin", "Did you mean `linear`?"),
        ("cosinus", "Did you mean `cosine`?"),
        ("", "Choose one of linear, cosine."),
        ("zzz", "Choose one of linear, cosine."),
    ],
)
def test_the_close_match(given: str, way_out: str) -> None:
    assert did_you_mean(given, ["linear", "cosine"]) == way_out


def test_conditions_on_conditions_take_no_time() -> None:
    """Walked down anew from each, what twenty parameters hang on takes a million steps, and what 60 do for ever."""
    searched = [name for name in SEARCHABLE if "." not in name]
    names = [*(f"unknown_{number}" for number in range(60)), *searched]
    space = {name: {"choices": [1, 2], "when": {key: [1] for key in names[:at]}} for at, name in enumerate(names)}
    assert problems(space)


def test_a_grid_is_counted_before_it_is_made() -> None:
    space = {"train_batch_size": {"low": 1, "high": 10**18}, "max_length": {"low": 4, "high": 128}}
    (problem,) = problems(space, sampler={"name": "grid"})
    assert "at most 100,000 combinations, but got more" in problem.rule
    assert problem.way_out.startswith("Narrow the ranges")
    space["train_batch_size"] |= {"high": 800}
    assert problems(space, sampler={"name": "grid"}) == []  # 800 * 125 are exactly as many
    space["train_batch_size"] |= {"high": 801}
    assert len(problems(space, sampler={"name": "grid"})) == 1


def test_steps_that_no_float_counts() -> None:
    space = {"learning_rate": {"low": 1e-300, "high": 1.0, "step": 1e-300}}
    assert problems(space) == []  # its own rule says that these are too many
    space = {"max_grad_norm": {"low": 1e-300, "high": 2e-300, "step": 1e-300}}
    (problem,) = problems(space, {"max_grad_norm": 1e308})
    assert "the default must lie in" in problem.rule


RATE = {"low": 1e-4, "high": 2e-3, "log": True}


def by_method(**when: list[Any]) -> dict[str, Any]:
    return RATE | {"when": when}


@pytest.mark.parametrize(
    "space",
    [
        {
            "method": METHODS,
            "learning_rate": {"low": 1e-5, "high": 1e-4, "when": {"method": ["full", "last_layers"]}},
            "learning_rate@lora": by_method(method=["lora"]),
            "learning_rate@head": by_method(method=["head_only"]),
        },
        {
            "model.name": {"choices": ["m", "n"]},
            "learning_rate@small": {"low": 1e-5, "high": 1e-4, "when": {"model.name": ["m"]}},
            "learning_rate@other": {"choices": [0.1, 0.2], "when": {"model.name": ["n"]}},
        },
        {  # told apart by what one of them builds on
            "method": METHODS,
            "lora_rank": {"choices": [8, 16], "when": {"method": ["lora"]}},
            "learning_rate": {"low": 1e-5, "high": 1e-4, "when": {"method": ["full"]}},
            "learning_rate@wide": by_method(lora_rank=[16]),
        },
    ],
)
def test_several_ranges_of_one_setting(space: dict[str, Any]) -> None:
    assert problems(space) == []


@pytest.mark.parametrize(
    ("space", "message", "way_out"),
    [
        (
            {"learning_rate": {"low": 1e-5, "high": 1e-4}, "learning_rate@lora": {"low": 1e-5, "high": 1e-3}},
            "nothing says that `learning_rate` and `learning_rate@lora` exclude each other",
            "Give both a `when`",
        ),
        (
            {
                "method": METHODS,
                "learning_rate": {"low": 1e-5, "high": 1e-4, "when": {"method": ["full", "lora"]}},
                "learning_rate@lora": by_method(method=["lora"]),
            },
            "exclude each other",
            "Give both a `when`",
        ),
        (
            {
                "method": METHODS,
                "optimizer": OPTIMIZERS,
                "learning_rate": {"low": 1e-5, "high": 1e-4, "when": {"method": ["full"]}},
                "learning_rate@sgd": by_method(optimizer=["sgd"]),
            },
            "exclude each other",
            "Give both a `when`",
        ),
        ({"learning_rate@": {"low": 1e-5, "high": 1e-4}}, "letters, digits, _ and -, but got ``", "Write for instance"),
        ({"learning_rate@a.b": {"low": 1e-5, "high": 1e-4}}, "letters, digits, _ and -", "Write for instance"),
        ({"method@a": METHODS}, "only a setting that no other one builds on", "Search `method`"),
        (
            {"model.name@a": {"choices": ["m", "n"]}},
            "only a setting that no other one builds on",
            "Search `model.name`",
        ),
        ({"learning_rat@lora": RATE}, "must be a setting of a trial", "Did you mean `learning_rate`?"),
        ({"learning_rate@x": {"low": 0.0, "high": 1e-4}}, "low must be greater than 0", "Change it."),
        ({"learning_rate@x": RATE}, "the default must lie in", "Widen the range"),
        ({"lora_rank@x": {"choices": [4, 8]}}, "only method=lora has it", "Set `training.method`."),
    ],
)
def test_mistakes_in_several_ranges(space: dict[str, Any], message: str, way_out: str) -> None:
    (found,) = problems(space)
    assert message in found.rule and found.way_out.startswith(way_out)
