"""Whose a running trial is, and whether its owner still lives.

No clock of another machine is believed, nor this one's when it is set: an owner on this machine is looked up among its
processes, and one elsewhere is dead when its heartbeat, a mere count, has stood still for as long as the grace period.
Optuna's own heartbeat compares times of day, and fails live trials when a clock jumps.
"""

import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

OWNER, HEARTBEAT = "owner", "heartbeat"
# Heartbeats in a grace period: some may come late or be lost.
BEATS = 6


def owner() -> dict[str, Any]:
    """This process, as a trial's attribute tells all machines."""
    pid = os.getpid()
    return {"host": host(), "pid": pid, "started": _started(pid)}


def host() -> str:
    """This machine since it was last started, and the processes that this one can see of it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    processes = Path("/proc/self/ns/pid")
    seen = os.readlink(processes) if processes.is_symlink() else ""
    return " ".join(filter(None, (platform.node(), boot.read_text().strip() if boot.exists() else "", seen)))


def is_alive(trial: FrozenTrial) -> bool | None:
    """Whether another process runs a trial; None where this machine cannot tell."""
    known: Mapping[str, Any] = trial.user_attrs.get(OWNER, {})
    if known.get("host") != host():
        return None
    return known["pid"] != os.getpid() and bool(_started(known["pid"]) == known["started"])


def _started(pid: int) -> str | None:
    """When a process started, so that another one of its number is not taken for it; None if it has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        # In ticks since the machine started: the time of day changes whenever the clock is set.
        return stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else str(process.create_time())
    except (psutil.Error, OSError):
        return None


class Heartbeat:
    """Counts on in a running trial's attributes, from a thread, until it is left."""

    def __init__(self, trial: optuna.Trial, grace_period: float) -> None:
        self._every = grace_period / BEATS
        self._trial_id, self._storage = trial._trial_id, trial.study._storage  # the trial itself is not for two threads
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._left.set()
        self._thread.join()

    def _beat(self) -> None:
        beats = 0
        while not self._left.wait(self._every):
            beats += 1
            try:
                self._storage.set_trial_user_attr(self._trial_id, HEARTBEAT, beats)
            except UpdateFinishedTrialError:  # it has just ended, or was taken for dead: whoever runs it will find out
                return
            except Exception:  # the storage is away: the trial has its own calls that say so
                continue


class Watch:
    """Looks at running trials again and again, from a process that runs none at the time, and says which are dead."""

    def __init__(self, grace_period: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace_period, self._clock = grace_period, clock
        self._looked = clock()
        self._seen: dict[int, tuple[object, float]] = {}
        """The last heartbeat of a trial, and for how many seconds it has been that."""

    def dead(self, running: Iterable[FrozenTrial], *, alone: bool = False) -> list[FrozenTrial]:
        """Those whose owner is gone, or has been silent for the grace period.

        Args:
            alone: no other machine works on the study, so that an owner who is not here is nowhere.
        """
        now = self._clock()
        # Who has not looked for longer has seen no silence: it slept, or waited for a storage to which no heart could
        # beat either.
        gap, self._looked = min(now - self._looked, self._grace_period / BEATS), now
        return [trial for trial in running if self._is_dead(trial, gap, alone)]

    def _is_dead(self, trial: FrozenTrial, gap: float, alone: bool) -> bool:
        alive = is_alive(trial)
        if alive is not None or alone:
            return not alive
        beat = trial.user_attrs.get(HEARTBEAT)
        seen, silent = self._seen.get(trial.number, (None, 0.0))
        known = trial.number in self._seen and beat == seen
        self._seen[trial.number] = (beat, silent + gap if known else 0.0)
        return self._seen[trial.number][1] >= self._grace_period
