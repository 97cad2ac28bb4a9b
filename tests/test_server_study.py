"""Whole studies on PostgreSQL: the trials that SQLite has, a server that goes away, a password that nobody sees."""

import shlex
import signal
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import yaml
from optuna.trial import FrozenTrial

from benchmarks.mlflow_server import MlflowServer
from benchmarks.postgres import PASSWORD, Database
from conftest import StudyMaker
from hpo.events import Event, StepDone
from hpo.lease import OWNER
from hpo.storage import open_storage, study_names
from hpo.study import load_study
from hpo.study_file import parse_study
from hpo.tune import tune
from test_run import hpo
from test_tune import Recorder
from workers import long, start_run, wait_until


def table(output: Path, url: str | None) -> list[tuple[Any, ...]]:
    return [
        (trial.number, trial.state, trial.params, trial.values, trial.intermediate_values, trial.user_attrs["config"])
        for trial in load_study(open_storage(output, url), "tiny").trials
    ]


@pytest.mark.timeout(180)
def test_a_resumed_study_has_the_trials_that_sqlite_has(
    raw_study: StudyMaker, output: Path, postgres: Database
) -> None:
    """To the bit."""
    whole, first = (parse_study(raw_study(n_trials=n), "tiny.yaml") for n in (4, 2))
    outcome = tune(whole, output, Recorder())
    there = output.with_name("there")
    tune(first, there, Recorder(), storage=postgres.url, executor="serial")
    assert len(table(there, postgres.url)) == 2
    resumed = tune(whole, there, Recorder(), storage=postgres.url)
    assert table(there, postgres.url) == table(output, None)
    assert not (there / "optuna.db").exists()
    assert resumed.best_yaml and outcome.best_yaml


@pytest.mark.timeout(180)
def test_a_server_that_is_restarted_while_a_trial_runs_costs_nothing(
    raw_study: StudyMaker, output: Path, postgres: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Down for three seconds in the first trial; in the second it is killed and comes back by itself."""

    class Breaker(Recorder):
        def take(self, event: Event) -> None:
            super().take(event)
            if isinstance(event, StepDone) and event.step == 5:
                if event.number == 0:
                    postgres.stop()
                    threading.Timer(3, postgres.start).start()
                elif event.number == 1:
                    postgres.restart(how=signal.SIGQUIT)

    spec = parse_study(raw_study(n_trials=3, pruner={"name": "none"}), "tiny.yaml")
    breaker = Breaker()
    tune(spec, output, breaker, storage=postgres.url, executor="serial")
    assert [(event.number, event.state) for event in breaker.ended] == [(n, "COMPLETE") for n in range(3)]
    assert "answers again" in capsys.readouterr().err
    undisturbed = output.with_name("undisturbed")
    tune(spec, undisturbed, Recorder())
    assert table(output, postgres.url) == table(undisturbed, None)


@pytest.mark.timeout(180)
def test_the_password_is_nowhere(
    study_path: Path, output: Path, postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in what is printed nor in any file; the command that the report repeats goes on where it ended."""
    arguments = ("--study", study_path, "--output", output)
    first = hpo("run", *arguments, "--trials", 2, "--verbose", "--storage", postgres.url)
    assert first.returncode == 0, first.stderr
    report = hpo("report", "--study", "tiny", "--output", output, "--storage", postgres.url)
    assert report.returncode == 0, report.stderr
    page = (output / "tiny" / "report.md").read_text()
    (call,) = [line for line in page.splitlines() if line.startswith("python -m hpo.run")]
    _, _, _, *again = shlex.split(call)
    masked = hpo("run", *again)
    assert masked.returncode == 2 and "the password in --storage is masked" in masked.stderr
    monkeypatch.setenv("OPTUNA_STORAGE", postgres.url)
    third = hpo("run", *again, "--trials", 3)
    assert third.returncode == 0, third.stderr
    assert len(table(output, postgres.url)) == 3
    assert not (output / "optuna.db").exists()
    told = "".join(done.stdout + done.stderr for done in (first, report, masked, third))
    files = [path for path in output.rglob("*") if path.is_file()]
    assert len(files) > 10
    for secret in (PASSWORD, quote(PASSWORD, safe="")):
        assert secret not in told
        assert [path for path in files if secret.encode() in path.read_bytes()] == []


@pytest.mark.timeout(300)
def test_workers_go_through_a_restart(raw_study: StudyMaker, output: Path, postgres: Database) -> None:
    """The server is away for three seconds while both train: every trial ends once, and none is repeated."""
    started: list[int] = []

    class Breaker(Recorder):
        def take(self, event: Event) -> None:
            super().take(event)
            if isinstance(event, StepDone) and event.number == 1 and not started:
                started.append(event.number)
                postgres.stop()
                threading.Timer(3, postgres.start).start()

    breaker = Breaker()
    spec = parse_study(raw_study(n_trials=5, pruner={"name": "none"}), "tiny.yaml")
    tune(spec, output, breaker, storage=postgres.url, workers=2)
    assert started and sorted(event.number for event in breaker.ended) == list(range(5))
    assert {trial.state.name for trial in load_study(open_storage(output, postgres.url), "tiny").trials} == {"COMPLETE"}


@pytest.mark.timeout(300)
def test_the_same_command_on_two_machines_shares_one_study(
    raw_study: StudyMaker, tmp_path: Path, postgres: Database, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with an output folder of its own. One is killed in mid-trial; the other does what is left, and no more."""
    monkeypatch.setenv("OPTUNA_STORAGE", postgres.url)
    raw = long(raw_study, "shared", n_trials=6, grace_period=5)
    path = tmp_path / "shared.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    outputs = [tmp_path / name for name in ("one", "two")]
    first, second = (start_run(output, path) for output in outputs)

    def trials() -> list[FrozenTrial]:
        studies = study_names(open_storage(outputs[0], postgres.url)) if outputs[0].is_dir() else []
        return load_study(open_storage(outputs[0], postgres.url), "shared").trials if "shared" in studies else []

    def both_run() -> bool:
        running = [trial for trial in trials() if trial.state.name == "RUNNING" and len(trial.intermediate_values) > 2]
        trained = {parent.pid for t in running for parent in psutil.Process(t.user_attrs[OWNER]["pid"]).parents()}
        return {first.pid, second.pid} <= trained

    wait_until(both_run, "moment at which both train")
    for process in psutil.Process(first.pid).children(recursive=True):  # as a machine that goes: all at once
        process.kill()
    first.kill()
    first.communicate()
    _, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    states = [trial.state.name for trial in trials()]
    assert states.count("COMPLETE") == 6 and states.count("FAIL") == 1 and len(states) == 7
    (killed,) = (trial for trial in trials() if trial.state.name == "FAIL")
    assert killed.user_attrs["result"]["reason"] == "killed"
    assert sum(trial.user_attrs.get("retry_of") == killed.number for trial in trials()) == 1
    experiment = server.client.get_experiment_by_name("shared")
    runs = {run.info.run_name: run.info.status for run in server.client.search_runs([experiment.experiment_id])}
    assert runs.pop("shared") == "FINISHED"  # one parent for both
    assert runs.pop(f"trial-{killed.number:04d}") == "FAILED"
    assert list(runs.values()) == ["FINISHED"] * 6
    assert (outputs[1] / "shared" / "best.yaml").exists()
