"""The program as a user runs it: one study from a YAML file to a model that labels text, and what goes wrong."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from filelock import FileLock
from mlflow import MlflowClient
from transformers import pipeline

from conftest import StudyMaker
from hpo.errors import StorageError
from hpo.run import main
from hpo.storage import open_storage
from hpo.study import load_study
from hpo.tracking import tracking_uri

ROOT = Path(__file__).parent.parent


def hpo(module: str, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs `python -m hpo.MODULE` in a process of its own."""
    command = [sys.executable, "-m", f"hpo.{module}", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def prunable(raw_study: StudyMaker, tmp_path: Path) -> Path:
    """Three trials: the default, and a grid of it and of a learning rate that learns nothing and must be pruned."""
    study = raw_study(
        training=raw_study()["training"] | {"learning_rate": 0.01, "num_train_epochs": 6},
        search_space={"learning_rate": {"choices": [0.01, 1e-7]}},
        sampler={"name": "grid"},
        pruner={"name": "median", "n_startup_trials": 1},
    )
    path = tmp_path / "prunable.yaml"
    path.write_text(yaml.safe_dump(study | {"name": "prunable"}), encoding="utf-8")
    return path


@pytest.mark.timeout(300)
def test_from_a_study_file_to_a_model_that_labels(prunable: Path, output: Path) -> None:
    first = hpo("run", "--study", prunable, "--output", output, "--trials", 2)
    assert first.returncode == 0, first.stderr
    resumed = hpo("run", "--study", prunable, "--output", output, "--trials", 3)
    assert resumed.returncode == 0, resumed.stderr
    nothing = hpo("run", "--study", prunable, "--output", output, "--trials", 3)
    assert nothing.returncode == 0, nothing.stderr
    for done in (first, resumed, nothing):
        _fits_into_80_columns(done, output)
    assert [line.split()[1] for line in first.stdout.splitlines() if line.startswith("trial ")] == ["0", "1"]
    assert [line.split()[1] for line in resumed.stdout.splitlines() if line.startswith("trial ")] == ["2"]

    # Optuna: three trials in all, the default first, one of them pruned.
    study = load_study(open_storage(output), "prunable")
    states = [trial.state.name for trial in study.trials]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert study.trials[0].params == {"learning_rate": 0.01}
    assert study.trials[states.index("PRUNED")].params == {"learning_rate": 1e-7}

    # MLflow: one parent with its files, three children with true states.
    client = MlflowClient(tracking_uri(output))
    experiment = client.get_experiment_by_name("prunable")
    runs = client.search_runs([experiment.experiment_id])
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["validation/best_accuracy"] == study.best_value
    assert "[Compare the best 3 trials]" in parent.data.tags["mlflow.note.content"]
    files = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert files == {"study.yaml", "report.html", "report.md", "trials.csv", "figures", "best.yaml"}
    assert sorted(children) == ["trial-0000", "trial-0001", "trial-0002"]
    assert sorted(run.info.status for run in children.values()) == ["FINISHED", "FINISHED", "KILLED"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}

    # Report and export.
    folder = output / "prunable"
    table = pd.read_csv(folder / "trials.csv")
    assert list(table["state"]) == states
    assert "learning_rate" in (folder / "report.md").read_text()
    assert {path.name for path in (folder / "figures").iterdir()} >= {"history.png", "learning_curves.png"}
    (folder / "report.md").unlink()
    again = hpo("report", "--study", "prunable", "--output", output)
    assert again.returncode == 0, again.stderr
    assert (folder / "report.md").exists()
    nowhere = hpo("report", "--study", "prunable", "--output", output / "nowhere")
    assert nowhere.returncode == 2 and "run `python -m hpo.run` first" in nowhere.stderr
    assert not (output / "nowhere").exists()
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["score"] == study.best_value
    assert best["config"]["training"]["learning_rate"] == 0.01

    # The exported configuration gives the same score, and a model folder with real label names.
    trained = hpo("train", "--config", folder / "best.yaml")
    assert trained.returncode == 0, trained.stderr
    assert "the same to the bit" in trained.stdout
    label = pipeline("text-classification", model=str(folder / "model"))
    assert label("a good film")[0]["label"] == "positive"
    assert label("a bad film")[0]["label"] == "negative"


def _fits_into_80_columns(done: subprocess.CompletedProcess[str], output: Path) -> None:
    """In a pipe: plain lines, nothing from the libraries; only paths, which are to be copied, may be longer."""
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if str(output) not in line) <= 80


