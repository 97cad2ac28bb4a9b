"""What is found in an output folder, and that mending it leaves nothing to find: for studies that were left anyhow."""

import io
import shutil
import threading
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from rich.console import Console

from benchmarks.postgres import Database
from conftest import StudyMaker
from hpo.addresses import masked
from hpo.doctor import examine, main
from hpo.errors import StorageError
from hpo.events import Event, StepDone
from hpo.storage import exclusive, open_storage
from hpo.study import load_study, open_study
from hpo.study_file import parse_study
from hpo.tracking import tracker_of, tracking_uri
from hpo.tune import only_driver, tune
from test_tune import Recorder, states


class Killed(BaseException):
    """Runs no handler, as SIGKILL."""


def examined(output: Path, fix: bool = False) -> tuple[int, str]:
    stream = io.StringIO()
    console = Console(file=stream, width=80, soft_wrap=True, highlight=False)
    return examine(output, None, fix, console), stream.getvalue()


def killed(raw_study: StudyMaker, output: Path) -> None:
    """One trial complete, the second killed in its middle."""

    def die(event: Event) -> None:
        if isinstance(event, StepDone) and event.number == 1 and event.step == 20:
            raise Killed

    recorder = Recorder()
    recorder.take = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        tune(parse_study(raw_study(checkpoint_every=0.001), "tiny.yaml"), output, recorder)


def test_a_whole_study_leaves_nothing_to_mend(raw_study: StudyMaker, output: Path) -> None:
    tune(parse_study(raw_study(n_trials=2), "tiny.yaml"), output, Recorder())
    assert examined(output) == (0, "Nothing is left to mend.\n")


def test_what_a_kill_left_is_found_and_mended_once(raw_study: StudyMaker, output: Path) -> None:
    killed(raw_study, output)
    code, text = examined(output)
    assert code == 1
    assert "found   tiny  trial 1 is RUNNING, and nobody runs it\n" in text
    assert "note    tiny  2 of 3 trials are still to end" in text
    assert f"python -m hpo.doctor --fix --output {output}" in text
    assert states(output)["trial-0001"] == "RUNNING"  # looking changes nothing
    code, text = examined(output, fix=True)
    assert code == 0 and "mended  tiny  trial 1 is RUNNING, and nobody runs it\n" in text
    assert "mended  tiny  trial 1 is FAIL, but its run in MLflow RUNNING\n" in text
    assert states(output) == {"tiny": "FAILED", "trial-0000": "FINISHED", "trial-0001": "FAILED"}
    trials = load_study(open_storage(output), "tiny").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "WAITING"]
    code, text = examined(output)
    assert code == 0 and "found  " not in text and "mended" not in text
    outcome = tune(parse_study(raw_study(checkpoint_every=0.001), "tiny.yaml"), output, Recorder())
    assert [trial.state.name for trial in outcome.study.trials][:3] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_a_trial_that_died_before_it_had_a_run(raw_study: StudyMaker, output: Path) -> None:
    spec = parse_study(raw_study(n_trials=1), "tiny.yaml")
    study, tracker = open_study(spec, open_storage(output)), tracker_of(output)
    study.ask()
    assert examined(output, fix=True)[0] == 0  # nor had the study one: there is nothing to be mended in MLflow
    parent = tracker.start_study("tiny", None, "", {})
    study.set_user_attr("mlflow_parent_run_id", parent)
    study.ask()
    assert "mended  tiny  trial 1 is FAIL, but its run in MLflow RUNNING\n" in examined(output, fix=True)[1]
    assert states(output) == {"tiny": "KILLED", "trial-0001": "FAILED"}


