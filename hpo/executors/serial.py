"""One trial after another, in the driver's own process: what is loaded once serves all of them."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from hpo.errors import HpoError
from hpo.events import OnEvent
from hpo.executors.base import Lost
from hpo.spec import StudySpec
from hpo.trial import Job, run_trial


class Serial:
    """Runs a trial while it is submitted."""

    busy = 0

    def __init__(
        self, spec: StudySpec, output: Path, storage: str | None, workers: int, check: Callable[[], None]
    ) -> None:
        if workers != 1:
            raise HpoError(
                f"--executor serial runs one trial at a time, but got --workers {workers}. Leave --executor out: "
                "several workers are processes of this machine."
            )
        self.on_event: OnEvent = lambda event: None
        self.free = 1
        self._ran = False
        self._check = check

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def submit(self, spec: StudySpec, job: Job) -> None:
        run_trial(spec, job, self.on_event, self._check)
        self._ran = True

    def wait(self, seconds: float) -> list[Lost]:
        if not self._ran:  # others have what is left
            time.sleep(seconds)
        self._ran = False
        return []

    def stop(self) -> list[Lost]:
        return []