@pytest.mark.timeout(120)
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(raw_study: StudyMaker, output: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    training = raw_study()["training"] | {"num_train_epochs": 200, "num_evaluations": 200}
    path.write_text(yaml.safe_dump(raw_study(training=training, n_trials=2) | {"name": "long"}), encoding="utf-8")
    command = [sys.executable, "-m", "hpo.run", "--study", str(path), "--output", str(output)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_evaluations(output, "long", 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err

    study = load_study(open_storage(output), "long")
    trial, again = study.trials
    assert again.state.name == "WAITING" and again.user_attrs == {"retry_of": 0}
    assert trial.state.name == "FAIL"
    assert trial.user_attrs["result"]["reason"] == "interrupted"
    client = MlflowClient(tracking_uri(output))
    runs = client.search_runs([client.get_experiment_by_name("long").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {"long": "KILLED", "trial-0000": "FAILED"}
    assert (output / "long" / "report.md").exists()


def wait_for_evaluations(output: Path, name: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:  # from the first moment on, as `hpo.report` beside a study that starts
            trials = load_study(open_storage(output), name).trials
        except StorageError:
            trials = []
        if trials and len(trials[0].intermediate_values) >= count:
            return
        time.sleep(0.2)
    raise AssertionError(f"{name} made no {count} evaluations in a minute")


Capture = pytest.CaptureFixture[str]


def run(*arguments: object) -> int:
    """The same command in this process, which has the imports already."""
    return main([*map(str, arguments), "--verbose"])


def refused(capsys: Capture, *arguments: object) -> str:
    """A mistake of the user's: exit code 2 and no traceback. Returns what stderr says."""
    capsys.readouterr()
    assert run(*arguments) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


def test_a_changed_study_is_refused_with_a_diff_and_fresh_keeps_the_old_one(
    study_path: Path, output: Path, capsys: Capture
) -> None:
    here = ("--study", study_path, "--output", output, "--trials", 1)
    changed = (*here, "--set", "training.dropout=0.3")
    assert run(*here) == 0
    told = refused(capsys, *changed)
    assert "training.dropout: was 0.1, is 0.3" in told
    assert "--fresh" in told and "--set name=tiny-2" in told
    assert run(*changed, "--fresh") == 0
    names = [study.study_name for study in open_storage(output).get_all_studies()]
    (kept,) = [name for name in names if name != "tiny"]
    assert re.fullmatch(r"tiny-until-\d{8}-\d{6}", kept)
    assert (output / kept / "best.yaml").exists()
    assert load_study(open_storage(output), kept).trials[0].state.name == "COMPLETE"


def test_changed_data_is_refused(
    study_path: Path, output: Path, data_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_text(data_file.read_text())
    arguments = ("--study", study_path, "--output", output, "--set", f"data.train={copy}", "--trials")
    assert run(*arguments, 1) == 0
    copy.write_text(data_file.read_text().replace("good", "great"))
    told = refused(capsys, *arguments, 2)
    assert "data" in told and "fingerprint" in told and "--fresh" in told


def test_a_second_driver_is_refused(study_path: Path, output: Path, capsys: Capture) -> None:
    with FileLock(output / ".tiny.lock"):
        assert "one driver at a time" in refused(capsys, "--study", study_path, "--output", output)


@pytest.mark.parametrize("database", ["optuna.db", "mlflow.db"])
def test_a_damaged_database_is_told(study_path: Path, output: Path, database: str, capsys: Capture) -> None:
    (output / database).write_bytes(b"no database" * 1000)
    told = refused(capsys, "--study", study_path, "--output", output)
    assert database in told and "Move it away" in told


def test_output_that_is_a_file_is_told(study_path: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").touch()
    assert "--output" in refused(capsys, "--study", study_path, "--output", tmp_path / "file")


@pytest.mark.parametrize("name", ["what?", "50%25"])
def test_output_that_a_databases_address_cannot_hold(
    study_path: Path, tmp_path: Path, capsys: Capture, name: str
) -> None:
    told = refused(capsys, "--study", study_path, "--output", tmp_path / name)
    assert name in told and "Give another one" in told
    assert not (tmp_path / name).exists()


def test_a_study_whose_tracker_was_moved_away_goes_on(study_path: Path, output: Path) -> None:
    """As the message on a damaged database says that one may."""
    assert run("--study", study_path, "--output", output, "--trials", 1) == 0
    (output / "mlflow.db").rename(output / "damaged.db")
    resumed = hpo("run", "--study", study_path, "--output", output, "--trials", 2)
    assert resumed.returncode == 0, resumed.stderr
    assert len(load_study(open_storage(output), "tiny").trials) == 2


def test_a_model_folder_that_cannot_be_written_is_told_before_the_training(study_path: Path, output: Path) -> None:
    assert run("--study", study_path, "--output", output, "--trials", 1) == 0
    (output / "file").write_text("x")
    told = hpo("train", "--config", output / "tiny" / "best.yaml", "--output", output / "file")
    assert told.returncode == 2
    assert "--output must be a folder that can be written" in told.stderr and "accuracy" not in told.stdout
    assert (output / "file").read_text() == "x"


def test_everything_that_is_not_there_is_told_at_once(study_path: Path, output: Path, capsys: Capture) -> None:
    missing = ("data.train=./none.csv", "data.test=package://nothing/x.csv", "data.test_size=null", "model.name=./none")
    told = refused(capsys, "--study", study_path, "--output", output, *(f"--set={text}" for text in missing))
    lines = told.splitlines()
    assert [line.split(":")[0] for line in lines] == ["data.train", "data.test", "model.name"]
    assert "`./none.csv`" in lines[0] and "pip install nothing" in lines[1] and "`./none`" in lines[2]


def test_mistakes_of_the_command_line_are_told(study_path: Path, output: Path, capsys: Capture) -> None:
    told = refused(capsys, "--study", study_path, "--output", output, "--trials", 0, "--set", "training.dropot=1")
    assert "n_trials" in told and "`dropout`" in told
    assert "tiny" not in os.listdir(output)


def test_a_disk_that_fills_up_is_told_and_damages_nothing(study_path: Path, output: Path) -> None:
    """A limit on the size of files is the full disk that every user may make."""
    limit = (output / "mlflow.db").stat().st_size
    program = (
        "import resource, sys; from hpo.run import main;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        f"sys.exit(main(['--study', {str(study_path)!r}, '--output', {str(output)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "disk" in done.stderr and "Traceback" not in done.stderr
    for name in ("mlflow.db", "optuna.db"):
        if (output / name).exists():
            with sqlite3.connect(output / name) as database:
                assert database.execute("pragma integrity_check").fetchone() == ("ok",)


def test_exit_code_1_when_no_trial_completed(
    raw_study: StudyMaker, output: Path, tmp_path: Path, capsys: Capture
) -> None:
    training = raw_study()["training"] | {"optimizer": "sgd", "learning_rate": 1e20, "max_grad_norm": None}
    study = raw_study(training=training, search_space={"weight_decay": {"low": 0.0, "high": 0.1}}, n_trials=1)
    path = tmp_path / "diverges.yaml"
    path.write_text(json.dumps(study))
    assert run("--study", path, "--output", output) == 1
    assert "diverged" in capsys.readouterr().out
    assert not (output / "tiny" / "best.yaml").exists()
    assert (output / "tiny" / "report.md").exists()
