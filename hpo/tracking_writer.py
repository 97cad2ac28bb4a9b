"""Sends what is logged from a thread of its own, so that no training waits for its tracker."""

import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

# Some 10 MiB of metrics. Who logs faster than a database writes has to wait for it at some time.
MAX_WAITING = 10_000


@dataclass
class Batch:
    """What waits for one run, in the order in which it was logged."""

    metrics: list[Any] = field(default_factory=list)
    params: list[Any] = field(default_factory=list)
    tags: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.metrics) + len(self.params) + len(self.tags)


class Writer:
    """Does what it is told in the order of the calls, and sends in one batch what has come in meanwhile.

    What fails in the thread is raised by the next call, with the traceback that it has there; that call is done all the
    same, and what was logged later is still sent. Python waits for the thread at exit, whatever ends the program short
    of a kill.
    """

    def __init__(self, send: Callable[[str, Batch], None]) -> None:
        """`send` is given the id of a run and what waits for it."""
        self._send = send
        self._thread = ThreadPoolExecutor(1, "tracking")
        self._lock = threading.Lock()  # of the two below, which both threads change
        self._waiting: dict[str, Batch] = {}
        self._failures: list[Exception] = []
        weakref.finalize(self, _tell, self._failures)

    def log(
        self, run_id: str, *, metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Sequence[Any] = ()
    ) -> None:
        """Sends it as soon as the thread is free; the caller waits only where too much is waiting already."""
        with self._lock:
            batch = self._waiting.setdefault(run_id, Batch())
            batch.metrics += metrics
            batch.params += params
            batch.tags += tags
            full = sum(map(len, self._waiting.values())) > MAX_WAITING
        self._thread.submit(self._send_waiting)
        if full:
            self.flush()
        self._raise_failure()

    def later(self, action: Callable[[], object]) -> None:
        """After all that was logged before it."""
        self._thread.submit(self._attempt, action)
        self._raise_failure()

    def flush(self) -> None:
        """Waits until everything is done that it was told to do."""
        self._thread.submit(self._send_waiting).result()
        self._raise_failure()

    def _send_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for run_id, batch in waiting.items():
            self._attempt(self._send, run_id, batch)

    def _attempt(self, action: Callable[..., object], *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception as error:
            with self._lock:
                if not self._failures:  # the later ones are mostly the same: a full disk stays full
                    self._failures.append(error)

    def _raise_failure(self) -> None:
        with self._lock:
            failure = self._failures.pop() if self._failures else None
        if failure is not None:
            raise failure


def _tell(failures: list[Exception]) -> None:
    """What failed after the last call has nobody to be raised to."""
    for failure in failures:
        traceback.print_exception(failure)
