"""That the soak's checks can fail: a study that was stopped and went on, and what is broken in a copy of it."""

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial

from benchmarks import soak
from benchmarks.postgres import NotInstalled
from benchmarks.soak_checks import Soaked, ask_doctor, look
from benchmarks.soak_fleet import Kill, Sample, Seen, read_finished
from benchmarks.soak_memory import check_memory, growth
from benchmarks.tiny import tiny_study
from hpo.events import Event, StepDone
from hpo.lease import OWNER
from hpo.study_file import parse_study
from hpo.tune import tune
from test_tune import Recorder

pytestmark = pytest.mark.timeout(180)  # the first one runs the study
NUMBER, FAILED, AGAIN, LOST, RUNS, METRICS, LEFT, WHOLE, ENDED = (
    "exactly the wanted number of trials",
    "what failed was killed",
    "what was killed was tried again, once",
    "no finished trial was lost or changed",
    "one MLflow run a trial, with its state",
    "all metrics in MLflow, once, in order",
    "no process or file is left over",
    "the databases are whole",
    "no driver ended by itself",
)


# The run of the default, in MLflow.
OF_TRIAL = "(SELECT run_uuid FROM tags WHERE key = 'trial.number' AND value = '0')"


class Stopper(Recorder):
    """A user who presses Ctrl-C in trial 1."""

    def take(self, event: Event) -> None:
        super().take(event)
        if isinstance(event, StepDone) and event.number == 1:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def original(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, data_file: Path, migrated_database: Path
) -> Iterator[Path]:
    """Three trials that count, one of them tried again. Pristine: to be copied."""
    output = tmp_path_factory.mktemp("soaked") / "output"
    output.mkdir()
    shutil.copy(migrated_database, output)
    spec = parse_study(tiny_study(model_folder, data_file, metric="eval/loss"), "x")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert tune(spec, output, Stopper()).interrupted
        assert not tune(spec, output, Recorder()).interrupted
    yield output


@pytest.fixture
def soaked(original: Path, tmp_path: Path) -> Soaked:
    output = Path(shutil.copytree(original, tmp_path / "output"))
    seen = Seen(finished=read_finished(None, output, "tiny"))
    return Soaked(output, "tiny", 3, seen, {}, output / "mlflow.db")


def broken(soaked: Soaked) -> dict[str, str]:
    return {check.what: check.found for check in look(soaked) if not check.passed}


def in_optuna(statement: str) -> Callable[[Path], object]:
    return lambda output: _execute(output / "optuna.db", statement)


def in_mlflow(statement: str) -> Callable[[Path], object]:
    return lambda output: _execute(output / "mlflow.db", statement)


def _execute(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        changed = connection.execute(statement.replace("{run}", OF_TRIAL)).rowcount
    assert changed > 0


def write(path: str) -> Callable[[Path], object]:
    def do(output: Path) -> None:
        (output / path).parent.mkdir(exist_ok=True, parents=True)
        (output / path).write_text("left")

    return do


def test_nothing_is_found_where_nothing_is_broken(soaked: Soaked) -> None:
    assert broken(soaked) == {}
    assert len(soaked.seen.finished) == 4  # with the one that was stopped


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (in_optuna("UPDATE trials SET state = 'RUNNING' WHERE number = 0"), {NUMBER, LOST, RUNS}),
        (in_optuna("UPDATE trials SET state = 'WAITING' WHERE number = 0"), {NUMBER, LOST, RUNS}),
        (in_optuna("UPDATE trial_values SET value = value + 1"), {LOST}),
        (in_optuna("UPDATE trial_intermediate_values SET intermediate_value = 7 WHERE step = 2"), {METRICS}),
        (
            in_optuna("UPDATE trial_user_attributes SET value_json = '0' WHERE key = 'retry_of' AND value_json = '1'"),
            {AGAIN},
        ),
        (in_mlflow("DELETE FROM tags WHERE key = 'mlflow.parentRunId' AND run_uuid = {run}"), {RUNS}),
        (in_mlflow("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = {run}"), {RUNS}),
        (in_mlflow("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = {run}"), {RUNS}),
        (in_mlflow("UPDATE runs SET status = 'KILLED' WHERE run_uuid NOT IN (SELECT run_uuid FROM params)"), {RUNS}),
        (in_mlflow("UPDATE tags SET value = '1' WHERE key = 'trial.number' AND run_uuid = {run}"), {RUNS}),
        (
            in_mlflow("UPDATE metrics SET value = 7 WHERE key = 'eval/loss' AND run_uuid = {run} AND step = 2"),
            {METRICS},
        ),
        (in_mlflow("DELETE FROM metrics WHERE key = 'eval/loss' AND run_uuid = {run} AND step = 2"), {METRICS}),
        (in_mlflow("DELETE FROM metrics WHERE key = 'train/loss' AND run_uuid = {run} AND step = 9"), {METRICS}),
        (in_mlflow("DELETE FROM metrics WHERE key = 'seconds' AND run_uuid = {run}"), {METRICS}),
        (
            in_mlflow("UPDATE metrics SET timestamp = 1 WHERE key = 'eval/f1' AND run_uuid = {run} AND step = 3"),
            {METRICS},
        ),
        (
            in_mlflow(
                "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
                "SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics WHERE run_uuid = {run}"
            ),
            {METRICS},
        ),
        (write("tiny/checkpoints/trial-0001.pt"), {LEFT}),
        (write("tiny/.best.yaml.17.tmp"), {LEFT}),
        (write("tiny/weights/.trial-0002/config.json"), {LEFT}),
        (write("cache/.tokens.17.tmp"), {LEFT}),
        (write("spool/1-2-3.jsonl"), {LEFT}),
        (lambda output: next(output.glob("tiny/weights/*")).rename(output / "tiny" / "weights" / "trial-0009"), {LEFT}),
    ],
)
def test_whatever_is_broken_is_found(soaked: Soaked, damage: Callable[[Path], object], found: set[str]) -> None:
    damage(soaked.output)
    assert set(broken(soaked)) == found


