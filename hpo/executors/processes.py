"""Several trials at once on one machine, each worker a process of its own, with its share of the cores and its GPU.

A worker that is killed takes nobody with it: it has a pipe of its own, and shares no lock but those that its end frees.
Without a GPU it is forked from a server that has imported all it needs, once, and has done nothing else: it is there in
0.05 s instead of several seconds of CPU time, and their memory for libraries is one. CUDA is for processes that have
imported torch themselves: with a GPU they are spawned.
"""

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from setproctitle import setproctitle

from hpo.attempts import INTERRUPTED, KILLED, TIMED_OUT
from hpo.errors import HpoError
from hpo.events import Event, OnEvent
from hpo.executors.base import Lost
from hpo.executors.worker import MAX_STILLBORN, TO_STOP, Call, Done, Failed, WorkerError, work
from hpo.spec import StudySpec
from hpo.training.device import num_threads, use_threads, visible_gpus
from hpo.trial import Job

# What the list of processes has of a worker.
TITLE = "hpo worker"


def slots(workers: int) -> list[dict[str, str]]:
    """The environment of each worker: its share of the cores, and its GPU, which several may share.

    Set before torch is imported, which looks once; in a fork its threads are set by hand. With as many threads as cores
    in each, two workers on two cores took eight times as long as one.
    """
    threads = str(max(1, num_threads() // workers))
    shared = {"OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads}
    gpus = visible_gpus()
    return [shared | ({"CUDA_VISIBLE_DEVICES": gpus[worker % len(gpus)]} if gpus else {}) for worker in range(workers)]


def _context() -> SpawnContext | ForkServerContext:
    if visible_gpus():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hpo.trial"])
    return context


class _Worker:
    """A process and what the driver knows of it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.call: Call | None = None
        """The trial that it has."""
        self.process: BaseProcess
        self.pipe: Connection
        self.start()

    def start(self) -> None:
        context = _context()
        self.pipe, theirs = context.Pipe()
        quiet = logging.root.manager.disable >= logging.ERROR
        environment = {**os.environ, **self.environment}  # a fork has that of when its server was started
        self.process = context.Process(target=_work, args=(theirs, quiet, environment), name="hpo-worker", daemon=True)
        with _environment(self.environment):
            self.process.start()
        theirs.close()  # so that its end closes the pipe

    def end(self, seconds: float) -> None:
        """Lets it go, and kills it if it has not gone by then."""
        self.pipe.close()
        self.process.join(seconds)
        self.process.kill()
        self.process.join()


class Processes:
    """As many workers as are wanted, each of which loads once what all its trials need."""

    def __init__(
        self, spec: StudySpec, output: Path, storage: str | None, workers: int, check: Callable[[], None]
    ) -> None:
        self.on_event: OnEvent = lambda event: None
        self._workers = [_Worker(environment) for environment in slots(workers)]
        self._stillborn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._workers:
            worker.end(0.0 if worker.call else TO_STOP)
            worker.call = None

    @property
    def free(self) -> int:
        return len(self._workers) - self.busy

    @property
    def busy(self) -> int:
        return sum(worker.call is not None for worker in self._workers)

    def submit(self, spec: StudySpec, job: Job) -> None:
        worker = next(worker for worker in self._workers if not worker.call)
        if not worker.process.is_alive():  # it was told to stop, by somebody else than us, or its GPU failed
            worker.end(0.0)
            worker.start()
        worker.call = Call(spec.trial_timeout)
        with suppress(OSError):  # it has died just now, which `wait` finds
            worker.pipe.send((spec, job))

    def wait(self, seconds: float) -> list[Lost]:
        busy = [worker for worker in self._workers if worker.call]
        lost: list[Lost] = []
        ready = wait([worker.pipe for worker in busy], seconds)
        for worker in busy:
            if worker.pipe in ready:
                lost += self._heard(worker)
            elif worker.call and worker.call.hangs:
                lost += self._replace(worker, TIMED_OUT)
        return lost

    def _heard(self, worker: _Worker) -> list[Lost]:
        try:
            while worker.call and worker.pipe.poll():
                self._take(worker, worker.pipe.recv())
        except (EOFError, OSError):
            return self._replace(worker, KILLED)
        return []

    def _take(self, worker: _Worker, told: Event | Done | Failed) -> None:
        match told:
            case Done():
                worker.call = None
                self._stillborn = 0
            case Failed():
                worker.call = None
                if not told.ends_worker:
                    raise told.raised()
                worker.end(0.0)
            case _:
                self._stillborn = 0
                if worker.call:
                    worker.call.hear(told)
                self.on_event(told)

    def _replace(self, worker: _Worker, reason: str) -> list[Lost]:
        """A new worker in the place of one that is dead, or hangs."""
        lost, worker.call = Lost(worker.call.number if worker.call else None, reason), None
        worker.end(0.0)
        self._stillborn += lost.number is None
        if self._stillborn > MAX_STILLBORN:
            raise WorkerError(
                f"workers die before they run anything, the last with exit code {worker.process.exitcode}"
            )
        worker.start()
        return [lost]

    def stop(self) -> list[Lost]:
        deadline = time.monotonic() + TO_STOP
        busy = {worker.pipe: worker for worker in self._workers if worker.call}
        for worker in busy.values():
            worker.process.terminate()
        while busy and time.monotonic() < deadline:
            for pipe in wait(list(busy), deadline - time.monotonic()):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    self._take(worker, worker.pipe.recv())
                except (HpoError, WorkerError):
                    pass  # why a trial ended is told already, or of no use any more
                except (EOFError, OSError):
                    del busy[worker.pipe]
                    continue
                if not worker.call:
                    del busy[worker.pipe]
        lost = [Lost(worker.call.number, INTERRUPTED) for worker in self._workers if worker.call]
        for worker in self._workers:
            worker.end(0.0 if worker.call else TO_STOP)
            worker.call = None
        return lost


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """For the process that is started within it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Orders:
    """What a worker hears while a trial runs: a signal, or that its driver is gone."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._stopped = pipe, False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches all processes; the driver says what it means

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True

    def check(self) -> None:
        """Raises KeyboardInterrupt if the trial has to stop. The driver sends nothing before it ends: it is gone."""
        if self._stopped or self._pipe.poll():
            raise KeyboardInterrupt

    @property
    def stopped(self) -> bool:
        return self._stopped


def _work(pipe: Connection, quiet: bool, environment: dict[str, str]) -> None:
    """The life of a worker: trials, one at a time, until its driver closes the pipe or it is told to stop."""
    setproctitle(TITLE)
    os.environ.clear()
    os.environ.update(environment)
    use_threads(int(environment["OMP_NUM_THREADS"]))
    if quiet:
        from hpo.command_line import quiet as silence

        silence(verbose=False)
    orders = _Orders(pipe)

    def tell(told: Event | Done | Failed) -> None:
        with suppress(OSError):  # the driver is gone, which `check` finds
            pipe.send(told)

    while not orders.stopped:
        try:
            if not pipe.poll(0.5):
                continue
            spec, job = pipe.recv()
        except (EOFError, OSError):
            return
        tell(work(spec, job, tell, orders.check))
