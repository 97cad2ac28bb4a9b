"""Whether the owner of a running trial lives: real processes, and machines of which only a heartbeat is heard."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.lease import HEARTBEAT, OWNER, Heartbeat, Watch, _started, host, is_alive, owner
from hpo.storage import open_storage


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def running(owned_by: dict[str, Any] | None, number: int = 0, beat: int | None = None) -> FrozenTrial:
    attributes = {} if owned_by is None else {OWNER: owned_by}
    trial = create_trial(state=TrialState.RUNNING, user_attrs=attributes | ({} if beat is None else {HEARTBEAT: beat}))
    trial.number = number
    return trial


def of(pid: int) -> dict[str, Any]:
    return {"host": host(), "pid": pid, "started": _started(pid)}


def test_a_process_lives_until_it_is_killed_also_before_anybody_has_asked_how_it_ended(
    sleeper: subprocess.Popen[bytes],
) -> None:
    trial = running(of(sleeper.pid))
    assert is_alive(trial) is True
    sleeper.kill()
    while Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert is_alive(trial) is False
    sleeper.wait()
    assert is_alive(trial) is False


def test_another_process_of_its_number_is_not_taken_for_it(sleeper: subprocess.Popen[bytes]) -> None:
    assert is_alive(running(of(sleeper.pid) | {"started": "1"})) is False


def test_of_this_very_process_none_runs_when_it_asks() -> None:
    assert is_alive(running(owner())) is False


@pytest.mark.parametrize("known", [None, {}, {"host": "elsewhere", "pid": 1, "started": "1"}])
def test_of_another_machine_nothing_is_known(known: dict[str, Any] | None) -> None:
    assert is_alive(running(known)) is None


ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": "1"}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_silent_are_dead_after_the_grace_period_and_not_before() -> None:
    clock = Clock()
    watch = Watch(60.0, clock)
    # First seen at 0: how long it had been silent is not known. Its heart beats at 55, and never again.
    for seconds in range(0, 120, 5):
        clock.now = float(seconds)
        dead = watch.dead([running(ELSEWHERE, beat=3 if seconds < 55 else 4)])
        assert bool(dead) == (seconds >= 115), seconds


def test_who_has_not_looked_has_seen_no_silence() -> None:
    """As a driver that waited five minutes for the server to which no heart could beat either."""
    clock = Clock()
    watch = Watch(60.0, clock)
    watch.dead([running(ELSEWHERE, beat=3)])
    for looks in range(1, 8):
        clock.now += 300.0
        assert bool(watch.dead([running(ELSEWHERE, beat=3)])) == (looks >= 6)  # each counts for a sixth


def test_one_that_was_never_heard_is_dead_after_the_grace_period() -> None:
    """It was killed before it could say whose it is."""
    clock = Clock()
    watch = Watch(60.0, clock)
    dead = list[FrozenTrial]()
    for clock.now in (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0):
        assert dead == []
        dead = watch.dead([running(None)])
    assert len(dead) == 1


def test_each_is_watched_for_itself(sleeper: subprocess.Popen[bytes]) -> None:
    clock = Clock()
    watch = Watch(60.0, clock)
    for clock.now in (0.0, 10.0, 20.0, 30.0, 40.0, 50.0):
        watch.dead([running(ELSEWHERE, 0, beat=1)])
    clock.now = 60.0
    trials = [running(ELSEWHERE, 0, beat=1), running(ELSEWHERE, 1, beat=1), running(of(sleeper.pid), 2)]
    assert [trial.number for trial in watch.dead(trials)] == [0]


def test_alone_who_is_not_here_is_nowhere(sleeper: subprocess.Popen[bytes]) -> None:
    trials = [running(ELSEWHERE, 0), running(None, 1), running(of(sleeper.pid), 2), running(owner(), 3)]
    assert [trial.number for trial in Watch(60.0).dead(trials, alone=True)] == [0, 1, 3]


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_is_set_kills_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int, sleeper: subprocess.Popen[bytes]
) -> None:
    """A trial whose heart beats in another thread, seen by a watch that takes it for one of another machine."""
    study = optuna.create_study(storage=open_storage(tmp_path))
    trial = study.ask()
    trial.set_user_attr(OWNER, ELSEWHERE)
    watch, grace_period = Watch(2.0), 2.0
    here = running(of(sleeper.pid), 1)
    with Heartbeat(trial, grace_period):
        assert watch.dead([study.trials[0], here]) == []
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
        until = time.monotonic() + 2 * grace_period
        while time.monotonic() < until:
            assert watch.dead([study.trials[0], here]) == []
            time.sleep(0.1)
        assert study.trials[0].user_attrs[HEARTBEAT] >= 2
    until = time.monotonic() + 30
    while not (dead := watch.dead([study.trials[0], here])) and time.monotonic() < until:
        time.sleep(0.1)
    assert [trial.number for trial in dead] == [0]


def test_the_heart_of_a_trial_that_has_ended_stops(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(tmp_path))
    trial = study.ask()
    heartbeat = Heartbeat(trial, 0.06)
    with heartbeat:
        study.tell(trial, 1.0)
        heartbeat._thread.join(30)
        assert not heartbeat._thread.is_alive()


def test_when_a_process_started_does_not_follow_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """`psutil` adds the time of day at which the machine started, which changes with the clock."""
    before = owner()
    monkeypatch.setattr(time, "time", lambda: datetime(2000, 1, 1).timestamp())
    assert owner() == before and before["pid"] == os.getpid()
    assert _started(2**22 + 1) is None


def test_a_stopped_process_is_alive(sleeper: subprocess.Popen[bytes]) -> None:
    """It may go on: a machine that sleeps is no dead one. What hangs is for `trial_timeout`."""
    sleeper.send_signal(signal.SIGSTOP)
    assert is_alive(running(of(sleeper.pid))) is True
