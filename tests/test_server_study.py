"""Whole studies on PostgreSQL: the trials that SQLite has, a server that goes away, a password that nobody sees."""

import shlex
import signal
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from conftest import StudyMaker
from hpo.events import Event, StepDone
from hpo.storage import open_storage
from hpo.study import load_study
from hpo.study_file import parse_study
from hpo.tune import tune
from postgres import PASSWORD, Database
from test_run import hpo
from test_tune import Recorder


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
    tune(first, there, Recorder(), storage=postgres.url)
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
    tune(spec, output, breaker, storage=postgres.url)
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