def test_runs_that_say_otherwise_are_told_the_truth(raw_study: StudyMaker, output: Path) -> None:
    study = tune(parse_study(raw_study(n_trials=2), "tiny.yaml"), output, Recorder()).study
    client = MlflowClient(tracking_uri(output))
    first, second = (trial.user_attrs["mlflow_run_id"] for trial in study.trials)
    client.set_terminated(first, "FAILED")
    client.delete_run(second)
    parent = study.user_attrs["mlflow_parent_run_id"]
    client.update_run(parent, status="RUNNING")
    experiment = client.get_run(parent).info.experiment_id
    tags = {"mlflow.parentRunId": parent, "trial.number": "9"}
    stray = client.create_run(experiment, tags=tags).info.run_id
    code, text = examined(output, fix=True)
    assert code == 0
    for told in (
        "mended  tiny  trial 0 is COMPLETE, but its run in MLflow FAILED",
        "note    tiny  trial 1 is COMPLETE, and has no run in MLflow",
        "mended  tiny  1 runs are RUNNING in MLflow of trials that are not there",
        "mended  tiny  its parent run is RUNNING in MLflow, and no trial is",
    ):
        assert told in text
    assert [client.get_run(run).info.status for run in (first, parent, stray)] == ["FINISHED", "KILLED", "FAILED"]
    client.delete_run(parent)
    assert "its parent run is not in MLflow any more" in examined(output)[1]


def test_files_of_no_use_are_found(raw_study: StudyMaker, output: Path) -> None:
    study = tune(parse_study(raw_study(n_trials=2), "tiny.yaml"), output, Recorder()).study
    folder = output / "tiny"
    best = folder / "weights" / f"trial-{study.best_trial.number:04d}"
    shutil.copytree(best, best.with_name("trial-0099"))
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "trial-0001.pt").write_bytes(bytes(2**20))
    (folder / "checkpoints" / ".trial-0001.pt.77.tmp").write_bytes(b"")
    (folder / "report.md").unlink()
    code, text = examined(output)
    assert code == 1
    assert "found   tiny  2 checkpoints (1 MiB) are of trials that have ended" in text
    assert "found   tiny  weights are kept of trial-0099, not of the best trial" in text
    assert f"has no report: python -m hpo.report --study tiny --output {output}" in text
    assert examined(output, fix=True)[0] == 0
    assert list((folder / "checkpoints").iterdir()) == [] and list((folder / "weights").iterdir()) == [best]
    shutil.rmtree(best)
    assert f"python -m hpo.train --config {folder / 'best.yaml'}" in examined(output)[1]


def test_the_way_out_names_the_server(raw_study: StudyMaker, output: Path, postgres: Database) -> None:
    open_study(parse_study(raw_study(), "tiny.yaml"), open_storage(output, postgres.url))
    checkpoints = output / "tiny" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "trial-0007.pt").touch()
    stream = io.StringIO()
    assert examine(output, postgres.url, False, Console(file=stream, width=300)) == 1
    way_out = stream.getvalue().splitlines()[-1]
    assert f"python -m hpo.doctor --fix --output {output} --storage '{masked(postgres.url)}'" in way_out


def test_what_drivers_change_is_looked_at_and_mended_when_none_does(raw_study: StudyMaker, output: Path) -> None:
    """On a server they may be at it meanwhile: a trial would be queued twice, or new best weights removed."""
    killed(raw_study, output)
    for fix in (False, True):
        doctor = threading.Thread(target=examined, args=(output, fix))
        with exclusive(output, "tiny"):
            doctor.start()
            doctor.join(3)
            assert doctor.is_alive()
            assert [trial.state.name for trial in load_study(open_storage(output), "tiny").trials][1:] == ["RUNNING"]
        doctor.join(60)
        assert not doctor.is_alive()


def test_a_study_that_is_being_run_is_let_alone(raw_study: StudyMaker, output: Path) -> None:
    killed(raw_study, output)
    with only_driver(output, "tiny"):
        code, text = examined(output, fix=True)
    assert (code, text.splitlines()[0]) == (0, "note    tiny  is being run: look again when that has ended")
    assert states(output)["trial-0001"] == "RUNNING"


def test_a_study_of_another_tool_is_looked_at_too(output: Path) -> None:
    study = optuna.create_study(study_name="theirs", storage=open_storage(output))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert examined(output)[0] == 0


def test_a_folder_without_a_study_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StorageError, match=r"there is no .*optuna\.db yet"):
        examined(tmp_path)
    assert main(["--output", str(tmp_path), "--verbose"]) == 2
    assert "run `python -m hpo.run` first" in capsys.readouterr().err
