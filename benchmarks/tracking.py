"""What tracking costs a trial: `python -m benchmarks.tracking`, seven minutes on two quiet CPU cores.

Runs the untuned default of `studies/rotten_tomatoes.yaml`, on 2,000 rows, tracked and not in turn, and tells two
things. The difference of the wall times is what counts, but on a shared machine the noise is larger than it. The
seconds that the training's thread spends in tracking, and the CPU time of the thread that sends, are measured directly;
their sum is an upper limit, for the one waits for the other at times. The wall time and the CPU time count until all
is stored.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from transformers.utils.logging import disable_progress_bar

from benchmarks.measure import machine, software, spread
from hpo import trial
from hpo.spec import StudySpec
from hpo.storage import storage_of
from hpo.study import open_study
from hpo.study_file import read_study, study_path
from hpo.tracking import Tracker, TrialRun, tracker_of
from hpo.training.device import choose_device
from hpo.trial import Job, run_trial


class Untracked:
    """Stands for a tracker and for its runs, and does nothing."""

    run_id = "untracked"

    def start_trial(self, *arguments: Any, **named: Any) -> "Untracked":
        return self

    def _nothing(self, *arguments: Any, **named: Any) -> None:
        pass

    log_params = set_tags = log_points = end = flush = _nothing


class Timed:
    """Passes calls on to a tracker, or to a run of it, and adds up the seconds they take."""

    def __init__(self, inner: Tracker | TrialRun, seconds: list[float]) -> None:
        self._inner, self._seconds = inner, seconds

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if not callable(attribute):
            return attribute

        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = attribute(*arguments, **named)
            self._seconds.append(time.perf_counter() - start)
            return Timed(result, self._seconds) if isinstance(result, TrialRun) else result

        return call


@dataclass(frozen=True)
class Cost:
    """Seconds of one trial."""

    wall: float
    calls: float = 0.0
    sending: float = 0.0


def run(spec: StudySpec, output: Path, tracker: Callable[[Path], Any]) -> float:
    """Runs the first trial of a new study with this tracker; returns its seconds."""
    open_study(spec, storage_of(output))
    parent_run_id = tracker_of(output).start_study(spec.name, None, "", {})
    tracker_of(output).flush()
    start = time.perf_counter()
    with patch.object(trial, "tracker_of", tracker):
        run_trial(spec, Job(output, parent_run_id))
    tracker_of(output).flush()  # not by the trial, which leaves its end to the thread; but it is part of the cost
    return time.perf_counter() - start


def tracked(spec: StudySpec, output: Path) -> Cost:
    seconds: list[float] = []
    thread = tracker_of(output)._writer._thread
    before = thread.submit(time.thread_time).result()
    wall = run(spec, output, lambda output: Timed(tracker_of(output), seconds))
    return Cost(wall, sum(seconds), thread.submit(time.thread_time).result() - before)


def untracked(spec: StudySpec, output: Path) -> Cost:
    return Cost(run(spec, output, lambda output: Untracked()))


def shares(measured: Sequence[float]) -> str:
    found = spread(measured)
    return f"{found.median:+.2%} ({found.low:+.2%} .. {found.high:+.2%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="trials of each kind (default: 5)")
    parser.add_argument("--rows", type=int, default=2000, metavar="N", help="rows in each split (default: 2000)")
    options = parser.parse_args()
    disable_progress_bar()
    logging.disable(logging.WARNING)

    path, rows = study_path("rotten_tomatoes"), f"data.max_rows={options.rows}"
    with tempfile.TemporaryDirectory() as folder:
        output, numbers = Path(folder), iter(range(10**6))

        def measure(kind: Callable[[StudySpec, Path], Cost]) -> Cost:
            return kind(read_study(path, [rows, f"name=study-{next(numbers)}"]), output)

        measure(tracked)  # warms up: caches, tokens, memory
        pairs: list[tuple[Cost, Cost]] = []
        for repeat in range(options.repeats):
            kinds = [tracked, untracked][:: 1 if repeat % 2 else -1]
            costs = {kind: measure(kind) for kind in kinds}
            pairs.append((costs[tracked], costs[untracked]))
            print(*(f"{kind.__name__} {cost.wall:.2f} s" for kind, cost in costs.items()), sep=", ", flush=True)

    with_it, without = zip(*pairs, strict=True)
    print(
        f"\n{machine()}, {choose_device('auto').precision}\n{software()}"
        + f"\n{options.repeats} trials of each kind, median (min .. max)"
        + f"\nseconds of a trial         tracked {statistics.median(cost.wall for cost in with_it):.2f}, "
        + f"untracked {statistics.median(cost.wall for cost in without):.2f}"
        + f"\ndifference of wall times   {shares([on.wall / off.wall - 1 for on, off in pairs])}, pair by pair"
        + f"\nthe training's thread      {shares([cost.calls / cost.wall for cost in with_it])}"
        + f"\nthe sending thread's CPU   {shares([cost.sending / cost.wall for cost in with_it])}"
        + f"\nboth                       {shares([(cost.calls + cost.sending) / cost.wall for cost in with_it])}"
    )


if __name__ == "__main__":
    main()
