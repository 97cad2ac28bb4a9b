"""Hundreds of real trials while workers, drivers and servers are killed at random: `make soak`.

    make soak                                  # 500 trials on SQLite (twelve minutes on two cores), then on PostgreSQL
    make soak ARGS=--quick                     # 20 trials each: does it run?
    make soak ARGS='--storage postgresql --trials 100 --seed 1'
    make soak ARGS='--every 40'                # on a machine that others use

SQLite: one driver with four workers. PostgreSQL: two drivers with two workers each, as on two machines with a common
folder, and an MLflow server; both servers are restarted as well. A driver that was killed is started again by the same
command. The last trials are left in peace, for a process has to live long to show that its memory grows. Then all is
looked at from outside, and anything that is not as it should be ends in exit code 1.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from benchmarks.measure import CHILD_ENVIRONMENT, machine, say, software
from benchmarks.mlflow_server import MlflowServer
from benchmarks.postgres import NotInstalled, PostgresServer, binaries, running_server
from benchmarks.soak_checks import Soaked, check_all
from benchmarks.soak_fleet import Driver, Fleet, read_finished
from benchmarks.soak_memory import Growth, check_memory, growth
from benchmarks.table import Check, add_common_options, parse
from benchmarks.tiny import make_tokenizer, save_model, sentences, tiny_study, write_csv
from hpo.attempts import is_retried
from hpo.command_line import quiet
from hpo.interrupt import sigterm_as_ctrl_c
from hpo.tracking import Tracker

NAME, WORKERS = "soak", 4
QUICK = {"trials": 20}
# Of the trials, at the end, in which nothing is killed any more.
CALM = 0.3
# What is killed or restarted, and how often of a hundred times.
SQLITE = {"worker": 85.0, "driver": 15.0}
POSTGRESQL = {"worker": 70.0, "driver": 15.0, "postgresql": 10.0, "mlflow": 5.0}
# Seconds from one to the next, on average. A driver that is started again imports for some seconds, and so do its
# workers where they are spawned: much faster, or on a busy machine, and two cores would do nothing else.
EVERY = 5.0
# Seconds at most that a server is away.
AWAY = 5.0


@dataclass(frozen=True)
class Place:
    """Where a study is kept, and who may be disturbed there."""

    storage: str | None
    environment: Mapping[str, str]
    mlflow: Path
    servers: Mapping[str, "Restart"]
    victims: Mapping[str, float]
    drivers: int


class Restart:
    """Stops a server some way, and starts it after a while."""

    def __init__(self, server: PostgresServer | MlflowServer) -> None:
        self._server = server

    def __call__(self, draw: random.Random) -> None:
        seconds, gently = draw.uniform(0, AWAY), draw.random() < 0.5
        if isinstance(self._server, PostgresServer):
            self._server.restart(seconds, signal.SIGINT if gently else signal.SIGQUIT)
        else:
            self._server.kill()
            time.sleep(seconds)
            self._server.start()


@contextmanager
def on_sqlite(folder: Path, environment: Mapping[str, str]) -> Iterator[Place]:
    yield Place(None, environment, folder / "output" / "mlflow.db", {}, SQLITE, drivers=1)


@contextmanager
def on_postgresql(folder: Path, environment: Mapping[str, str]) -> Iterator[Place]:
    """Its own PostgreSQL and MLflow servers."""
    (folder / "server").mkdir()
    Tracker(folder / "server")  # makes the tables
    mlflow = MlflowServer(folder / "server" / "mlflow.db")
    with running_server() as postgres, postgres.database() as database:
        mlflow.start()
        try:
            yield Place(
                database.url,
                {**environment, "OPTUNA_STORAGE": database.url, "MLFLOW_TRACKING_URI": mlflow.address},
                folder / "server" / "mlflow.db",
                {"postgresql": Restart(postgres), "mlflow": Restart(mlflow)},
                POSTGRESQL,
                drivers=2,
            )
        finally:
            mlflow.kill()


PLACES = {"sqlite": on_sqlite, "postgresql": on_postgresql}


@dataclass(frozen=True)
class Result:
    """What the soak of one storage came to."""

    numbers: dict[str, str]
    checks: list[Check]


def write_study(folder: Path, n_trials: int) -> Path:
    """A study of trials that take a second or two alone, with all that it needs, in a folder."""
    disable_progress_bar()
    model = save_model(folder / "model", make_tokenizer())
    data = write_csv(folder / "reviews.csv", sentences(400, seed=1))
    raw = tiny_study(
        model,
        data,
        name=NAME,
        n_trials=n_trials,
        metric="eval/loss",  # a number that no two trials share, unlike accuracy
        pruner={"name": "median", "n_startup_trials": 5, "n_warmup_steps": 2},
        checkpoint_every=0.5,
        grace_period=15,
    )
    raw["training"] |= {"num_train_epochs": 30, "num_evaluations": 8}
    path = folder / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def soak(where: str, folder: Path, n_trials: int, seed: int, every: float) -> Result:
    """Runs the study in the folder, and looks at what is left."""
    study, output = write_study(folder, n_trials), folder / "output"
    clean = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE")}
    with PLACES[where](folder, clean | CHILD_ENVIRONMENT) as place:
        workers = WORKERS // place.drivers
        arguments = ["--study", str(study), "--output", str(output), "--workers", str(workers)]
        logs = (folder / f"driver-{number}.log" for number in range(place.drivers))
        fleet = Fleet(
            [Driver(arguments, place.environment, log) for log in logs],
            partial(read_finished, place.storage, output, NAME),
            seed,
            place.victims,
            place.servers,
            every,
            disturbed_trials=round((1 - CALM) * n_trials),
        )
        seen = fleet.run()
        soaked = Soaked(output, NAME, n_trials, seen, place.environment, place.mlflow, place.storage)
        grown = [growth(what, seen.memory, soaked.trials) for what in ("driver", "worker")]
        return Result(_numbers(soaked, grown), [*check_all(soaked), *check_memory(grown)])


def _numbers(soaked: Soaked, grown: Sequence[Growth]) -> dict[str, str]:
    seen, trials = soaked.seen, soaked.trials
    restarts = ", ".join(f"{count} {what}" for what, count in sorted(seen.restarts.items())) or "none"
    calm = sum(
        bool(seen.calm_since and trial.datetime_start and trial.datetime_start > seen.calm_since) for trial in trials
    )
    return {
        "trials, with those tried again": f"{len(trials)}, {sum(map(is_retried, trials))} of them tried again",
        "workers, drivers killed": f"{seen.killed('worker')}, {seen.killed('driver')}",
        "servers restarted": restarts,
        "trials started in peace, at the end": str(calm),
        "wall time": f"{seen.seconds / 60:.1f} min",
        **{f"memory of a {each.what}": str(each) for each in grown},
    }


def print_results(results: Mapping[str, Result]) -> None:
    table = Table(title="Killed again and again", title_justify="left")
    table.add_column("")
    for where in results:
        table.add_column(where, overflow="fold")
    for what in next(iter(results.values())).numbers:
        table.add_row(what, *(result.numbers[what] for result in results.values()))
    table.add_section()
    for what in dict.fromkeys(check.what for result in results.values() for check in result.checks):
        found = ({check.what: check for check in result.checks}.get(what) for result in results.values())
        table.add_row(what, *(_verdict(check) for check in found))
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 150)
    console.print(table)
    for note in (machine(), software()):
        console.print(note)


def _verdict(check: Check | None) -> str:
    if check is None:
        return "not judged: too few trials"
    return ("holds" if check.passed else "BROKEN") + (f": {check.found}" if check.found else "")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    made.add_argument("--storage", choices=(*PLACES, "both"), default="both", help="where (default: both, in turn)")
    made.add_argument("--trials", type=int, default=500, metavar="N", help="of each study (default: 500)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of what is killed, and when (default: 0)")
    made.add_argument(
        "--every",
        type=float,
        default=EVERY,
        metavar="S",
        help=f"seconds between kills, on average (default: {EVERY:g})",
    )
    made.add_argument("--folder", type=Path, help="where studies are kept (default: a temporary one, kept if broken)")
    add_common_options(made)
    return made


def main(arguments: list[str] | None = None) -> int:
    options = parse(parser(), QUICK, arguments)
    places = list(PLACES) if options.storage == "both" else [options.storage]
    if "postgresql" in places:
        try:
            binaries()
        except NotInstalled as error:
            print(f"{error}. Or leave it out: --storage sqlite", file=sys.stderr)
            return 2
    quiet(verbose=False)  # for the rest of the process
    folder = Path(tempfile.mkdtemp(prefix="hpo-soak-", dir=options.folder))
    results = {}
    for where in places:
        say(f"{where}: {options.trials} trials in {folder / where}")
        (folder / where).mkdir()
        with sigterm_as_ctrl_c():  # or its drivers would go on without it
            results[where] = soak(where, folder / where, options.trials, options.seed, options.every)
        for check in results[where].checks:
            say(f"  {check}")
    print_results(results)
    if not all(check.passed for result in results.values() for check in result.checks):
        print(f"All that is left of it is in {folder}.")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
