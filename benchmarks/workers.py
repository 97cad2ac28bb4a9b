"""How fast a whole study is with several workers on one machine, against one that has all of it.

    python -m benchmarks.workers                              # 1, 2 and 4 workers, in about half an hour on two cores
    python -m benchmarks.workers --workers 1 2 --repeats 1

All do the same work: the points of random search, with no pruner, which follow a trial's place in the study alone.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import interleaved, say
from benchmarks.study import STUDY, search
from benchmarks.table import Row, add_common_options, parse, print_table, ratio_row
from hpo.storage import open_storage
from hpo.study import ended_trials, load_study

QUICK = {"repeats": 1, "trials": 4, "max_rows": 64, "workers": [1, 2]}


@dataclass(frozen=True)
class StudyRun:
    """One whole study."""

    seconds: float
    """Of the command."""
    searching: float
    """Seconds from the start of the first trial to the end of the last."""
    examples: int
    """Trained on, over all trials."""
    memory_mib: float
    """The most that a trial's process held."""


def measure(options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """The rows, and in sentences what they are made of."""
    say(f"a study of {options.trials} trials on {options.max_rows:,} rows, by {options.workers} workers")
    settings = (f"n_trials={options.trials}", f"data.max_rows={options.max_rows}")

    def by(workers: int) -> Callable[[int], StudyRun]:
        return lambda repeat: run(workers, (*settings, f"seed={repeat}"))

    runs = interleaved({str(count): by(count) for count in options.workers}, options.repeats)
    first, *others = options.workers
    rows = [row for count in others for row in _against(count, runs[str(count)], first, runs[str(first)])]
    notes = [
        f"{count} at once: a trial's process holds at most {max(run.memory_mib for run in runs[str(count)]):,.0f} MiB"
        for count in options.workers
    ]
    return rows, notes


def run(workers: int, settings: tuple[str, ...]) -> StudyRun:
    """`python -m hpo.run --workers` into an empty folder."""
    same_work = ("sampler={name: random}", "pruner={name: none}")
    with tempfile.TemporaryDirectory() as folder:
        process = search(STUDY, Path(folder), (*same_work, *settings), workers)
        trials = ended_trials(load_study(open_storage(Path(folder)), STUDY.stem))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    results = [trial.user_attrs["result"] for trial in trials]
    ends = [trial.datetime_complete.timestamp() for trial in trials if trial.datetime_complete]
    starts = [trial.datetime_start.timestamp() for trial in trials if trial.datetime_start]
    return StudyRun(
        seconds=process.seconds,
        searching=max(ends) - min(starts),
        examples=sum(
            trial.params["train_batch_size"] * result["optimizer_steps"]
            for trial, result in zip(trials, results, strict=True)
        ),
        memory_mib=max(result["peak_memory_mib"] for result in results),
    )


def _against(count: int, several: list[StudyRun], first: int, alone: list[StudyRun]) -> list[Row]:
    """`count` workers on the left, those that they are compared with on the right."""
    pace, paces = ([run.examples / run.searching for run in side] for side in (several, alone))
    whole, wholes = ([run.seconds for run in side] for side in (several, alone))
    against = f"{count} workers against {first}"
    return [
        ratio_row(f"{against}: while it searches", pace, paces, "examples/s", higher_is_better=True, goal=1.0),
        ratio_row(f"{against}: the whole command", whole, wholes, "s", higher_is_better=False, goal=1.0),
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("workers")
    group.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="default: 1 2 4")
    group.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds (default: 3)")
    group.add_argument("--trials", type=int, default=12, metavar="N", help="trials of a study (default: 12)")
    group.add_argument("--max-rows", type=int, default=1000, metavar="N", help="training rows (default: 1000)")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__.split("\n")[0])
    add_common_options(parser)
    add_options(parser)
    rows, notes = measure(parse(parser, QUICK, arguments))
    print_table("A study by several workers (ours: more of them): MiniLM-L6, rotten_tomatoes", rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
