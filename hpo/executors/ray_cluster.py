"""Several trials at once on a Ray cluster, each worker an actor with its share of a node's cores and GPUs.

The cluster is that of RAY_ADDRESS, or one of this machine alone that ends with the study. Ray's own retries are off:
what a dead worker or node leaves is tried again by the driver, from its checkpoint, as everywhere.
"""

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hpo.attempts import DEVICE_FAILED, INTERRUPTED, KILLED, TIMED_OUT
from hpo.errors import HpoError, StorageError
from hpo.events import Event, OnEvent
from hpo.executors.base import Lost
from hpo.executors.ray_connection import connected, needs_servers, share_of
from hpo.executors.worker import MAX_STILLBORN, TO_STOP, Call, Done, Failed, WorkerError, outcome, work
from hpo.lease import host
from hpo.spec import StudySpec
from hpo.tracking import tracking_uri
from hpo.tracking_store import sqlite_file
from hpo.trial import Job

# Seconds that a cluster has to have room for one worker; one that grows by itself takes minutes.
TO_HAVE_ROOM = 600.0
# Seconds between two looks at what trials tell.
LOOK_EVERY = 0.1
# Variables of the driver that its workers need before they import anything. Ray shows them to whoever asks.
SHOWN = ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HUB_DISABLE_TELEMETRY", "HF_UPDATE_DOWNLOAD_COUNTS")
# And those that may hold a password, by how their names begin. Ray shows no arguments of methods.
HIDDEN = ("MLFLOW_", "PG", "HF_TOKEN")


class _Worker:
    """Runs trials, one at a time, in a process of Ray's, of which it is the only actor."""

    def __init__(self, events: Any) -> None:
        self._events = events
        self._stopped = False

    def prepare(self, environment: dict[str, str], folders: Sequence[Path], home: str | None, quiet: bool) -> Any:
        """Makes it as a process of the driver's would be: its variables, the folder that it is in, its silence.

        Returns:
            A `Failed` with an HpoError if the node cannot be used.
        """

        def prepare() -> None:
            if quiet:
                from hpo.command_line import quiet as silence

                silence(verbose=False)
            os.environ |= environment
            if home not in (None, host()):
                raise needs_servers([socket.gethostname()])
            for folder in folders:
                if not folder.is_dir():
                    raise StorageError(
                        f"all nodes of a Ray cluster must have the folder where the command runs and that of --output, "
                        f"but {socket.gethostname()} has no {folder}. Put both on a file system that they share."
                    )
            os.chdir(folders[0])

        return outcome(prepare)

    def run(self, key: int, spec: StudySpec, job: Job) -> Any:
        from ray.exceptions import RayError

        def tell(event: Event) -> None:
            try:
                self._events.put((key, event))
            except RayError:  # the driver is gone
                self._stopped = True

        return work(spec, job, tell, self._check)

    def stop(self) -> None:
        self._stopped = True

    def _check(self) -> None:
        if self._stopped:
            raise KeyboardInterrupt


@dataclass
class _Slot:
    """A worker, and what the driver knows of it."""

    actor: Any
    awaited: Any
    """Ray's reference to what it does: it starts, or runs a trial; None: it is idle."""
    call: Call | None = None
    """The trial that it runs."""


