"""MLflow: states are true, nothing is dropped by its limits, one database an output folder."""

import json
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow import MlflowClient

from hpo.errors import StorageError
from hpo.tracking import MAX_METRICS, Tracker, tracking_uri


@pytest.fixture
def client(output: Path) -> MlflowClient:
    return MlflowClient(tracking_uri(output))


@pytest.mark.parametrize(("state", "status"), [("COMPLETE", "FINISHED"), ("PRUNED", "KILLED"), ("FAIL", "FAILED")])
def test_states_are_true(output: Path, client: MlflowClient, state: str, status: str) -> None:
    tracker = Tracker(output)
    parent = tracker.start_study("study", None, "what it asks", {"fallback_for": "other"})
    run = tracker.start_trial(parent, 7, {})
    assert client.get_run(run.run_id).info.status == "RUNNING"
    run.end(state, reason="why", tags={"trial.pruned_step": "3"}, metrics={"seconds": 2.0}, traceback="Traceback ...")
    stored = client.get_run(run.run_id)
    assert stored.info.status == status
    assert stored.info.run_name == "trial-0007"
    assert stored.data.tags["trial.state"] == state
    assert stored.data.tags["trial.reason"] == "why"
    assert stored.data.tags["trial.pruned_step"] == "3"
    assert stored.data.metrics["seconds"] == 2.0
    assert [artifact.path for artifact in client.list_artifacts(run.run_id)] == ["traceback.txt"]


def test_a_resumed_study_keeps_its_parent_run(output: Path, client: MlflowClient, tmp_path: Path) -> None:
    tracker = Tracker(output)
    parent = tracker.start_study("study", None, "what it asks", {})
    (tmp_path / "report.md").write_text("# a report")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "one.png").write_bytes(b"png")
    tracker.end_study(parent, "KILLED", {"best/eval/accuracy": 0.5}, [tmp_path / "report.md", tmp_path / "figures"])
    assert client.get_run(parent).info.status == "KILLED"
    assert {artifact.path for artifact in client.list_artifacts(parent)} == {"report.md", "figures"}
    assert client.get_run(parent).data.tags["mlflow.note.content"] == "what it asks"
    assert Tracker(output).start_study("study", parent, "what it asks", {}) == parent
    assert client.get_run(parent).info.status == "RUNNING"


def test_the_parent_run_links_to_a_comparison_of_its_trials(output: Path, client: MlflowClient) -> None:
    tracker = Tracker(output)
    parent = tracker.start_study("study", None, "what it asks", {})
    ids = [f"{number:032x}" for number in range(60)]
    for compared in (ids[:2], ids):  # a resumed study, whose second link replaces the first
        tracker.end_study(parent, "FINISHED", compare=compared)
    note = client.get_run(parent).data.tags["mlflow.note.content"]
    text, link = note.split("\n\n")
    assert text == "what it asks"
    found = re.fullmatch(r"\[Compare the best 50 trials\]\(#/compare-runs\?runs=(.+)&experiments=(.+)\)", link)
    assert found
    assert json.loads(unquote(found[1])) == ids[:50]
    assert json.loads(unquote(found[2])) == [client.get_run(parent).info.experiment_id]


def test_batches_larger_than_mlflow_takes_are_whole(output: Path, client: MlflowClient) -> None:
    tracker = Tracker(output)
    run = tracker.start_trial(tracker.start_study("study", None, "", {}), 0, {})
    run.log_points([("train/loss", float(step), step) for step in range(MAX_METRICS + 5)])
    run.log_params({f"setting{index}": index for index in range(130)})
    history = client.get_metric_history(run.run_id, "train/loss")
    assert [point.value for point in history] == [float(step) for step in range(MAX_METRICS + 5)]
    assert len(client.get_run(run.run_id).data.params) == 130


def test_runs_of_a_killed_driver_are_found(output: Path, client: MlflowClient) -> None:
    tracker = Tracker(output)
    parent, other = (tracker.start_study(name, None, "", {}) for name in ("study", "other"))
    stale, foreign = tracker.start_trial(parent, 0, {}), tracker.start_trial(other, 0, {})
    done = tracker.start_trial(parent, 1, {})
    done.end("COMPLETE", reason=None, tags={}, metrics={})
    assert [run.run_id for run in tracker.running_trials(parent)] == [stale.run_id]
    assert [run.run_id for run in tracker.running_trials(other)] == [foreign.run_id]
    tracker.end_stale_study(parent)
    assert client.get_run(parent).info.status == "KILLED"
    tracker.end_study(other, "FINISHED")
    tracker.end_stale_study(other)
    assert client.get_run(other).info.status == "FINISHED"
    for gone in ("0" * 32, "no id"):
        assert tracker.running_trials(gone) == []
        tracker.end_stale_study(gone)


def test_what_a_user_deleted_is_made_anew(output: Path, client: MlflowClient) -> None:
    tracker = Tracker(output)
    parent = tracker.start_study("study", None, "", {})
    client.delete_run(parent)
    second = tracker.start_study("study", parent, "", {})
    assert second != parent
    assert client.get_run(second).info.status == "RUNNING"
    client.delete_experiment(client.get_run(second).info.experiment_id)
    third = tracker.start_study("study", second, "", {})
    assert client.get_run(third).info.lifecycle_stage == "active"
    assert len(tracker.studies()) == 1
    moved = tracker.start_study("another study", "0" * 32, "", {})  # of a database that was moved away
    assert client.get_run(moved).info.status == "RUNNING"


def test_everything_lies_in_the_output_folder(output: Path, client: MlflowClient) -> None:
    run_id = Tracker(output).start_study("study", None, "", {})
    assert client.get_run(run_id).info.artifact_uri.startswith((output / "artifacts").resolve().as_uri())


def test_a_damaged_database_is_told(output: Path) -> None:
    (output / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="Move it away"):
        Tracker(output)


def open_and_list(folder: Path) -> dict[str, str]:
    return Tracker(folder).studies()


def test_two_that_open_it_first_both_get_it(tmp_path: Path) -> None:
    """As a driver and `hpo.ui` beside it do: without a lock one of them creates tables that are there already."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(open_and_list, [tmp_path, tmp_path])) == [{}, {}]
