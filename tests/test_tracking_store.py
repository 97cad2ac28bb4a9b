"""A real MLflow server that comes and goes: nothing is lost, doubled or out of order, and no training waits."""

import http.server
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import optuna
import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException

from benchmarks.mlflow_server import MlflowServer
from conftest import StudyMaker
from hpo.errors import StorageError
from hpo.events import Event, StepDone, TrialEnded
from hpo.export import read_exported
from hpo.study_file import parse_study
from hpo.tracking import Tracker, TrialRun, tracker_of, tracking_uri
from hpo.tracking_run import RUN_STATUS, now
from hpo.tracking_spool import Entry, SpoolFile
from hpo.tracking_store import TrackingStore, is_away, stand_in, within, without_password, write_ahead
from hpo.tune import tune
from test_tune import Recorder

ROOT = Path(__file__).parent.parent
# A server takes seconds to start, and more where others use the machine.
pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def name() -> str:
    """Of a study: the server is that of all tests."""
    return f"study-{uuid4().hex[:8]}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def forget(tracker: Tracker) -> None:
    """What waits for a server that will not be back."""
    with tracker._writer._lock:
        assert tracker._spool._own is not None
        tracker._spool._own.remove()
        tracker._spool._own = None


def log_steps(run: TrialRun, steps: range) -> None:
    for step in steps:
        run.log_points([("loss", step / 2, step)])


def wait_until_sent(tracker: Tracker) -> None:
    deadline = time.monotonic() + 40
    while tracker._writer.is_away:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    tracker.flush()


def test_what_is_done_twice_is_there_once(server: MlflowServer, name: str, folder: Path) -> None:
    tracker, store = Tracker(folder), TrackingStore(tracking_uri(folder))
    parent = tracker.start_study(name, None, "what it asks", {})
    run = stand_in(uuid4().hex)
    metrics = [["loss", 1.0, 5, 1], ["loss", 2.0, 5, 2], ["loss", float("nan"), 6, 3], ["lr", float("inf"), 6, 3]]
    entries = [
        Entry("create_run", run, {"parent": parent, "name": "trial", "tags": {"told": "once"}, "start_time": 5}),
        Entry("log_batch", run, {"metrics": metrics, "params": [["seed", "1"]], "tags": [["device", "cpu"]]}),
        Entry("log_text", run, {"text": "Traceback", "file": "traceback.txt"}),
        Entry("log_artifact", run, {"path": str(Path(__file__))}),
        Entry("log_artifact", run, {"path": str(folder / "gone")}),
        Entry("link_comparison", parent, {"compare": [run, stand_in("0" * 32)]}),
        Entry("set_terminated", run, {"status": "FINISHED", "end_time": 9}),
    ]
    for entry in [*entries, *entries]:
        store.do(Entry(**json.loads(json.dumps(vars(entry)))))
    for entry in entries:  # a process that knows nothing of the first
        TrackingStore(tracking_uri(folder)).do(entry)
    stored = server.runs(name)["trial"]
    assert server.steps(stored, "loss") == [1, 2, 3] and server.steps(stored, "lr") == [3]
    assert stored.data.params == {"seed": "1"} and stored.data.tags["device"] == "cpu"
    assert (stored.info.status, stored.info.start_time, stored.info.end_time) == ("FINISHED", 5, 9)
    artifacts = store.client.list_artifacts(stored.info.run_id)
    assert [artifact.path for artifact in artifacts] == [Path(__file__).name, "traceback.txt"]
    note = server.runs(name)[name].data.tags["mlflow.note.content"]
    assert note.startswith("what it asks\n\n[Compare the best 1 trials]") and stored.info.run_id in note


def test_a_server_keeps_artifacts_in_its_own_place(server: MlflowServer, name: str, folder: Path) -> None:
    Tracker(folder).start_study(name, None, "", {})
    assert server.client.get_experiment_by_name(name).artifact_location.startswith("mlflow-artifacts:/")
    assert list(folder.iterdir()) == []  # no database, and nothing to be sent later


