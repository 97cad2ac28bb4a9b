"""How long one waits: for `python -m hpo.run --help`, a whole process, and for the first step of a trial.

python -m benchmarks.startup
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.measure import ROOT, interleaved, run_module, say, spread
from benchmarks.table import Row, add_common_options, parse, print_table

STUDY = ROOT / "studies" / "rotten_tomatoes.yaml"
# As short as a trial can be, on all rows to train on: the batch size and all else is searched.
SHORT = (
    "training.num_train_epochs=0.001",
    "training.num_evaluations=1",
    "data.validation_size=64",
    "sampler={name: tpe, n_startup_trials: 1}",
)
QUICK = {"startup_repeats": 2}


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("startup")
    group.add_argument("--startup-repeats", type=int, default=9, metavar="N", help="processes (default: 9)")


def measure(options: argparse.Namespace) -> list[Row]:
    say("startup")
    run_module("hpo.run", "--help")  # byte code is compiled once, by whoever comes first
    help_ = {"--help": lambda repeat: run_module("hpo.run", "--help").seconds}
    answers = interleaved(help_, options.startup_repeats)["--help"]
    say("  trials of one process")
    cores = ("--cores", str(options.cores))
    child = run_module("benchmarks.startup", *cores, "--child", str(options.startup_repeats + 1))
    _, *warm = json.loads(child.stdout.splitlines()[-1])
    return [
        _row("python -m hpo.run --help", answers, goal=0.4),
        _row("from ask to the first step, second trial of a process and on", warm, goal=0.3),
    ]


def _row(what: str, measured: Sequence[float], goal: float) -> Row:
    seconds = spread(measured)
    return Row(
        what=what,
        ours=f"{seconds.median:.2f} s",
        theirs="",
        result=f"{seconds.median:.2f} s ({seconds.low:.2f} to {seconds.high:.2f})",
        n=seconds.n,
        goal=f"{goal:g} s",
        reached=seconds.median <= goal,
    )


def first_steps(trials: int) -> list[float]:
    """Runs trials, and gives for each the seconds from its start, before it is asked for, to its first step."""
    from hpo import trial
    from hpo.storage import storage_of
    from hpo.study import open_study
    from hpo.study_file import read_study
    from hpo.tracking import tracker_of
    from hpo.training.finetune import Evaluation, finetune

    seconds: list[float] = []
    started = 0.0

    def timed(*arguments: Any, **named: Any) -> Iterator[Evaluation]:
        seconds.append(time.perf_counter() - started)
        return finetune(*arguments, **named)

    spec = read_study(STUDY, SHORT)
    with tempfile.TemporaryDirectory() as folder, patch.object(trial, "finetune", timed):
        output = Path(folder)
        open_study(spec, storage_of(output))
        tracker = tracker_of(output)
        parent_run_id = tracker.start_study(spec.name, None, "", {})
        for _ in range(trials):
            started = time.perf_counter()
            trial.run_trial(spec, trial.Job(output, parent_run_id))
        tracker.flush()
    return seconds


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.split("\n")[0])
    add_common_options(parser)
    add_options(parser)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parse(parser, QUICK, arguments)
    if options.child:
        print(json.dumps(first_steps(options.child)))
        return 0
    print_table("Startup", measure(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
