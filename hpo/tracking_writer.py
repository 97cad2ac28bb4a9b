"""Sends what is logged from a thread of its own, so that no training waits for its tracker, nor for its server."""

import contextlib
import multiprocessing
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hpo.addresses import hide_passwords
from hpo.output import output_option
from hpo.tracking_spool import LOG_BATCH, Entry, Spool

# Some 10 MiB of metrics. Who logs faster than a database writes has to wait for it at some time.
MAX_WAITING = 10_000
MAX_BATCH = 1000  # metrics that MLflow takes in one request
FIRST_DELAY, LAST_DELAY = 0.5, 10.0  # seconds from one attempt to reach a server that is away to the next
# An attempt that failed so recently need not be repeated: it may have taken as long as a request may.
RECENT = 2.0

Send = Callable[[Entry], object]
IsAway = Callable[[Exception], bool]


class Writer:
    """Does what it is told in the order of the calls, and sends in one batch what has come in meanwhile.

    While the server is away all goes to the spool instead, in the caller's thread, and nobody waits for anything; the
    thread sends it from there when the server is back.

    What fails otherwise is raised by the next call, with the traceback that it has there; that call is done all the
    same, and what was logged later is still sent. Python waits for the thread at exit, whatever ends the program short
    of a kill.
    """

    def __init__(self, send: Send, is_away: IsAway, spool: Spool) -> None:
        """`is_away` tells of an error of `send` whether the same could succeed later."""
        self._send, self._is_away, self._spool = send, is_away, spool
        self._thread = ThreadPoolExecutor(1, "tracking")
        self._lock = threading.RLock()  # of all below, which both threads change
        self._waiting: list[Entry] = []
        self._points = 0
        self._failures: list[Exception] = []
        self._delay, self._failed_at = FIRST_DELAY, float("-inf")
        self._timer: threading.Timer | None = None
        weakref.finalize(self, _tell, self._failures, spool, os.getpid())

    @property
    def is_away(self) -> bool:
        """Whether something waits on disk for the server to be back."""
        return not self._spool.is_empty

    def log(
        self, run_id: str, *, metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Sequence[Any] = ()
    ) -> None:
        """Sends it as soon as the thread is free; the caller waits only where too much is waiting already.

        Metrics are given as (key, value, milliseconds, step), params and tags as (key, value).
        """
        self.later(Entry(LOG_BATCH, run_id, {"metrics": list(metrics), "params": list(params), "tags": list(tags)}))

    def later(self, *entries: Entry) -> None:
        """After all that was logged before them."""
        with self._lock:
            if self.is_away:
                self._spool.append(entries)
            else:
                self._waiting += entries
                self._points += sum(entry.points for entry in entries)
            full = self._points > MAX_WAITING
        self._thread.submit(self._send_waiting)
        if full:
            self.flush()
        self._raise_failure()

    def flush(self) -> None:
        """Waits until everything is done that it was told to do or, while the server is away, is safe on the disk."""
        if not self.is_away:
            self._thread.submit(self._send_waiting).result()
        with self._lock:
            self._spool.sync()
        self._raise_failure()

    def catch_up(self, *, answers: bool = False) -> bool:
        """Tries to send what waits on disk, and tells whether nothing does any more.

        Does not try what was in vain just now, unless it is known that the server `answers`.
        """
        if self.is_away and (answers or time.monotonic() - self._failed_at > RECENT):
            self._thread.submit(self._send_spool).result()
        return not self.is_away

    def _send_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting, self._points = self._waiting, [], 0
        try:
            send_all(waiting, self._send, self._is_away, self.refused)
        except Exception:
            with self._lock:
                try:
                    self._spool.append([*waiting, *self._waiting])
                except OSError as error:  # such as a full disk: the memory keeps it
                    self._waiting = [*waiting, *self._waiting]
                    self.refused(error)
                else:
                    self._waiting, self._points = [], 0
                    self._try_later()

    def _send_spool(self) -> None:
        while True:
            with self._lock:
                entries = self._spool.next()
                if not entries:
                    self._delay = FIRST_DELAY
                    return
            try:
                send_all(entries, self._send, self._is_away, self.refused)
            except Exception:
                self._try_later()
                return
            self._spool.advance()

    def _try_later(self) -> None:
        with self._lock:
            self._failed_at = time.monotonic()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(self._delay, self._wake)
            self._timer.daemon = True
            with contextlib.suppress(RuntimeError):  # the program ends, and starts no thread any more
                self._timer.start()
            self._delay = min(2 * self._delay, LAST_DELAY)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the program ends
            self._thread.submit(self._send_spool)

    def refused(self, error: Exception) -> None:
        """Takes an error that the next call will raise."""
        with self._lock:
            if not self._failures:  # the later ones are mostly the same: a full disk stays full
                self._failures.append(error)

    def _raise_failure(self) -> None:
        with self._lock:
            failure = self._failures.pop() if self._failures else None
        if failure is not None:
            raise failure


def send_all(entries: Sequence[Entry], send: Send, is_away: IsAway, refused: Callable[[Exception], object]) -> None:
    """Sends the entries in their order, what is logged for a run in one batch.

    Raises what `is_away`, for then all may be sent once more, and hands any other error to `refused`: what MLflow does
    not take holds up nothing, nor does it spoil its batch.
    """
    for group in _batches(entries):
        try:
            send(_joined(group))
        except Exception as error:
            if is_away(error):
                raise
            if len(group) == 1:
                refused(error)
            else:
                for entry in group:
                    send_all([entry], send, is_away, refused)


def _batches(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Groups, each to be sent at once: what is logged for a run, until something else is done or the batch is full."""
    groups: list[list[Entry]] = []
    growing: dict[str, list[Entry]] = {}
    points: dict[str, int] = {}
    for entry in entries:
        if entry.do != LOG_BATCH:
            growing.clear()
            groups.append([entry])
        elif entry.run in growing and points[entry.run] + entry.points <= MAX_BATCH:
            growing[entry.run].append(entry)
            points[entry.run] += entry.points
        else:
            growing[entry.run], points[entry.run] = [entry], entry.points
            groups.append(growing[entry.run])
    return groups


def _joined(group: Sequence[Entry]) -> Entry:
    if len(group) == 1:
        return group[0]
    kinds = ("metrics", "params", "tags")
    points = {kind: [point for entry in group for point in entry.arguments.get(kind, ())] for kind in kinds}
    return Entry(LOG_BATCH, group[0].run, points)


def _tell(failures: list[Exception], spool: Spool, process: int) -> None:
    """What failed after the last call has nobody to be raised to; and what could not be sent has to wait."""
    if process != os.getpid():  # a copy in a forked one
        return
    for failure in failures:
        print(hide_passwords("".join(traceback.format_exception(failure))), end="", file=sys.stderr)
    if multiprocessing.parent_process() is None:  # its driver counts what a worker leaves
        with contextlib.suppress(OSError):  # the whole folder is gone
            spool.sync()
            _tell_waiting(spool)


def _tell_waiting(spool: Spool) -> None:
    if n := spool.waiting()[spool.address]:
        again = f"python -m hpo.run{output_option(spool.folder.parent)}"
        print(
            f"MLflow ({spool.address}) does not answer: {n:,} {'entry waits' if n == 1 else 'entries wait'} in "
            f"{spool.folder}. The next `{again}` sends what waits.",
            file=sys.stderr,
        )
