"""What a worker does with a trial, and what it answers: the same in a process of this machine and on a cluster."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from hpo.errors import HpoError
from hpo.events import Event, OnEvent, StepDone
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


@dataclass(frozen=True)
class Done:
    """A worker is free again."""


@dataclass(frozen=True)
class Failed:
    """What a trial raised, as far as it can travel; a bug of ours with its traceback."""

    error: HpoError | None
    details: str

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
    except Exception:
        return Failed(None, traceback.format_exc())
    return Done()