def test_a_server_that_is_killed_and_comes_back_has_it_all(
    server: MlflowServer, name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker(folder)
    parent = tracker.start_study(name, None, "", {})
    first = tracker.start_trial(parent, 0, {}, now())
    log_steps(first, range(50))
    server.kill()
    log_steps(first, range(50, 100))
    first.end("PRUNED", reason="fell behind", tags={}, metrics={"seconds": 2.0})
    tracker.flush()
    assert first.run_id in server.runs(name)["trial-0000"].info.run_id
    second = tracker.start_trial(parent, 1, {"trial.default": "false"}, now())
    pending = second.run_id
    second.log_params({"seed": 7})
    log_steps(second, range(100))
    second.end("FAIL", reason="crashed", tags={}, metrics={}, traceback="Traceback ...")
    tracker.flush()
    assert tracker.running_trials(parent) == [] and tracker.created([pending]) == {}
    tracker.end_study(parent, "FINISHED", {"best": 0.5}, compare=[first.run_id, pending])
    assert set(server.runs(name)) == {name, "trial-0000"}
    server.start()
    wait_until_sent(tracker)
    runs = server.runs(name)
    assert {run: runs[run].info.status for run in runs} == {
        name: "FINISHED",
        "trial-0000": "KILLED",
        "trial-0001": "FAILED",
    }
    for trial in ("trial-0000", "trial-0001"):
        assert server.steps(runs[trial], "loss") == list(range(100))
    assert runs["trial-0001"].data.params == {"seed": "7"}
    assert runs["trial-0001"].data.tags["mlflow.parentRunId"] == parent
    assert second.run_id == runs["trial-0001"].info.run_id
    assert tracker.created([pending, "an id"]) == Tracker(folder).created([pending]) == {pending: second.run_id}
    assert second.run_id in runs[name].data.tags["mlflow.note.content"]
    assert list((folder / "spool").iterdir()) == []
    third = tracker.start_trial(parent, 2, {}, now())  # all is as before
    log_steps(third, range(3))
    tracker.flush()
    assert server.steps(server.runs(name)["trial-0002"], "loss") == [0, 1, 2]


FORK = """
import os, signal, sys, time
from pathlib import Path
from hpo.tracking import tracker_of
from hpo.tracking_run import now

output, parent, lasts = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
children = []
for number, last in enumerate(lasts):
    child = os.fork()  # imports take longer than all that they do
    if not child:
        break
    children.append(child)
else:
    print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    sys.exit()
tracker = tracker_of(output)
run = tracker.start_trial(parent, number, {}, now())
"""
LEAVE = """
for step in range(200):
    run.log_points([("loss", float(step), step)])
if last == "end":
    run.end("COMPLETE", reason=None, tags={}, metrics={})
tracker.flush()
if last == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def forked(program: str, folder: Path, parent: str, *lasts: str) -> "subprocess.CompletedProcess[str]":
    """Processes that each start a trial and do the same, each to its own end."""
    command = [sys.executable, "-W", "ignore", "-c", FORK + program, str(folder), parent, *lasts]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)


def test_what_dead_processes_left_is_sent_by_the_next_one(server: MlflowServer, name: str, folder: Path) -> None:
    """A process killed, and one that ended, while the server was away; then two at once who may send it."""
    parent = Tracker(folder).start_study(name, None, "", {})
    server.kill()
    done = forked(LEAVE, folder, parent, "kill", "end")
    assert done.stdout == "[-9, 0]\n"
    assert done.stderr.startswith(f"MLflow ({server.address}) does not answer: ")
    assert done.stderr.endswith(f"The next `python -m hpo.run --output {folder}` sends what waits.\n")
    with pytest.raises(StorageError, match=f"MLFLOW_TRACKING_URI .* got {server.address}: .*refused"):
        Tracker(folder).send_waiting()
    half = next(iter(sorted((folder / "spool").glob("*.jsonl"))))
    half.write_bytes(half.read_bytes() + b'{"do": "log_batch", "ru')
    server.start()
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda tracker: tracker.send_waiting(), [Tracker(folder), Tracker(folder)]))
    assert any("404 entries" in note or "403 entries" in note for notes in told for note in notes), told
    runs = server.runs(name)
    assert server.steps(runs["trial-0000"], "loss") == server.steps(runs["trial-0001"], "loss") == list(range(200))
    assert runs["trial-0000"].info.status == "RUNNING" and runs["trial-0001"].info.status == "FINISHED"
    assert Tracker(folder).send_waiting() == []
    assert list((folder / "spool").iterdir()) == []


def test_what_the_server_refuses_for_good_holds_nothing_up(server: MlflowServer, name: str, folder: Path) -> None:
    tracker = Tracker(folder)
    parent = tracker.start_study(name, None, "", {})
    deleted, kept = (tracker.start_trial(parent, number, {}, now()) for number in range(2))
    server.kill()
    for step in range(3):
        log_steps(deleted, range(step, step + 1))
        log_steps(kept, range(step, step + 1))
    tracker.flush()
    server.client.delete_run(deleted.run_id)
    server.start()
    with pytest.raises(MlflowException, match="Current state is deleted"):
        wait_until_sent(tracker)
    assert server.steps(server.runs(name)["trial-0001"], "loss") == [0, 1, 2]
    left = SpoolFile.create(folder / "spool", server.address)
    left.append([Entry("log_batch", run.run_id, {"tags": [["late", "1"]]}) for run in (deleted, kept)])
    left.release()  # as if its process had died
    sent, refused = Tracker(folder).send_waiting()
    assert "2 entries" in sent and "refused 1 of them" in refused and "deleted" in refused
    assert server.runs(name)["trial-0001"].data.tags["late"] == "1"


def test_a_server_that_takes_connections_and_never_answers_holds_nothing_up(
    server: MlflowServer, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    tracker = Tracker(folder)
    parent = tracker.start_study(name, None, "", {})
    run = tracker.start_trial(parent, 0, {}, now())
    server.hold()
    try:
        log_steps(run, range(50))
        tracker.flush()
        assert tracker._writer.is_away
        log_steps(run, range(50, 100))
        other = tracker.start_trial(parent, 1, {}, now())
        log_steps(other, range(10))
        tracker.flush()
        with pytest.raises(StorageError, match="MLFLOW_TRACKING_URI"):
            tracker.studies()
    finally:
        server.go_on()
    wait_until_sent(tracker)
    runs = server.runs(name)
    assert server.steps(runs["trial-0000"], "loss") == list(range(100))
    assert server.steps(runs["trial-0001"], "loss") == list(range(10))


def test_nobody_waits_for_an_answer_that_does_not_come() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        within(0.2, lambda: time.sleep(3))
    with pytest.raises(ZeroDivisionError):
        within(30, lambda: 1 // 0)
    assert within(30, lambda: None) is None


@contextmanager
def answering(status: int) -> Iterator[tuple[str, list[str | None]]]:
    """A server that gives everybody the same answer; its address and who asked."""
    seen: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.send_response(status)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "away"), [(503, True), (502, True), (429, True), (500, False), (401, False), (404, False)]
)
def test_what_may_succeed_later_is_told_from_what_may_not(status: int, away: bool) -> None:
    with answering(status) as (address, _), pytest.raises(MlflowException) as raised:
        TrackingStore(f"http://{address}").log_batch("run", metrics=[("loss", 1.0, 1, 1)])
    assert is_away(raised.value) is away


def test_a_locked_database_is_away_and_a_full_one_is_not(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/a.db", connect_args={"timeout": 0})
    other = sqlite3.connect(tmp_path / "a.db")
    other.execute("CREATE TABLE t (value)")
    other.execute("BEGIN EXCLUSIVE")
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.OperationalError) as raised:
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
    assert is_away(raised.value)
    other.rollback()
    other.close()
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.OperationalError) as raised:
        connection.execute(sqlalchemy.text("PRAGMA max_page_count = 2"))
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (zeroblob(100000))"))
    assert not is_away(raised.value)
    engine.dispose()


def test_a_password_reaches_the_server_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(variable, "")  # restored afterwards
    with answering(503) as (address, seen):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hush%40hush@{address}")
        tracker = Tracker(tmp_path)
        with pytest.raises(StorageError, match=rf"got http://me:\*\*\*@{address}: ") as raised:
            tracker.send_waiting()
        assert set(seen) == {"Basic bWU6aHVzaEBodXNo"}  # me:hush@hush
        tracker.start_trial("parent", 0, {}, now())
        tracker.flush()
    shown = [str(error) for error in (raised.value, raised.value.__cause__)]
    files = [path.read_text() for path in tmp_path.rglob("*.jsonl")]
    assert len(files) == 1
    forget(tracker)
    assert not any("hush" in text for text in [*shown, *files, *capfd.readouterr()])


@pytest.mark.parametrize(
    "address", ["http://[::1", "nonsense://me:hush@host", "file:///tmp/runs", "http://127.0.0.1:9"]
)
def test_an_address_that_is_none_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(StorageError, match="MLFLOW_TRACKING_URI must be") as raised:
        Tracker(tmp_path).send_waiting()
    assert "hush" not in str(raised.value)


def test_a_database_in_use_is_switched_to_a_write_ahead_log_the_next_time(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    other = sqlite3.connect(database)
    other.execute("CREATE TABLE t (value)")
    other.execute("BEGIN EXCLUSIVE")
    write_ahead(database)
    other.rollback()
    assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    write_ahead(database)
    assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)  # sees it with what it reads next
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


def test_an_address_without_a_password_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    for uri in ("http://host:5000/a", "http://me@host", "postgresql://me:hush@host/db", "sqlite:////a/b.db"):
        assert without_password(uri) == uri
    assert "MLFLOW_TRACKING_USERNAME" not in os.environ


HAMMER = """
step, deadline = 0, time.monotonic() + 3
while time.monotonic() < deadline:
    run.log_points([("loss", float(step), step), ("rate", 0.5, step)])
    if step % 20 == 0:
        tracker.flush()
    step += 1
    time.sleep(0.001)
run.end("COMPLETE", reason=None, tags={"steps": str(step)}, metrics={})
tracker.flush()
"""


def test_many_processes_write_to_one_database(output: Path) -> None:
    tracker = Tracker(output)
    client = tracker._store.client
    parent = tracker.start_study("study", None, "", {})
    done = forked(HAMMER, output, parent, *["end"] * 4)
    assert (done.stdout, done.stderr) == ("[0, 0, 0, 0]\n", "")
    runs = client.search_runs([client.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert len(runs) == 4
    for run in runs:
        assert run.info.status == "FINISHED"
        steps = list(range(int(run.data.tags["steps"])))
        assert len(steps) > 20
        for metric in ("loss", "rate"):
            assert [point.step for point in client.get_metric_history(run.info.run_id, metric)] == steps
    assert not (output / "spool").exists()
    connection = sqlite3.connect(output / "mlflow.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@contextmanager
def doing(recorder: Recorder, at: Callable[[Event], None]) -> Iterator[None]:
    """Does something at the events of a study."""

    def take(event: Event) -> None:
        recorder.events.append(event)
        at(event)

    recorder.take = take  # type: ignore[method-assign]
    yield


def assert_whole(server: MlflowServer, study: optuna.Study, ids: dict[int, str]) -> None:
    """All that the trials of a study logged is there, once and in order, and their states are true."""
    runs = server.runs(study.study_name)
    assert runs.pop(study.study_name).info.status == "FINISHED"
    assert len(runs) == len(study.trials)
    for trial in study.trials:
        run = runs[f"trial-{trial.number:04}"]
        assert ids[trial.number] == run.info.run_id
        assert run.info.status == RUN_STATUS[trial.state.name]
        assert run.data.tags["trial.state"] == trial.state.name
        assert run.data.params["learning_rate"] == str(trial.user_attrs["config"]["training"]["learning_rate"])
        scores = server.client.get_metric_history(run.info.run_id, "eval/accuracy")
        assert {point.step: point.value for point in scores} == trial.intermediate_values
        assert len(scores) == len(trial.intermediate_values)
        steps = trial.user_attrs["result"]["optimizer_steps"]
        for curve in ("train/loss", "train/grad_norm"):
            assert server.steps(run, curve) == list(range(1, steps + 1))


def run_ids(study: optuna.Study) -> dict[int, str]:
    known = study.user_attrs.get("mlflow_run_ids", {})
    return {trial.number: known.get(run := trial.user_attrs["mlflow_run_id"], run) for trial in study.trials}


def test_a_study_goes_on_while_its_server_is_killed_and_started_again(
    server: MlflowServer, raw_study: StudyMaker, name: str, folder: Path
) -> None:
    recorder = Recorder()

    def at(event: Event) -> None:
        if isinstance(event, StepDone) and (event.number, event.step) == (0, 5):
            server.kill()
        if isinstance(event, TrialEnded):
            assert tracker_of(folder)._writer.is_away is (event.number < 2)
            if event.number == 1:
                server.start()
                wait_until_sent(tracker_of(folder))

    with doing(recorder, at):
        outcome = tune(parse_study(raw_study(name=name, n_trials=3), "tiny.yaml"), folder, recorder)
    assert len(recorder.ended) == 3 and not outcome.interrupted
    wait_until_sent(tracker_of(folder))
    assert_whole(server, outcome.study, run_ids(outcome.study))
    assert "trial.retry_of" not in server.runs(name)["trial-0001"].data.tags


def test_a_study_ends_without_its_server_and_the_next_call_sends_what_waits(
    server: MlflowServer, raw_study: StudyMaker, name: str, folder: Path
) -> None:
    spec, first, second = parse_study(raw_study(name=name, n_trials=2), "tiny.yaml"), Recorder(), Recorder()

    def at(event: Event) -> None:
        if isinstance(event, StepDone) and (event.number, event.step) == (0, 5):
            server.kill()

    with doing(first, at):
        outcome = tune(spec, folder, first)
    assert outcome.best_yaml and outcome.best_yaml.exists() and outcome.report.markdown.exists()
    assert read_exported(outcome.best_yaml).score == outcome.study.best_value
    with pytest.raises(StorageError, match="MLFLOW_TRACKING_URI"):
        tune(spec, folder, Recorder())
    server.start()
    outcome = tune(spec, folder, second)
    assert second.ended == [] and second.notes[0].startswith("Sent to MLflow what had waited for it on disk: ")
    ids = run_ids(outcome.study)
    assert_whole(server, outcome.study, ids)
    assert not any(run_id.startswith("hpo.key=") for run_id in ids.values())
    assert outcome.best_yaml and read_exported(outcome.best_yaml).mlflow_run_id == ids[outcome.study.best_trial.number]
    artifacts = tracker_of(folder)._store.client.list_artifacts(server.runs(name)[name].info.run_id)
    assert {"report.md", "best.yaml", "figures"} <= {artifact.path for artifact in artifacts}