class RayCluster:
    """As many workers as are wanted, wherever the cluster has room, each of which loads once what its trials need."""

    def __init__(
        self, spec: StudySpec, output: Path, storage: str | None, workers: int, check: Callable[[], None]
    ) -> None:
        self.on_event: OnEvent = lambda event: None
        self._quiet = logging.root.manager.disable >= logging.ERROR
        self._ray = connected(workers, self._quiet)
        try:
            nodes = [node for node in self._ray.nodes() if node["Alive"]]
            files = storage is None or sqlite_file(tracking_uri(output)) is not None
            machines = sorted({node["NodeManagerAddress"] for node in nodes})
            if files and len(machines) > 1:
                raise needs_servers(machines)
            self._share = share_of([node["Resources"] for node in nodes], workers, spec.num_gpus)
            self._prepare = (
                {name: value for name, value in os.environ.items() if name.startswith(HIDDEN)},
                (Path.cwd(), output.resolve()),
                host() if files else None,
                self._quiet,
            )
            self._events = self._queue()
            self._told: deque[tuple[int, Event]] = deque()
            self._stillborn, self._stopping = 0, False
            self._ready = time.monotonic()
            self._slots = [self._slot() for _ in range(workers)]
        except BaseException:
            self._ray.shutdown()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for slot in self._slots:
            self._ray.kill(slot.actor)
        self._slots.clear()
        self._ray.shutdown()

    @property
    def free(self) -> int:
        return sum(slot.awaited is None for slot in self._slots)

    @property
    def busy(self) -> int:
        return sum(slot.call is not None for slot in self._slots)

    def submit(self, spec: StudySpec, job: Job) -> None:
        slot = next(slot for slot in self._slots if slot.awaited is None)
        slot.call = Call(spec.trial_timeout)
        slot.awaited = slot.actor.run.remote(slot.call.key, spec, replace(job, output=job.output.resolve()))

    def wait(self, seconds: float) -> list[Lost]:
        deadline = time.monotonic() + seconds
        while True:
            ready = self._ended(max(0.0, min(LOOK_EVERY, deadline - time.monotonic())))
            self._pass_on()
            lost = [each for slot in self._slots if slot.awaited in ready for each in self._heard(slot)]
            hanging = [slot for slot in self._slots if slot.call and slot.call.hangs]
            lost += [each for slot in hanging for each in self._replace(slot, TIMED_OUT)]
            if ready or lost or time.monotonic() >= deadline:
                self._require_room()
                return lost

    def stop(self) -> list[Lost]:
        deadline = time.monotonic() + TO_STOP
        self._stopping = True
        for slot in self._slots:
            slot.actor.stop.options(concurrency_group="orders").remote()
        lost: list[Lost] = []
        while self.busy and time.monotonic() < deadline:
            with suppress(HpoError, WorkerError):  # why a trial ended is told already, or of no use any more
                lost += self.wait(deadline - time.monotonic())
        for slot in self._slots:
            lost += [Lost(slot.call.number, INTERRUPTED)] if slot.call else []
            self._ray.kill(slot.actor)
            slot.awaited = slot.call = None
        return lost

    def _queue(self) -> Any:
        """What trials tell, on the driver's own node."""
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)
        return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def _slot(self) -> _Slot:
        # A group of its own, so that an order is heard while a trial runs.
        kind = self._ray.remote(concurrency_groups={"orders": 1})(_Worker)
        threads = {name: str(self._share.num_cpus) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
        shown = {name: os.environ[name] for name in SHOWN if name in os.environ}
        actor = kind.options(
            num_cpus=self._share.num_cpus,
            num_gpus=self._share.num_gpus,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": threads | shown},
        ).remote(self._events)
        return _Slot(actor, actor.prepare.remote(*self._prepare))

    def _ended(self, seconds: float) -> list[Any]:
        """What of the awaited is there, at the latest then."""
        awaited = [slot.awaited for slot in self._slots if slot.awaited is not None]
        if not awaited:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(awaited, timeout=seconds)
        return list(ready)

    def _pass_on(self) -> None:
        """One by one, so that what is told after an event at which the study stops is not forgotten."""
        from ray.exceptions import RayError

        try:
            if waiting := self._events.qsize():
                self._told += self._events.get_nowait_batch(waiting)
        except RayError as error:
            raise HpoError(
                "a study needs the Ray node that its command runs on, but got: "
                f"{str(error).partition(chr(10))[0].rstrip('.')}. Start it again; the same command goes on."
            ) from error
        while self._told:
            key, event = self._told.popleft()
            call = next((slot.call for slot in self._slots if slot.call and slot.call.key == key), None)
            if call is None:  # it was taken for dead
                continue
            call.hear(event)
            self.on_event(event)

    def _heard(self, slot: _Slot) -> list[Lost]:
        from ray.exceptions import RayError, RayTaskError

        try:
            told: Done | Failed = self._ray.get(slot.awaited)
        except RayTaskError as error:
            raise WorkerError(f"a worker broke:\n{error}") from None
        except RayError as error:
            return self._replace(slot, KILLED, str(error))
        if slot.call:
            self._stillborn = 0
        slot.awaited = slot.call = None
        if isinstance(told, Failed):
            if told.ends_worker:
                return self._replace(slot, DEVICE_FAILED)
            raise told.raised()
        return []

    def _replace(self, slot: _Slot, reason: str, details: str = "") -> list[Lost]:
        """A new worker in the place of one that is dead, or hangs."""
        lost = [Lost(slot.call.number, reason)] if slot.call else []
        self._stillborn += slot.call is None or slot.call.number is None
        self._ray.kill(slot.actor)
        if self._stillborn > MAX_STILLBORN * len(self._slots):
            raise WorkerError(f"workers die before they run anything, the last of this:\n{details}")
        if self._stopping:
            slot.awaited = slot.call = None
        else:
            self._slots[self._slots.index(slot)] = self._slot()
        return lost

    def _require_room(self) -> None:
        """Raises HpoError if the cluster has had no room for any worker for too long."""
        now = time.monotonic()
        if self.busy or self.free:
            self._ready = now
        elif now - self._ready > TO_HAVE_ROOM and not self._stopping:
            raise HpoError(
                f"the Ray cluster must have room for one trial within {TO_HAVE_ROOM:.0f} s, but has none for "
                f"{self._share.num_cpus} CPUs and {self._share.num_gpus:g} GPUs: {self._ray.available_resources()}. "
                "End what takes them, start nodes, or raise --workers for smaller shares; the same command goes on."
            )
