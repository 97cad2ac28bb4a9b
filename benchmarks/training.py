"""Training by us and by `transformers.Trainer`: how fast, how much memory, and whether as well.

python -m benchmarks.training                     # in about 20 minutes on two cores
python -m benchmarks.training --epochs 3 --seeds 5    # over the whole default training
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.contestants import Job, Measured, num_training_steps, run_job
from benchmarks.measure import CYCLE, ROOT, difference, interleaved, say
from benchmarks.rows import Rows, write_rows
from benchmarks.table import Row, add_common_options, memory_row, parse, print_table, ratio_row

STUDY = ROOT / "studies" / "rotten_tomatoes.yaml"
WORKERS = (0, 1, 2)
"""Loader processes that an expert would try."""
WORKERS_EPOCHS, WORKERS_WARMUP = 0.25, 17
"""Of the runs that find out which: 67 steps, the last 50 of which are as many long and short texts as a cycle."""
QUICK = {"warmup_steps": 1, "seeds": 2, "epochs": 0.02}


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--seeds", type=int, default=3, metavar="N", help="rounds, each with its seed (default: 3)")
    group.add_argument(
        "--epochs", type=float, default=1.0, metavar="X", help="of a training; the study's own are 3 (default: 1)"
    )
    group.add_argument(
        "--warmup-steps",
        type=int,
        default=CYCLE,
        metavar="N",
        help=f"first steps that the clock leaves out (default: {CYCLE}, a cycle from long texts to short ones)",
    )


def measure(options: argparse.Namespace) -> tuple[list[Row], int]:
    """All rows of this script, and the number of loader processes that suit the expert best."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = (f"training.num_train_epochs={options.epochs!r}", "training.num_evaluations=1")
        rows = write_rows(Path(folder), STUDY, overrides)
        steps = num_training_steps(options.epochs, rows.num_train, 32)
        if steps <= options.warmup_steps:
            sys.exit(f"--epochs must be more than the {options.warmup_steps} --warmup-steps, but got {steps} steps.")
        job = _job(rows, overrides, options.warmup_steps)
        workers = best_workers(job, options)
        say(f"{options.epochs:g} epochs of {rows.num_train:,} rows, {options.seeds} seeds, {workers} loader processes")
        runs = interleaved(
            {
                "ours": _at_seed(replace(job, precision=rows.precision)),
                "trainer": _at_seed(replace(job, contestant="trainer")),
                "expert": _at_seed(replace(job, contestant="expert", precision=rows.precision, workers=workers)),
                "ours in fp32": _at_seed(job),
            },
            options.seeds,
        )
    _require_steps(runs, steps)
    speeds = {name: [run.result.examples_per_second for run in of] for name, of in runs.items()}
    processes = {name: [run.process for run in of] for name, of in runs.items()}

    def speed(what: str, ours: str, theirs: str, goal: float | None = None) -> Row:
        return ratio_row(what, speeds[ours], speeds[theirs], "examples/s", higher_is_better=True, goal=goal)

    peers = {"trainer": "Trainer as it comes", "expert": "expert"}
    expertise = f"{rows.precision}, by length, {workers} loader processes"
    return [
        speed("training, Trainer as it comes (fp32)", "ours", "trainer", goal=4.0),
        speed(f"training, expert ({expertise})", "ours", "expert", goal=1.5),
        speed("training, both in fp32, Trainer as it comes", "ours in fp32", "trainer"),
        *(
            _accuracy_row(f"accuracy after {options.epochs:g} epochs, {peers[peer]}", runs["ours"], runs[peer])
            for peer in peers
        ),
        *(
            memory_row(f"peak memory of a training, {peers[peer]}", processes["ours"], processes[peer])
            for peer in peers
        ),
    ], workers


def best_workers(job: Job, options: argparse.Namespace) -> int:
    """The number of loader processes with which the expert trains fastest on this machine."""
    say(f"loader processes of the expert: {WORKERS}")
    overrides = (*job.overrides, f"training.num_train_epochs={min(WORKERS_EPOCHS, options.epochs)!r}")
    warmup_steps = min(WORKERS_WARMUP, options.warmup_steps)
    expert = replace(
        job, contestant="expert", precision=job.rows.precision, overrides=overrides, warmup_steps=warmup_steps
    )
    runs = interleaved({str(n): _at_seed(replace(expert, workers=n)) for n in WORKERS}, 1 if options.quick else 3)
    speeds = {n: statistics.median(run.result.examples_per_second for run in runs[str(n)]) for n in WORKERS}
    say(f"  {', '.join(f'{n}: {speed:.0f} examples/s' for n, speed in speeds.items())}")
    return max(WORKERS, key=lambda n: speeds[n])


def _job(rows: Rows, overrides: tuple[str, ...], warmup_steps: int) -> Job:
    return Job("ours", str(STUDY), overrides, rows, seed=0, warmup_steps=warmup_steps)


def _at_seed(job: Job) -> Callable[[int], Measured]:
    """The job with the number of the round as its seed: the same for all within a round."""
    return lambda repeat: run_job(replace(job, seed=repeat))


def _require_steps(runs: dict[str, list[Measured]], steps: int) -> None:
    """A contestant that did less would only look faster."""
    for name, of in runs.items():
        took = {run.result.num_training_steps for run in of}
        assert took == {steps}, f"{name} must train {steps} steps, but trained {took}"


def _accuracy_row(what: str, ours: Sequence[Measured], theirs: Sequence[Measured]) -> Row:
    points, peer_points = ([100 * run.result.accuracy for run in runs] for runs in (ours, theirs))
    found = difference(points, peer_points)
    verdict = "within noise" if found.within_noise else "more than noise"
    return Row(
        what=what,
        ours=_mean(points),
        theirs=_mean(peer_points),
        result=(
            f"{found.mean:+.2f} points, s.e. {found.standard_error:.2f}, 95 % {found.low:+.2f} to {found.high:+.2f}, "
            f"p = {found.p_value:.2f}: {verdict}"
        ),
        n=len(points),
        goal="within noise",
        reached=found.within_noise,
    )


def _mean(points: Sequence[float]) -> str:
    return f"{statistics.mean(points):.2f} % ± {statistics.stdev(points):.2f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.split("\n")[0])
    add_common_options(parser)
    add_options(parser)
    options = parse(parser, QUICK, arguments)
    rows, _ = measure(options)
    print_table("Training: MiniLM-L6, rotten_tomatoes, batch 32", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
