"""What the sections of a study file accept, each on its own."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from conftest import StudyMaker
from hpo import search_spec
from hpo import spec as spec_module
from hpo.errors import SpecError
from hpo.settings import Settings
from hpo.spec import DataSpec, SplitSource, StudySpec, TrialConfig
from hpo.study_file import parse_study
from hpo.tasks import TASKS
from hpo.training_spec import TrainingSpec

NO_LABELS: dict[str, Any] = {"data": {"train": "x.csv"}}  # a regression has none to declare


def sections() -> Iterator[type[Settings]]:
    for found in {**vars(search_spec), **vars(spec_module)}.values():
        if isinstance(found, type) and issubclass(found, Settings) and found is not Settings:
            yield found


@pytest.mark.parametrize("section", list(sections()), ids=lambda section: section.__name__)
def test_every_setting_is_documented_and_frozen(section: type[Settings]) -> None:
    undocumented = [name for name, field in section.model_fields.items() if not field.description and name != "name"]
    assert not undocumented
    assert section.__doc__
    assert section.model_config["frozen"] and section.model_config["extra"] == "forbid"


def test_a_spec_cannot_be_changed(spec: StudySpec) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec.training.learning_rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("task", "metric"), [(name, metric) for name, task in TASKS.items() for metric in task.metrics]
)
def test_only_losses_and_errors_are_minimized(raw_study: StudyMaker, task: str, metric: str) -> None:
    direction = parse_study(raw_study(metric=metric, task=task, **NO_LABELS), "tiny.yaml").direction
    assert direction == ("minimize" if metric in ("eval/loss", "eval/rmse", "eval/mae") else "maximize")


@pytest.mark.parametrize("task", TASKS)
def test_the_first_metric_of_a_task_is_its_default(raw_study: StudyMaker, task: str) -> None:
    assert parse_study(raw_study(task=task, **NO_LABELS), "tiny.yaml").metric == next(iter(TASKS[task].metrics))


@pytest.mark.parametrize("source", ["./reviews.csv", {"source": "./reviews.csv"}])
def test_a_bare_string_is_a_source(source: Any) -> None:
    assert DataSpec.model_validate({"train": source}).train == SplitSource(source="./reviews.csv")


@pytest.mark.parametrize("size", [1, 872, 0.1, 0.999])
def test_a_size_is_rows_or_a_share(size: int | float) -> None:
    assert DataSpec.model_validate({"train": "x.csv", "test_size": size}).test_size == size


@pytest.mark.parametrize("size", [0, -1, 0.0, 1.0, 1.5, True, "100"])
def test_no_other_size(size: Any) -> None:
    with pytest.raises(ValidationError, match="test_size"):
        DataSpec.model_validate({"train": "x.csv", "test_size": size})


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_is_given_or_held_out_but_not_both(split: str) -> None:
    with pytest.raises(ValidationError, match=f"{split}_size=10"):
        DataSpec.model_validate({"train": "x.csv", split: "y.csv", f"{split}_size": 10})


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", "1e-5"),
        ("learning_rate", True),
        ("weight_decay", -0.1),
        ("momentum", 1.0),
        ("adam_beta1", 1.0),
        ("adam_beta2", -0.1),
        ("adam_epsilon", 0.0),
        ("max_grad_norm", 0.0),
        ("lr_scheduler_type", "cosin"),
        ("optimizer", "lion"),
        ("warmup_ratio", 1.0),
        ("dropout", 1.0),
        ("train_batch_size", 0),
        ("train_batch_size", 16.0),
        ("train_batch_size", True),
        ("eval_batch_size", 0),
        ("num_train_epochs", 0),
        ("max_length", 3),
        ("num_evaluations", 0),
        ("precision", "fp16"),
        ("optimizer", "lion"),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("class_weights", "equal"),
        ("r_drop_alpha", -1.0),
        ("ema_decay", 0.0),
        ("ema_decay", 1.0),
        ("early_stopping_patience", 0),
        ("early_stopping_patience", 1.5),
    ],
)
def test_a_setting_of_training_out_of_its_bounds(field: str, wrong: Any) -> None:
    with pytest.raises(ValidationError) as error:
        TrainingSpec.model_validate({field: wrong})
    assert {details["loc"][0] for details in error.value.errors()} == {field}


@pytest.mark.parametrize(
    ("field", "right"),
    [("max_grad_norm", None), ("dropout", None), ("dropout", 0), ("weight_decay", 0.0), ("num_train_epochs", 0.5)],
)
def test_a_setting_of_training_at_its_bounds(field: str, right: Any) -> None:
    assert getattr(TrainingSpec.model_validate({field: right}), field) == right


def test_a_configuration_survives_json(spec: StudySpec) -> None:
    config = TrialConfig(
        metric=spec.metric, data=spec.data, model=spec.model, training=spec.training, seed=3, data_seed=0
    )
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec


# Settings that would do nothing, or exclude each other.

PATIENCE = {"early_stopping_patience": 3}
REFIT = {"refit": True}


@pytest.mark.parametrize(
    ("sections", "rule", "way_out"),
    [
        ({"training": {"r_drop_alpha": 1.0, "dropout": 0}}, "but got dropout=0", "Set `training.dropout`, or remove"),
        ({"training": {"dropout": 0.0}, "search_space": {"r_drop_alpha": {"low": 0.0, "high": 5.0}}}, "dropout=0", ""),
        ({"training": {"early_stopping_patience": 9}}, "but got 9 and num_evaluations=10", "Lower it"),
        (
            {
                "training": {"num_evaluations": 4},
                "search_space": {"early_stopping_patience": {"choices": [None, 2, 3]}},
            },
            "but got 3 and num_evaluations=4",
            "or raise `training.num_evaluations`",
        ),
        ({"training": PATIENCE, "finalists": REFIT}, "whose scores cannot stop a training", "Remove one of them."),
        (
            {"search_space": {"early_stopping_patience": {"choices": [None, 2]}}, "finalists": REFIT},
            "whose scores cannot stop a training",
            "Remove one of them.",
        ),
    ],
)
def test_a_setting_without_an_effect(raw_study: StudyMaker, sections: dict[str, Any], rule: str, way_out: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_study(raw_study(**sections), "tiny.yaml")
    assert rule in str(error.value) and way_out in str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"r_drop_alpha": 1.0}},
        {"training": {"r_drop_alpha": 1.0, "dropout": 0.1}, "search_space": {"dropout": {"low": 0.0, "high": 0.3}}},
        {"training": {"dropout": 0.0}},
        {"training": {"early_stopping_patience": 8}},
        {"search_space": {"early_stopping_patience": {"choices": [None, 1, 2]}}},
        {"training": PATIENCE, "search_space": {"early_stopping_patience": {"low": 2, "high": 8}}},
        {"training": PATIENCE, "finalists": {"refit": False}},
        {"finalists": REFIT},
        {
            "search_space": {
                "label_smoothing": {"low": 0.0, "high": 0.2},
                "class_weights": {"choices": [None, "balanced"]},
            }
        },
        {"search_space": {"ema_decay": {"choices": [None, 0.99]}, "r_drop_alpha": {"low": 0, "high": 5}}},
    ],
)
def test_settings_that_have_one(raw_study: StudyMaker, sections: dict[str, Any]) -> None:
    parse_study(raw_study(**sections), "tiny.yaml")
