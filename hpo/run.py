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
from hpo.study_file import study_path

EXECUTORS = ("serial", "processes", "ray")  # as `hpo.executors` has them, which is imported late


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m hpo.run",
        description="Search the hyperparameters of one study; run it again to continue where it stopped.",
    )
    made.add_argument(
        "--study", required=True, metavar="NAME|PATH", help="studies/NAME.yaml, or a path to a study file"
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="PATH=VALUE",
        help="override any key of the study file, such as training.max_length=64; may be repeated",
    )
    made.add_argument("--trials", type=int, metavar="N", help="short for --set n_trials=N: the total wanted")
    made.add_argument("--workers", type=_positive, default=1, metavar="N", help="how many trials run at once")
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


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main(arguments: list[str] | None = None) -> int:
    hide_arguments()
    options = parser().parse_args(arguments)
    quiet(options.verbose)
    trials = [] if options.trials is None else [f"n_trials={options.trials}"]

    def command() -> int:
        overrides = [*options.overrides, *trials]
        spec, notice = choose_study(study_path(options.study), overrides, options.fallback)
        with importing():  # only now what takes seconds: a mistake in the study file has answered already
            from hpo.console import StudyConsole
            from hpo.tune import tune

        console = StudyConsole(spec, options.output, notice, workers=options.workers)
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

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
