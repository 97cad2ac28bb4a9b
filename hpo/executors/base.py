"""What the driver asks of a place where trials run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from hpo.events import OnEvent
from hpo.spec import StudySpec
from hpo.trial import Job


@dataclass(frozen=True)
class Lost:
    """A trial whose worker ended without a word."""

    number: int | None
    """None if it was too early to have told."""
    reason: str


class Executor(Protocol):
    """Runs trials, at most so many at once; left as a context manager it leaves none behind."""

    on_event: OnEvent
    """Is told what they tell."""

    def __init__(
        self, spec: StudySpec, output: Path, storage: str | None, workers: int, check: Callable[[], None]
    ) -> None:
        """For a study that is kept there. `check` raises KeyboardInterrupt when it has to stop.

        Raises:
            HpoError: its trials cannot run here.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Kills what still runs."""

    @property
    def free(self) -> int:
        """How many trials more may start."""

    @property
    def busy(self) -> int:
        """How many are under way."""

    def submit(self, spec: StudySpec, job: Job) -> None:
        """Has the next trial run, by `run_trial`."""

    def wait(self, seconds: float) -> list[Lost]:
        """Passes on what trials tell, until one of them ends or so many seconds are over.

        Raises:
            HpoError: what a trial raised, which would break every other one alike.
        """

    def stop(self) -> list[Lost]:
        """Has the trials that run stop with a checkpoint, and waits for it, but not for long.

        Returns:
            Those that died of it.
        """
