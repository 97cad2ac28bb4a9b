"""What the tests of executors share: a study as the driver begins it, and waiting for a worker."""

import time
from pathlib import Path

from hpo.executors import Executor
from hpo.spec import StudySpec
from hpo.storage import open_storage
from hpo.study import open_study
from hpo.tracking import tracker_of
from hpo.trial import Job


def begin(spec: StudySpec, output: Path) -> Job:
    """A study as the driver begins it."""
    open_study(spec, open_storage(output))
    return Job(output, tracker_of(output).start_study(spec.name, None, "", {}))


def wait_until_free(executor: Executor) -> None:
    deadline = time.monotonic() + 120
    while not executor.free:
        assert time.monotonic() < deadline
        assert executor.wait(0.5) == []
