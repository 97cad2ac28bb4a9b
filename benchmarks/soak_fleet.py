"""Drivers that are restarted whenever they were killed, what kills them, and what is seen of them meanwhile."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg

from benchmarks.measure import ROOT, say
from hpo.executors.processes import TITLE

LOOK_EVERY = 0.2
# Disturbances in a row without a trial that ended between them: on a slow or busy machine the next one waits for that.
IN_A_ROW = 3
# Seconds between two samples of memory, and of what has finished.
SAMPLE_EVERY = 1.0
# Seconds without a finished trial after which the soak gives up.
STUCK = 300.0
# Of drivers that end by themselves before the study is done.
MAX_ENDED = 5
FINISHED = (
    "SELECT number, state, value FROM trials JOIN studies ON trials.study_id = studies.study_id "
    "LEFT JOIN trial_values ON trial_values.trial_id = trials.trial_id "
    "WHERE studies.study_name = '{name}' AND state IN ('COMPLETE', 'PRUNED', 'FAIL')"
)
Ending = tuple[str, float | None]
"""How a trial ended: its state and its value."""


@dataclass(frozen=True)
class Kill:
    """A process that was sent SIGKILL, and the moment at which it was surely gone."""

    what: str
    pid: int
    at: datetime


@dataclass(frozen=True)
class Sample:
    """The resident memory of one process at one moment."""

    what: str
    process: tuple[int, float]
    """Its number and its start, so that nobody is taken for another one."""
    at: datetime
    mib: float


@dataclass
class Seen:
    """What was seen while the soak ran."""

    finished: dict[int, Ending] = field(default_factory=dict)
    """Every trial that was ever seen to have ended, as it was first seen."""
    kills: list[Kill] = field(default_factory=list)
    restarts: Counter[str] = field(default_factory=Counter)
    """Of servers."""
    memory: list[Sample] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Drivers that ended otherwise than by us or with the study."""
    left: list[str] = field(default_factory=list)
    """Processes that outlived the last driver."""
    calm_since: datetime | None = None
    seconds: float = 0.0

    def killed(self, what: str) -> int:
        return sum(kill.what == what for kill in self.kills)


def read_finished(storage: str | None, output: Path, name: str) -> dict[int, Ending]:
    """The trials that have ended, as the database has them: asked behind the program's back, and read-only."""
    with suppress(sqlite3.OperationalError, psycopg.OperationalError, psycopg.errors.UndefinedTable):
        connection: Any
        if storage is None:
            connection = sqlite3.connect(f"file:{output / 'optuna.db'}?mode=ro", uri=True, timeout=10)
        else:
            connection = psycopg.connect(storage, options="-c default_transaction_read_only=on", connect_timeout=5)
        with closing(connection):
            rows = connection.execute(FINISHED.format(name=name)).fetchall()
        return {number: (state, value) for number, state, value in rows}
    return {}  # not there yet, or away just now


class Driver:
    """`python -m hpo.run`, again and again."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log, self._environment = log, environment
        self._command = [sys.executable, "-m", "hpo.run", *arguments]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """In a session of its own, by which all that it starts is known, also when it is gone. Returns its number."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process.pid

    @property
    def done(self) -> bool:
        return self.process is not None and self.process.poll() == 0


