"""Which pruner finds more in the same time: real trials, recorded once, replayed through Optuna's own pruners.

python -m benchmarks.pruners                    # replays the trials of pruners.csv: table and figure, in seconds
python -m benchmarks.pruners --record FOLDER    # trains them anew, in about three quarters of an hour on two cores
python -m benchmarks.pruners --real 3 --only none median    # whole studies instead, each as long as a replayed one

Each trial of pruners.csv was trained to its end by `python -m hpo.run`, with points drawn at random and no pruner. A
replayed study draws from them, with replacement, after the untuned default; tells the pruner each score at the time at
which it was there, and stops the trial where the pruner says so. So random search is repeated in no time and over many
seeds, and the spread over them is that of other trials too. What TPE makes of trials that were stopped, `--real` says.
"""

import argparse
import csv
import itertools
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from benchmarks.measure import ROOT, machine, say, software, use_cores
from benchmarks.study import search
from hpo.report.figures import one_panel, png
from hpo.search import build_pruner
from hpo.spec import StudySpec
from hpo.storage import open_storage
from hpo.study import load_study
from hpo.study_file import read_study

STUDY = ROOT / "studies" / "rotten_tomatoes.yaml"
RECORDED = ROOT / "benchmarks" / "pruners.csv"
FIGURE = ROOT / "benchmarks" / "figures" / "pruners.png"
ROWS = "data.max_rows=2000"
"""Of training and of validation: a trial of half a minute on two cores."""
PRUNERS: dict[str, str] = {
    "none": "{name: none}",
    "median": "{name: median, n_startup_trials: 5}",
    "median-warmup-1": "{name: median, n_startup_trials: 5, n_warmup_steps: 1}",
    "percentile-25-warmup-1": "{name: percentile, percentile: 25, n_startup_trials: 5, n_warmup_steps: 1}",
    "successive-halving": "{name: successive_halving}",
    "successive-halving-2": "{name: successive_halving, reduction_factor: 2}",
    "hyperband": "{name: hyperband}",
    "patient-median": "{name: patient, patience: 1}",
}
"""As a study file spells them."""
BUDGET = 16.0
"""Whole trials that fit into the time of a study."""
START = 0.1
"""Seconds of a trial that are spent before its first step; `python -m benchmarks.startup` measures them."""
SHARES = (0.25, 0.5, 1.0)
"""Of that time, at which the best score is told."""


@dataclass(frozen=True)
class Recorded:
    """A trial that ran to its end."""

    seconds: float
    """All of it, evenly spread over its shares but for its start."""
    shares: int
    """Of the training, with an evaluation after each."""
    scores: tuple[float, ...]
    """By evaluation; fewer than shares if the trial diverged."""


@dataclass(frozen=True)
class Searched:
    """What a study found by when."""

    bests: tuple[tuple[float, float], ...]
    """Seconds since its start, and the best score of a complete trial by then; only where it rises."""
    begun: int
    completed: int

    def best_at(self, seconds: float) -> float:
        """NaN before the first trial is complete."""
        return max((score for at, score in self.bests if at <= seconds), default=float("nan"))


def replay(
    spec: StudySpec, trials: Iterable[Recorded], seconds: float, seed: int = 0, start: float = START
) -> Searched:
    """A study that takes these trials in this order. The first is the default, and never stopped.

    Args:
        seconds: after which no score counts any more.
        start: seconds before a trial's first step.

    Raises:
        ValueError: there are not enough of them for the time.
    """
    # Hyperband draws a trial's bracket from the study's name.
    study = optuna.create_study(direction=spec.direction, pruner=build_pruner(spec), study_name=f"{spec.name}-{seed}")
    now, begun = 0.0, 0
    completed: list[tuple[float, float]] = []
    for recorded in trials:
        trial, begun, now = study.ask(), begun + 1, now + start
        share = (recorded.seconds - start) / recorded.shares
        for step in range(1, recorded.shares + 1):
            now += share
            if now > seconds:
                return Searched(rises(completed), begun, len(completed))
            if step > len(recorded.scores):  # it diverged
                study.tell(trial, state=TrialState.PRUNED)
                break
            score = recorded.scores[step - 1]
            trial.report(score, step)
            stop = trial.should_prune()
            if step == recorded.shares:
                completed.append((now, score))
                study.tell(trial, score)
            elif stop and begun > 1:
                study.tell(trial, state=TrialState.PRUNED)
                break
    raise ValueError(f"{begun} trials must last for {seconds:.0f} s, but they are over after {now:.0f} s")


