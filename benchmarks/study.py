"""A whole study by us and by `Trainer.hyperparameter_search` with Optuna and MLflow: wall time of the whole process.

python -m benchmarks.study                        # in about 40 minutes on two cores
python -m benchmarks.study --study-repeats 1

Same rows, weights, space, sampler, pruner, seeds, number of trials and of evaluations. The points drawn are the same
as long as the scores are; where they part, so does the work, which is why examples trained on are told as well.
"""

import argparse
import csv
import json
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import ROOT, Finished, interleaved, run_module, say
from benchmarks.rows import Rows, write_rows
from benchmarks.table import Row, add_common_options, memory_row, parse, print_table, ratio_row

STUDY = ROOT / "benchmarks" / "study.yaml"
QUICK = {"study_repeats": 1, "trials": 3, "max_rows": 64}


@dataclass(frozen=True)
class Searched:
    """What a search came to."""

    states: dict[str, int]
    """Trials by Optuna's state."""
    examples: int
    """Trained on, over all trials."""
    best: float
    """Validation accuracy of the best trial."""


@dataclass(frozen=True)
class Tracked:
    """What MLflow's database says of the trials afterwards."""

    runs: dict[str, int]
    """By status."""
    with_params: int
    """Runs of which it knows what they were trained with."""


@dataclass(frozen=True)
class StudyRun:
    """One whole study."""

    process: Finished
    searched: Searched
    tracked: Tracked


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("study")
    group.add_argument("--study-repeats", type=int, default=3, metavar="N", help="rounds (default: 3)")
    group.add_argument("--trials", type=int, default=12, metavar="N", help="trials of a study (default: 12)")
    group.add_argument("--max-rows", type=int, default=1000, metavar="N", help="training rows (default: 1000)")


def measure(options: argparse.Namespace, workers: int) -> tuple[list[Row], list[str]]:
    """The rows of this script, and in sentences what else differs.

    Args:
        workers: loader processes of the expert.
    """
    overrides = (f"n_trials={options.trials}", f"data.max_rows={options.max_rows}")
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder), STUDY, overrides)
        plain = {"bf16": False, "group_by_length": False, "workers": 0}
        expert = {"bf16": rows.precision == "bf16", "group_by_length": True, "workers": workers}
        say(f"a study of {options.trials} trials on {rows.num_train:,} rows")
        runs = interleaved(
            {
                "ours": lambda repeat: run_ours((*overrides, f"seed={repeat}")),
                "trainer": lambda repeat: run_trainer((*overrides, f"seed={repeat}"), rows, plain),
                "expert": lambda repeat: run_trainer((*overrides, f"seed={repeat}"), rows, expert),
            },
            options.study_repeats,
        )
    peers = {
        "trainer": "as it comes",
        "expert": f"by an expert ({rows.precision}, by length, {workers} loader processes)",
    }
    goals = {"trainer": 5.0, "expert": 2.5}

    seconds = {name: [run.process.seconds for run in of] for name, of in runs.items()}
    # The two prune by steps that are not the same, so one may also be quicker by having trained less.
    pace = {name: [1000 * run.process.seconds / run.searched.examples for run in of] for name, of in runs.items()}

    def row(what: str, times: Mapping[str, Sequence[float]], peer: str, goal: float | None = None) -> Row:
        return ratio_row(what, times["ours"], times[peer], "s", higher_is_better=False, goal=goal)

    whole = f"{options.trials}-trial study, hyperparameter_search"
    found = [row(f"{whole} {called}", seconds, name, goals[name]) for name, called in peers.items()]
    found += [row(f"the same per 1,000 examples trained on, {name}", pace, name) for name in peers]
    processes = {name: [run.process for run in of] for name, of in runs.items()}
    found += [memory_row(f"peak memory of that study, {name}", processes["ours"], processes[name]) for name in peers]
    return found, [_describe(name, of) for name, of in runs.items()]


def search(study: Path, output: Path, overrides: Sequence[str], workers: int = 1) -> Finished:
    """`python -m hpo.run`; a study that stands in the output folder goes on."""
    # Without what no peer does after its search.
    settings = [part for override in (*overrides, "finalists=null") for part in ("--set", override)]
    where = ("--study", str(study), "--output", str(output), "--workers", str(workers))
    return run_module("hpo.run", *where, *settings)


def run_ours(overrides: tuple[str, ...]) -> StudyRun:
    """`python -m hpo.run` into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        process = search(STUDY, Path(folder), overrides)
        with (Path(folder) / STUDY.stem / "trials.csv").open(encoding="utf-8", newline="") as file:
            trials = list(csv.DictReader(file))
        return StudyRun(process, searched(trials), tracked(Path(folder) / "mlflow.db"))


def run_trainer(overrides: tuple[str, ...], rows: Rows, expertise: Mapping[str, object]) -> StudyRun:
    """`trainer_study.py` with an empty MLflow database. The rows are read and split for it beforehand."""
    job = {"study": str(STUDY), "overrides": overrides, "rows": asdict(rows), "expertise": expertise}
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "mlflow.db"
        process = run_module(
            "benchmarks.trainer_study",
            json.dumps(job),
            environment={"MLFLOW_TRACKING_URI": f"sqlite:///{database}", "MLFLOW_EXPERIMENT_NAME": STUDY.stem},
        )
        return StudyRun(process, Searched(**json.loads(process.stdout.splitlines()[-1])), tracked(database))


def searched(trials: Sequence[Mapping[str, str]]) -> Searched:
    """Of the rows of `trials.csv`."""
    complete = [trial for trial in trials if trial["state"] == "COMPLETE"]
    return Searched(
        states=dict(sorted(Counter(trial["state"] for trial in trials).items())),
        examples=sum(int(trial["optimizer_steps"]) * int(trial["params.train_batch_size"]) for trial in trials),
        best=max(float(trial["score"]) for trial in complete),
    )


def tracked(database: Path) -> Tracked:
    """The trials' runs: those that have a parent, or all, where none has."""
    with closing(sqlite3.connect(database)) as connection:
        runs: dict[str, str] = dict(connection.execute("SELECT run_uuid, status FROM runs"))
        children = {run for (run,) in connection.execute("SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId'")}
        explained = {run for (run,) in connection.execute("SELECT run_uuid FROM params WHERE key = 'learning_rate'")}
    of_trials = children or runs.keys()
    statuses = Counter(status for run, status in runs.items() if run in of_trials)
    return Tracked(dict(sorted(statuses.items())), len(explained & of_trials))


def _describe(name: str, runs: Sequence[StudyRun]) -> str:
    """The first round: what was done, and what is left of it to read."""
    first = runs[0]
    states, statuses = (
        ", ".join(f"{count} {state}" for state, count in counts.items())
        for counts in (first.searched.states, first.tracked.runs)
    )
    return (
        f"{name}: Optuna has {states}; {first.searched.examples:,} examples trained on, best accuracy "
        f"{first.searched.best:.3f}; MLflow has {statuses}, {first.tracked.with_params} of them with their parameters"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="loader processes of the expert (default: 0)"
    )
    add_common_options(parser)
    add_options(parser)
    options = parse(parser, QUICK, arguments)
    rows, notes = measure(options, options.workers)
    print_table("A study: MiniLM-L6, rotten_tomatoes", rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
