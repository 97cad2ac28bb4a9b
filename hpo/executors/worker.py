"""What a worker does with a trial, what it answers, and what its driver makes of that.

The same in a process of this machine and on a cluster.
"""

import itertools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from hpo.errors import DeviceFailed, HpoError
from hpo.events import Event, OnEvent, StepDone, TrialEnded, TrialStarted, Waits
from hpo.output import disk_refusal
from hpo.spec import StudySpec
from hpo.trial import Job, run_trial

# Seconds that a trial has to write its checkpoint and tell its end, before its worker is killed.
TO_STOP = 8.0
# Beyond `trial_timeout` a trial that does not hang has ended itself.
TO_TIME_OUT = 10.0
# Seconds between two steps that are told: nobody looks more often.
STEPS_EVERY = 0.1
# Workers in a row that may die without having run anything.
MAX_STILLBORN = 3


_keys = itertools.count()


@dataclass
class Call:
    """A trial that a worker was given, as far as its driver knows."""

    limit: float | None
    """Seconds that it has: `trial_timeout`."""
    number: int | None = None
    """None: it has not claimed one, or has told its end."""
    since: float | None = None
    """When it began, or waited last; None: its worker is new, and imports, or has to wait for the others to claim."""
    key: int = field(default_factory=lambda: next(_keys))
    """No other one ever has it."""

    def hear(self, event: Event) -> None:
        match event:
            case TrialStarted():
                self.number, self.since = event.number, time.monotonic()
            case TrialEnded():
                self.number = None
            case Waits():
                self.since = time.monotonic()

    @property
    def hangs(self) -> bool:
        if self.limit is None or self.since is None:
            return False
        return time.monotonic() - self.since > self.limit + TO_TIME_OUT


@dataclass(frozen=True)
class Done:
    """A worker is free again."""


@dataclass(frozen=True)
class Failed:
    """What a trial raised, as far as it can travel; a bug of ours with its traceback."""

    error: HpoError | None
    details: str

    @property
    def ends_worker(self) -> bool:
        """Whether its process can run no other trial, and a new one may."""
        return isinstance(self.error, DeviceFailed)

    def raised(self) -> Exception:
        """The same, to be raised in the driver."""
        return self.error or WorkerError(f"a trial broke in its worker:\n{self.details}")


class WorkerError(RuntimeError):
    """A bug of ours that showed in a worker, with its traceback there."""


def work(spec: StudySpec, job: Job, tell: OnEvent, check: Callable[[], None]) -> Done | Failed:
    """Runs the next trial. Of its steps it tells as many as somebody can see, and the last."""
    last = 0.0

    def tell_some(event: Event) -> None:
        nonlocal last
        if isinstance(event, StepDone):
            now = time.monotonic()
            if now - last < STEPS_EVERY and event.step < event.num_training_steps:
                return
            last = now
        tell(event)

    return outcome(lambda: run_trial(spec, job, tell_some, check))


def outcome(action: Callable[[], object]) -> Done | Failed:
    """How something ended, that a driver asked for and cannot see."""
    try:
        action()
    except KeyboardInterrupt:  # as the driver wanted
        return Done()
    except HpoError as error:
        return Failed(error, "")
    except Exception as error:
        return Failed(disk_refusal(error), traceback.format_exc())
    return Done()
