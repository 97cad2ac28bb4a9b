"""MLflow: states are true, nothing is dropped by its limits, one database an output folder."""

import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from hpo.errors import StorageError
from hpo.tracking import Dataset, RunsTable, Tracker, TrialRun, tracking_uri
from hpo.tracking_run import metric_name, now


@pytest.fixture
def client(output: Path) -> MlflowClient:
    return MlflowClient(tracking_uri(output))


@pytest.mark.parametrize(("state", "status"), [("COMPLETE", "FINISHED"), ("PRUNED", "KILLED"), ("FAIL", "FAILED")])
def test_states_are_true(output: Path, client: MlflowClient, state: str, status: str) -> None:
    tracker = Tracker(output)
    parent = tracker.start_study("study", None, "what it asks", {"fallback_for": "other"})
    run = tracker.start_trial(parent, 7, {}, now())
    assert client.get_run(run.run_id).info.status == "RUNNING"
    run.end(state, reason="why", tags={"trial.pruned_step": "3"}, metrics={"seconds": 2.0}, traceback="Traceback ...")
    tracker.flush()
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
    found = re.match(r"\[Compare the best 50 trials\]\(#/compare-runs\?runs=(.+?)&experiments=(.+?)&", link)
    assert found
    assert json.loads(unquote(found[1])) == ids[:50]
    experiment_id = client.get_run(parent).info.experiment_id
    assert json.loads(unquote(found[2])) == [experiment_id]
    assert f"[All trials](#/experiments/{experiment_id}/runs?" in link
    assert f"[Report](#/experiments/{experiment_id}/runs/{parent}/artifacts/report.html?" in link


def test_the_longest_description_and_comparison_are_taken(output: Path, client: MlflowClient) -> None:
    tracker = Tracker(output)
    parent = tracker.start_study("study", None, "", {})
    tracker.end_study(parent, "FINISHED", compare=[f"{number:032x}" for number in range(60)], note="so " * 4000)
    note = client.get_run(parent).data.tags["mlflow.note.content"]
    assert note.startswith("so so") and "[Compare the best 50 trials]" in note


def test_the_page_of_a_study_shows_its_trials_the_best_first(output: Path, client: MlflowClient) -> None:
    tracker = Tracker(output)
    table = RunsTable("eval/loss", False, ["eval/loss", "seconds"], [f"parameter_{n}" for n in range(500)])
    parent = tracker.start_study("study", None, "", {}, table=table)
    tracker.start_study("plain", None, "", {})
    pages = tracker.studies()
    assert "viewStateShareKey=hpo" in pages["study"] and "viewStateShareKey" not in pages["plain"]
    view = json.loads(client.get_experiment_by_name("study").tags["mlflow.sharedViewState.hpo"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`eval/loss`", True)
    assert view["searchFilter"] == f"tags.`mlflow.parentRunId` = '{parent}'"
    assert view["selectedColumns"][:3] == ["metrics.`eval/loss`", "metrics.`seconds`", "params.`parameter_0`"]


def test_the_data_of_a_run_are_its_inputs_once(output: Path, client: MlflowClient) -> None:
    tracker = Tracker(output)
    run = new_run(tracker)
    for _ in range(2):  # as a spool that is sent again does
        run.log_inputs([data_set("train", "1"), data_set("validation", "2")])
    tracker.flush()
    inputs = client.get_run(run.run_id).inputs.dataset_inputs
    found = {each.tags[0].value: (each.dataset.name, each.dataset.digest, each.tags[0].key) for each in inputs}
    assert len(inputs) == 2
    assert found == {
        "train": ("reviews", "1", "mlflow.data.context"),
        "validation": ("reviews", "2", "mlflow.data.context"),
    }


def data_set(context: str, digest: str) -> Dataset:
    return Dataset(context, "reviews", digest, "local", '{"uri": "reviews.csv"}', "{}", "{}")


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("f1/positive", "f1/positive"),
        ("f1/c++", "f1/c__"),
        ("f1/R&D costs", "f1/R_D costs"),
        ("f1/..", "f1/_"),
        ("f1/", "f1/_"),
        ("f1/très bon", "f1/très bon"),
        (f"f1/{'x' * 300}", f"f1/{'x' * 197}"),
    ],
)
def test_a_metric_of_any_class_is_taken(output: Path, client: MlflowClient, name: str, taken: str) -> None:
    assert metric_name(name) == taken
    tracker = Tracker(output)
    run = new_run(tracker)
    run.log_points([(metric_name(name), 0.5, 0)])
    tracker.flush()
    assert client.get_run(run.run_id).data.metrics == {taken: 0.5}


