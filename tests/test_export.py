"""`best.yaml`: the whole configuration, read back as it was written, and refused where it is broken."""

import re
from pathlib import Path

import optuna
import pytest
import yaml

from hpo.errors import SpecError
from hpo.export import Exported, export_trial, read_exported
from hpo.space import trial_config
from hpo.spec import StudySpec


@pytest.fixture
def study(spec: StudySpec) -> optuna.Study:
    """One complete trial, with what the program stores of it."""
    study = optuna.create_study(direction="maximize")
    study.set_user_attr("spec", spec.model_dump(mode="json"))
    study.set_user_attr("data", {"labels": ["negative", "positive"], "rows": {"train": 240}, "fingerprint": "d" * 64})
    config = trial_config(spec, {"learning_rate": 1e-5, "max_grad_norm": None}, seed=11)
    trial = optuna.trial.create_trial(
        value=0.75,
        user_attrs={
            "config": config.model_dump(mode="json"),
            "result": {"metrics": {"eval/accuracy": 0.75, "eval/loss": 0.1 + 0.2}, "state": "COMPLETE", "reason": None},
            "model_fingerprint": "sha256:1",
            "versions": {"python": "3.11.7", "torch": "2.0.1"},
            "git_commit": "abc-dirty",
            "machine": {"device": "a CPU", "precision": "fp32"},
            "mlflow_run_id": "run",
        },
    )
    study.add_trial(trial)
    return study


def test_what_is_written_is_read_back(study: optuna.Study, spec: StudySpec, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "best.yaml"
    written = export_trial(study, study.trials[0], path)
    read = read_exported(path)
    assert read == written
    assert read.score == 0.75
    assert read.metrics["eval/loss"] == 0.1 + 0.2  # to the bit
    assert read.config.training.learning_rate == 1e-5
    assert read.config.training.max_grad_norm is None
    assert read.config.seed == 11
    assert (read.versions["torch"], read.git_commit) == ("2.0.1", "abc-dirty")  # those of the trial, not today's
    assert read.config.data == spec.data
    assert list(path.parent.iterdir()) == [path]


def test_the_file_says_how_to_use_it_and_that_its_score_is_optimistic(study: optuna.Study, tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    export_trial(study, study.trials[0], path)
    comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"python -m hpo.train --config {path}" in comment
    assert "optimistic" in comment
    assert set(yaml.safe_load(path.read_text())) == set(Exported.model_fields)


def test_every_setting_of_the_trial_is_in_the_file(study: optuna.Study, spec: StudySpec, tmp_path: Path) -> None:
    export_trial(study, study.trials[0], tmp_path / "best.yaml")
    config = yaml.safe_load((tmp_path / "best.yaml").read_text())["config"]
    assert set(config["training"]) == set(type(spec.training).model_fields)
    assert set(config["data"]) == set(type(spec.data).model_fields)


@pytest.mark.parametrize("text", ["", "- a list", "study: only", "config: [1\n", "\x00"])
def test_a_broken_file_is_a_mistake_of_the_users(text: str, tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"best\.yaml"):
        read_exported(tmp_path / "best.yaml")


@pytest.mark.parametrize("name", ["none.yaml", "a" * 300, "a\0b"])
def test_a_missing_file_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="--config"):
        read_exported(tmp_path / name)


def test_a_missing_file_is_told_with_those_there(study: optuna.Study, tmp_path: Path) -> None:
    """After `make run` without the Hub the study has its fallback's name."""
    there = tmp_path / "sst2-fallback" / "best.yaml"
    export_trial(study, study.trials[0], there)
    with pytest.raises(SpecError, match=rf"must be a file that is there .* There is {re.escape(str(there))}\."):
        read_exported(tmp_path / "sst2" / "best.yaml")