def rises(completed: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Only the scores that are better than all before them."""
    best, kept = -float("inf"), []
    for at, score in completed:
        if score > best:
            best = score
            kept.append((at, score))
    return tuple(kept)


def replay_all(recorded: Sequence[Recorded], seconds: float, seeds: int) -> dict[str, list[Searched]]:
    """Every pruner over the same draws from all trials but the first."""
    found: dict[str, list[Searched]] = {}
    for name, pruner in PRUNERS.items():
        say(f"  {name}")
        spec = read_study(STUDY, [f"pruner={pruner}"])
        found[name] = [replay(spec, _drawn(recorded, seed), seconds, seed) for seed in range(seeds)]
    return found


def _drawn(recorded: Sequence[Recorded], seed: int) -> Iterable[Recorded]:
    """The default, then others without end."""
    generator = np.random.default_rng(seed)
    return itertools.chain(
        [recorded[0]], (recorded[int(generator.integers(1, len(recorded)))] for _ in itertools.count())
    )


def run_all(names: Sequence[str], seconds: float, seeds: int) -> dict[str, list[Searched]]:
    """Whole studies of `hpo.run`, with the sampler of the study file, the pruners in turn."""
    found: dict[str, list[Searched]] = {name: [] for name in names}
    for seed in range(seeds):
        for name in names:
            say(f"  {seed + 1}/{seeds} {name}")
            settings = (ROWS, f"pruner={PRUNERS[name]}", f"seed={seed}", "n_trials=1000", f"timeout={seconds}")
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(_searched(run_study(Path(folder), settings), seconds))
    return found


def run_study(folder: Path, settings: Sequence[str]) -> list[optuna.trial.FrozenTrial]:
    """Its trials. A study that stands in the folder goes on."""
    search(STUDY, folder, settings)
    return load_study(open_storage(folder), read_study(STUDY, []).name).get_trials(deepcopy=False)


def _searched(trials: Sequence[optuna.trial.FrozenTrial], seconds: float) -> Searched:
    began = min(trial.datetime_start for trial in trials if trial.datetime_start)
    completed = sorted(
        ((trial.datetime_complete - began).total_seconds(), trial.value)
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.datetime_complete and trial.value is not None
    )
    in_time = [each for each in completed if each[0] <= seconds]
    return Searched(rises(in_time), len(trials), len(in_time))


def record(folder: Path, count: int, path: Path) -> None:
    """Trains the trials and writes them down; goes on where it was interrupted."""
    settings = (ROWS, "pruner={name: none}", "sampler={name: random}", f"n_trials={count}")
    trials = run_study(folder, settings)
    steps = read_study(STUDY, []).training.num_evaluations
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["seconds", "shares", *(f"score_{step}" for step in range(1, steps + 1))])
        for trial in trials:
            if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):  # interrupted: there is another try
                continue
            result = trial.user_attrs["result"]
            scores = [f"{score:.6f}" for _, score in sorted(trial.intermediate_values.items())]
            shares = steps if trial.state == TrialState.COMPLETE else result["step"]
            writer.writerow([f"{result['seconds']:.2f}", shares, *scores, *[""] * (steps - len(scores))])


def read_recorded(path: Path) -> list[Recorded]:
    """The trials of a table that `record` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [
        Recorded(float(seconds), int(shares), tuple(float(score) for score in scores if score))
        for seconds, shares, *scores in rows
    ]


def print_table(found: Mapping[str, Sequence[Searched]], seconds: float) -> None:
    """Means over the studies, and the difference to no pruner, study by study."""
    seeds = len(next(iter(found.values())))
    table = Table(title=f"Best validation accuracy in {seconds:.0f} s, mean of {seeds} studies", title_justify="left")
    for column in ("pruner", "begun", "complete", *(f"at {share:.0%} of it" for share in SHARES)):
        table.add_column(column, justify="left" if column == "pruner" else "right", no_wrap=column == "pruner")
    for column in ("above none, ± s.e.", "as good as none at"):
        table.add_column(column, justify="right")
    grid = np.linspace(0, seconds, 401)
    none, goal = [study.best_at(seconds) for study in found["none"]], mean_curve(found["none"], grid)[-1]
    for name, studies in found.items():
        bests = [study.best_at(seconds) for study in studies]
        gains = [100 * (best - other) for best, other in zip(bests, none, strict=True)]
        error = statistics.stdev(gains) / seeds**0.5 if seeds > 1 else float("nan")
        reached = grid[mean_curve(studies, grid) >= goal]
        table.add_row(
            name,
            f"{statistics.mean(study.begun for study in studies):.1f}",
            f"{statistics.mean(study.completed for study in studies):.1f}",
            *(f"{100 * statistics.mean(s.best_at(share * seconds) for s in studies):.2f} %" for share in SHARES),
            "" if name == "none" else f"{statistics.mean(gains):+.2f} ± {error:.2f}",
            f"{reached[0] / seconds:.0%} of its time" if len(reached) else "never",
        )
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 150)
    console.print(table)
    console.print(machine(), software(), sep="\n")