def new_run(tracker: Tracker, study: str = "study") -> TrialRun:
    return tracker.start_trial(tracker.start_study(study, None, "", {}), 0, {}, now())


def test_batches_larger_than_mlflow_takes_are_whole(output: Path, client: MlflowClient) -> None:
    tracker = Tracker(output)
    run = new_run(tracker)
    run.log_points([("train/loss", float(step), step) for step in range(2500)])
    run.log_params({f"setting{index}": index for index in range(130)})
    run.set_tags({f"tag{index}": "told" for index in range(130)})
    tracker.flush()
    history = client.get_metric_history(run.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(step, float(step)) for step in range(2500)]
    stored = client.get_run(run.run_id).data
    assert stored.params == {f"setting{index}": str(index) for index in range(130)}
    assert list(stored.tags.values()).count("told") == 130


def test_points_that_wait_leave_together_in_order_and_with_the_time_of_logging(
    output: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    log_batch = MlflowClient.log_batch

    def counted(client: MlflowClient, run_id: str, *batch: Any) -> None:
        sent.append(run_id)
        log_batch(client, run_id, *batch)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    tracker, sending = Tracker(output), threading.Event()
    run = new_run(tracker)
    tracker.flush()
    sent.clear()
    tracker._writer._thread.submit(sending.wait, 30)
    before = time.time_ns() // 1_000_000
    for step in range(200):
        run.log_points([("eval/loss", float(step), step), ("eval/accuracy", 0.5, step)])
    run.log_params({"seed": 1})
    run.end("COMPLETE", reason=None, tags={}, metrics={"seconds": 2.0})
    after = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == after:  # now it is later
        pass
    sending.set()
    tracker.flush()
    assert sent == [run.run_id]
    history = client.get_metric_history(run.run_id, "eval/loss")
    assert [(point.step, point.value) for point in history] == [(step, float(step)) for step in range(200)]
    stored = client.get_run(run.run_id)
    assert all(before <= time <= after for time in [*(point.timestamp for point in history), stored.info.end_time])
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"seed": "1"}
    assert stored.data.metrics == {"eval/loss": 199.0, "eval/accuracy": 0.5, "seconds": 2.0}


def test_what_mlflow_refuses_is_raised_and_holds_nothing_up(output: Path, client: MlflowClient) -> None:
    tracker = Tracker(output)
    run = new_run(tracker)
    with pytest.raises(MlflowException, match="a name, no"):
        run.log_points([("a name, no?", 1.0, 1)])
        tracker.flush()
    run.log_points([("eval/loss", 1.0, 1)])
    run.end("FAIL", reason="why", tags={}, metrics={})
    tracker.flush()
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FAILED"
    assert stored.data.metrics == {"eval/loss": 1.0}


def test_what_reads_sees_all_that_was_logged_and_hears_of_what_failed(output: Path) -> None:
    tracker = Tracker(output)
    parent = tracker.start_study("study", None, "", {})
    first, second = (tracker.start_trial(parent, number, {}, now()) for number in range(2))
    for step in range(300):
        first.log_points([("eval/loss", 1.0, step)])
    first.end("COMPLETE", reason=None, tags={}, metrics={})
    assert [run.run_id for _, run in tracker.running_trials(parent)] == [second.run_id]
    with pytest.raises(MlflowException, match="a name, no"):
        second.set_tags({"a name, no?": ""})
        tracker.running_trials(parent)


