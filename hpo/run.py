"""`python -m hpo.run --study NAME`: searches, reports, exports. Start reading here, then `tune.py`."""

import argparse
import sys

from hpo.addresses import masked
from hpo.command_line import (
    add_output,
    add_storage,
    add_verbose,
    exit_code,
    hide_arguments,
    importing,
    quiet,
    storage_address,
)
from hpo.hub_choice import FALLBACK_MODES, choose_study
from hpo.output import require_written
from hpo.study_file import study_path

EXECUTORS = ("serial", "processes", "ray")  # as `hpo.executors` has them, which is imported late


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m hpo.run",
        description="Search the hyperparameters of one study; run it again to continue where it stopped.",
    )
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--study", metavar="NAME|PATH", help="studies/NAME.yaml, or a path to a study file")
    what.add_argument("--list", action="store_true", help="list the studies that were run: state, trials, best score")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="PATH=VALUE",
        help="override any key of the study file, such as training.max_length=64; may be repeated",
    )
    made.add_argument("--trials", type=int, metavar="N", help="short for --set n_trials=N: the total wanted")
    made.add_argument("--workers", type=positive, default=1, metavar="N", help="how many trials run at once")
    made.add_argument("--executor", choices=EXECUTORS, help="where they run (default: processes, or this one)")
    add_output(made)
    add_storage(made)
    made.add_argument("--fresh", action="store_true", help="start over; the earlier study is kept under a dated name")
    made.add_argument(
        "--read-test-again",
        action="store_true",
        help="read the test split for another winner than the one it was read for; the report says so",
    )
    made.add_argument(
        "--fallback",
        choices=FALLBACK_MODES,
        default="auto",
        help="run the study's stand-in when the Hub cannot be reached (default), always, or never",
    )
    add_verbose(made)
    return made


def _call(options: argparse.Namespace) -> list[str]:
    """What was asked for, as the report repeats it to go on: without `--fresh`, and `--output`, which it knows."""
    overrides = [part for override in options.overrides for part in ("--set", override)]
    trials = [] if options.trials is None else ["--trials", str(options.trials)]
    fallback = [] if options.fallback == "auto" else ["--fallback", options.fallback]
    workers = [] if options.workers == 1 else ["--workers", str(options.workers)]
    executor = [] if options.executor is None else ["--executor", options.executor]
    address = storage_address(options.storage)
    storage = [] if address is None else ["--storage", masked(address)]
    return ["--study", options.study, *overrides, *trials, *workers, *executor, *fallback, *storage]


def positive(text: str) -> int:
    """A number of things to do, or of those who do them."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main(arguments: list[str] | None = None) -> int:
    hide_arguments()
    options = parser().parse_args(arguments)
    quiet(options.verbose)
    return exit_code(lambda: list_studies(options) if options.list else search(options))


def list_studies(options: argparse.Namespace) -> int:
    """Shows the studies in storage. Raises `StorageError` if there is none, or it cannot be used."""
    storage = storage_address(options.storage)
    if storage is None:
        require_written(options.output / "optuna.db")
    with importing():
        from hpo.listing import show
        from hpo.live import standard_output
        from hpo.storage import open_storage

    show(open_storage(options.output, storage), standard_output())
    return 0


def search(options: argparse.Namespace) -> int:
    """Searches, or goes on where it stopped; the exit code."""
    trials = [] if options.trials is None else [f"n_trials={options.trials}"]
    spec, notice = choose_study(study_path(options.study), [*options.overrides, *trials], options.fallback)
    from hpo.live import Status, standard_output

    with Status(standard_output()) as status:
        status.tell("loading libraries")
        with importing():  # only now what takes seconds: a mistake in the study file has answered already
            from hpo.console import StudyConsole
            from hpo.tune import tune

        status.tell("reading data and models, trying the extremes of the space")
        console = StudyConsole(spec, options.output, notice, status.console, workers=options.workers, status=status)
        outcome = tune(
            spec,
            options.output,
            console,
            workers=options.workers,
            executor=options.executor,
            storage=storage_address(options.storage),
            fresh=options.fresh,
            read_test_again=options.read_test_again,
            call=_call(options),
        )
    console.summary(outcome)
    if outcome.interrupted:
        return 130
    return 0 if outcome.best_yaml else 1


if __name__ == "__main__":
    sys.exit(main())