def mean_curve(studies: Sequence[Searched], grid: np.ndarray) -> np.ndarray:
    """[times] the mean best score; NaN where a study has none yet."""
    means: np.ndarray = np.mean([[study.best_at(float(at)) for at in grid] for study in studies], axis=0)
    return means


def draw(found: Mapping[str, Sequence[Searched]], seconds: float, path: Path) -> None:
    """Mean best score against time."""
    seeds = len(next(iter(found.values())))
    title = f"The best accuracy by then, mean of {seeds} studies"
    figure, axes = one_panel(8, 4.6, title, "Seconds of a study", "Validation accuracy (%)")
    grid = np.linspace(0, seconds, 401)
    colours = ("#222222", "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7", "#8C8C8C")
    for colour, (name, studies) in zip(colours, found.items(), strict=False):
        style = {"linestyle": "--", "linewidth": 1.6} if name == "none" else {"linewidth": 1.6}
        axes.plot(grid, 100 * mean_curve(studies, grid), label=name, color=colour, **style)
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruners", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--table", type=Path, default=RECORDED, metavar="CSV", help="the recorded trials")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="train them anew in this output folder first")
    parser.add_argument("--trials", type=int, default=80, metavar="N", help="so many of them (default: 80)")
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="replayed studies (default: 100)")
    parser.add_argument("--real", type=int, metavar="SEEDS", help="run whole studies instead, so many with each pruner")
    parser.add_argument("--only", nargs="+", choices=PRUNERS, default=list(PRUNERS), help="pruners of --real")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="X", help=f"whole trials ({BUDGET:g})")
    parser.add_argument("--figure", type=Path, default=FIGURE, metavar="PNG", help="where the figure goes")
    parser.add_argument("--cores", type=int, default=2, metavar="N", help="CPU cores of a training (default: 2)")
    options = parser.parse_args(arguments)
    use_cores(options.cores)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.record:
        record(options.record, options.trials, options.table)
    if not options.table.is_file():
        parser.error(f"trials must be recorded to be replayed, but {options.table} is not there. Use --record FOLDER.")
    recorded = read_recorded(options.table)
    seconds = options.budget * statistics.mean(trial.seconds for trial in recorded)
    if options.real:
        if "none" not in options.only:
            parser.error("--only must have `none`, with which the others are compared")
        print_table(run_all(options.only, seconds, options.real), seconds)
        return 0
    found = replay_all(recorded, seconds, options.seeds)
    print_table(found, seconds)
    draw(found, seconds, options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