def test_a_damaged_page_is_found(soaked: Soaked) -> None:
    with closing(sqlite3.connect(soaked.output / "mlflow.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index = "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = 'metrics' LIMIT 1"
    with closing(sqlite3.connect(soaked.output / "mlflow.db")) as connection:
        (page,) = connection.execute(index).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with (soaked.output / "mlflow.db").open("rb+") as file:
        file.seek((page - 1) * size + 100)
        file.write(bytes(size - 100))
    assert WHOLE in broken(soaked)


def test_what_was_seen_counts(soaked: Soaked) -> None:
    (trial, *_) = soaked.trials
    assert trial.datetime_complete
    kill = Kill("worker", trial.user_attrs[OWNER]["pid"], trial.datetime_complete - timedelta(milliseconds=1))
    seen = replace(soaked.seen, kills=[kill], left=["17 python -m hpo.run"], ended=["exit code 1"])
    assert set(broken(replace(soaked, seen=seen))) == {FAILED, LEFT, ENDED}


def test_a_trial_that_fails_by_itself_is_found(soaked: Soaked) -> None:
    """One too many has ended then, and what it was is tried again without a reason."""
    crashed = '{"state": "FAIL", "reason": "crashed", "retried": false, "metrics": {}}'
    damage = in_optuna(
        f"UPDATE trial_user_attributes SET value_json = '{crashed}' WHERE key = 'result' AND trial_id = 2"
    )
    damage(soaked.output)
    assert set(broken(soaked)) == {NUMBER, FAILED, AGAIN}


def test_the_doctor_is_asked(soaked: Soaked) -> None:
    soaked = replace(soaked, environment=dict(os.environ))
    in_mlflow("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = {run}")(soaked.output)
    check = ask_doctor(soaked)
    assert not check.passed and "trial 0 is COMPLETE, but its run in MLflow RUNNING" in check.found


@pytest.mark.parametrize(("leak", "flat"), [(0.0, True), (0.3, False)])
def test_a_leak_is_told_from_noise(leak: float, flat: bool) -> None:
    """Two lives of a worker, one trial every two seconds, on different levels, with a megabyte of noise."""
    born, noise = datetime(2026, 1, 1), random.Random(0)
    trials, samples = [], []
    for pid, level in ((1, 600.0), (2, 640.0)):
        for second in range(80):
            mib = level + leak * (second // 2) + noise.uniform(-0.5, 0.5)
            at = born + timedelta(seconds=second)
            samples.append(Sample("worker", (pid, born.timestamp()), at, mib))
            if second % 2:
                trial = create_trial(state=TrialState.FAIL, user_attrs={OWNER: {"pid": pid}})
                trial.datetime_complete = at
                trials.append(trial)
    grown = growth("worker", samples, trials)
    assert grown.mib_a_trial == pytest.approx(leak, abs=0.03)
    (check,) = check_memory([grown])
    assert check.passed == flat
    assert check_memory([growth("worker", samples[:40], trials)]) == []  # too few to say anything


def test_without_postgresql_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> Path:
        raise NotInstalled("PostgreSQL is not installed: apt-get install postgresql")

    monkeypatch.setattr(soak, "binaries", missing)
    assert soak.main([]) == 2
    assert "apt-get install postgresql. Or leave it out: --storage sqlite" in capsys.readouterr().err