class Fleet:
    """Runs drivers until the study is done, and kills what is theirs as a seed says."""

    def __init__(
        self,
        drivers: Sequence[Driver],
        finished: Callable[[], Mapping[int, Ending]],
        seed: int,
        victims: Mapping[str, float],
        servers: Mapping[str, Callable[[random.Random], None]],
        every: float,
        disturbed_trials: int,
    ) -> None:
        """
        Args:
            victims: what is killed or restarted, with how much of the chance.
            servers: of these, how each is restarted.
            every: so many seconds on average.
            disturbed_trials: once so many have come to their end, nothing is killed any more.
        """
        self.drivers, self.seen = drivers, Seen()
        self._finished, self._servers, self._victims = finished, servers, victims
        self._draw, self._every, self._disturbed_trials = random.Random(seed), every, disturbed_trials
        self._sessions: set[int] = set()
        self._next_at = time.monotonic() + self._gap()
        self._victim = self._drawn()
        self._progress_at = self._sampled_at = time.monotonic()
        self._in_a_row = 0

    def run(self) -> Seen:
        started = time.monotonic()
        try:
            while not all(driver.done for driver in self.drivers):
                self._revive()
                self._look()
                if self.seen.calm_since is None:
                    self._disturb()
                if time.monotonic() - self._progress_at > STUCK or len(self.seen.ended) > MAX_ENDED:
                    self.seen.ended.append(f"no trial has ended for {time.monotonic() - self._progress_at:.0f} s")
                    break
                time.sleep(LOOK_EVERY)
            self._sample_finished()
            # What is ending by itself may take a moment for it.
            psutil.wait_procs(list(self._processes()), timeout=10)
            self.seen.left = [f"{process.pid} {_title(process)}" for process in self._processes()]
        finally:
            for process in self._processes():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            for driver in self.drivers:
                if driver.process is not None:
                    driver.process.wait()
        self.seen.seconds = time.monotonic() - started
        return self.seen

    def _revive(self) -> None:
        for driver in self.drivers:
            code = None if driver.process is None else driver.process.poll()
            if driver.process is not None and (code is None or code == 0):
                continue
            if driver.process is not None and driver.process.pid not in {kill.pid for kill in self.seen.kills}:
                told = driver.log.read_text(errors="replace")[-1500:]
                self.seen.ended.append(f"exit code {code}, having said: {told}")
                say(f"  a driver has ended by itself: exit code {code}, {driver.log}")
            self._sessions.add(driver.start())

    def _look(self) -> None:
        if time.monotonic() - self._sampled_at < SAMPLE_EVERY:
            return
        self._sampled_at = time.monotonic()
        self._sample_finished()
        for process in self._processes():
            with suppress(psutil.Error):
                if what := _what(process):
                    key, mib = (process.pid, process.create_time()), process.memory_info().rss / 2**20
                    self.seen.memory.append(Sample(what, key, datetime.now(), mib))

    def _sample_finished(self) -> None:
        """The first look at each trial counts: what it became later is held against it."""
        new = {number: end for number, end in self._finished().items() if number not in self.seen.finished}
        if not new:
            return
        self.seen.finished |= new
        self._progress_at = time.monotonic()
        if any(state != "FAIL" for state, _ in new.values()):
            self._in_a_row = 0
        ended = sum(state != "FAIL" for state, _ in self.seen.finished.values())
        if len(self.seen.finished) // 20 != (len(self.seen.finished) - len(new)) // 20:
            say(f"  {datetime.now():%H:%M:%S} {ended} trials ended, {len(self.seen.kills)} kills")
        if ended >= self._disturbed_trials and self.seen.calm_since is None:
            self.seen.calm_since = datetime.now()
            say(f"  {ended} trials ended after {len(self.seen.kills)} kills: no more of them")

    def _drawn(self) -> tuple[str, float]:
        """What is next, and which of those there are; drawn whether or not there are any, to be the same each time."""
        (what,) = self._draw.choices(list(self._victims), list(self._victims.values()))
        return what, self._draw.random()

    def _disturb(self) -> None:
        if time.monotonic() < self._next_at or self._in_a_row >= IN_A_ROW:
            return
        what, which = self._victim
        if what in self._servers:
            self._servers[what](self._draw)
            self.seen.restarts[what] += 1
        else:
            there = sorted(
                (process for process in self._processes() if _what(process) == what), key=lambda found: found.pid
            )
            if not there:  # it has just been started: wait for it
                return
            self._kill(what, there[int(which * len(there))])
        self._in_a_row += 1
        self._victim = self._drawn()
        self._next_at = time.monotonic() + self._gap()

    def _gap(self) -> float:
        return self._every * self._draw.uniform(1 / 3, 5 / 3)

    def _kill(self, what: str, process: psutil.Process) -> None:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
            deadline = time.monotonic() + 10
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
                time.sleep(0.001)
        self.seen.kills.append(Kill(what, process.pid, datetime.now()))

    def _processes(self) -> Iterator[psutil.Process]:
        """All that drivers have started and that is alive, its parent or not."""
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) in self._sessions and process.status() != psutil.STATUS_ZOMBIE:
                    yield process


def _what(process: psutil.Process) -> str:
    """A driver, a worker, or nothing that counts: Python's own helpers beside them."""
    title = _title(process)
    return "driver" if "hpo.run" in title else "worker" if title.startswith(TITLE) else ""


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