def test_the_end_of_a_study_is_told_although_something_failed_before(output: Path, client: MlflowClient) -> None:
    tracker = Tracker(output)
    parent = tracker.start_study("study", None, "", {})
    tracker._writer.refused(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        tracker.end_study(parent, "FAILED")
    tracker.flush()
    assert client.get_run(parent).info.status == "FAILED"


def test_many_that_write_at_once_do_not_lock_each_other_out(output: Path, client: MlflowClient) -> None:
    """Two trackers with a thread each, and their callers, who create, read and end runs beside them."""

    def hammer(name: str) -> str:
        tracker = Tracker(output)
        parent = tracker.start_study(name, None, "", {})
        for number in range(4):
            run = tracker.start_trial(parent, number, {}, now())
            for step in range(10):
                run.log_points([("eval/loss", float(step), step)])
                assert [running.run_id for _, running in tracker.running_trials(parent)] == [run.run_id]
                run.set_tags({"step": str(step)})
            run.end("COMPLETE", reason=None, tags={}, metrics={})
        tracker.end_study(parent, "FINISHED")
        return parent

    with ThreadPoolExecutor(2) as pool:
        parents = list(pool.map(hammer, ["one", "other"]))
    for parent in parents:
        runs = client.search_runs(
            [client.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
        )
        assert [run.info.status for run in runs] == ["FINISHED"] * 4
        assert {(run.data.tags["step"], run.data.metrics["eval/loss"]) for run in runs} == {("9", 9.0)}


CHILD = """
import os, signal, sys, time
from pathlib import Path
from hpo.tracking import tracker_of
from hpo.tracking_run import now

signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell started the tests with `&`, it is ignored

def log(name):
    tracker = tracker_of(Path(sys.argv[1]))
    run = tracker.start_trial(tracker.start_study(name, None, "", {}), 0, {}, now())
    tracker._writer._thread.submit(time.sleep, 0.3)
    for step in range(200):
        run.log_points([("eval/loss", float(step), step)])
    run.end("COMPLETE", reason=None, tags={}, metrics={})

log("parent")
if os.fork():
    os.wait()
else:
    log("child")
signal.raise_signal(signal.SIGINT)
"""


def test_ctrl_c_loses_nothing_nor_does_a_forked_process(output: Path, client: MlflowClient) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(output)], capture_output=True, text=True, timeout=50)
    assert done.returncode == -2 and done.stderr.count("KeyboardInterrupt") == 2, done.stderr
    for name in ("parent", "child"):
        experiment = client.get_experiment_by_name(name)
        (run,) = client.search_runs([experiment.experiment_id], "tags.`trial.number` = '0'")
        assert run.info.status == "FINISHED"
        assert [point.step for point in client.get_metric_history(run.info.run_id, "eval/loss")] == list(range(200))


def test_runs_of_a_killed_driver_are_found(output: Path, client: MlflowClient) -> None:
    tracker = Tracker(output)
    parent, other = (tracker.start_study(name, None, "", {}) for name in ("study", "other"))
    stale, foreign = tracker.start_trial(parent, 0, {}, now()), tracker.start_trial(other, 0, {}, now())
    done = tracker.start_trial(parent, 1, {}, now())
    done.end("COMPLETE", reason=None, tags={}, metrics={})
    assert [run.run_id for _, run in tracker.running_trials(parent)] == [stale.run_id]
    assert [run.run_id for _, run in tracker.running_trials(other)] == [foreign.run_id]
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


def test_who_is_killed_while_it_makes_the_database_stops_nobody_after_it(tmp_path: Path) -> None:
    """MLflow makes its tables one by one, and would refuse a database that has some of them."""
    maker = get_context("spawn").Process(target=open_and_list, args=(tmp_path,))
    maker.start()
    names = ("mlflow.db", ".mlflow.db.making")
    while not any(path.stat().st_size > 200_000 for name in names if (path := tmp_path / name).exists()):
        assert maker.is_alive()
        time.sleep(0.001)
    maker.kill()
    maker.join()
    assert open_and_list(tmp_path) == {}
    assert {path.name for path in tmp_path.iterdir()} <= {
        "mlflow.db",
        "mlflow.db-wal",
        "mlflow.db-shm",
        ".mlflow.db.lock",
    }
