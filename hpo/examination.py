"""What of a study is stale, unfinished, or told otherwise by Optuna and by MLflow; and what ends it truthfully."""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from hpo.attempts import is_superseded, requeue, unqueued_trials
from hpo.errors import StorageError
from hpo.lease import Watch, is_alive
from hpo.output import FINALISTS, output_option, study_folder
from hpo.report import best_trial
from hpo.storage import exclusive
from hpo.study import load_study, remaining_trials, running_trials, stored_spec, total_trials
from hpo.supervisor import end_dead, end_runs, leftover_checkpoints, leftover_weights, parent_run, trial_runs
from hpo.tracking import Tracker
from hpo.tracking_run import RUN_STATUS
from hpo.trial import weights_path
from hpo.trial_end import end_run
from hpo.tune import only_driver

# The lock under which a study changes hands.
Changing = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    text: str
    mend: Callable[[], object] | None = None
    """Ends it truthfully; None where only the user can, or time."""


def waiting(tracker: Tracker) -> Iterator[Finding]:
    """What MLflow has not got yet."""
    for address, count in tracker.waiting().items():
        text = f"{count:,} entries wait on disk for MLflow ({address})"
        yield Finding(text, tracker.send_waiting if address == tracker.address else None)


def findings(storage: BaseStorage, tracker: Tracker, output: Path, name: str, url: str | None) -> Iterator[Finding]:
    """Of one study. What is mended before the next one is asked for shows in what comes after it.

    Raises:
        StorageError: MLflow cannot be asked.
    """
    study = load_study(storage, name)
    with ExitStack() as held:
        if url is None:  # on a server others may be driving it, which nobody can tell from here
            try:
                held.enter_context(only_driver(output, name.removesuffix(FINALISTS)))
            except StorageError:
                yield Finding("is being run: look again when that has ended")
                return
        # As drivers do, who may work on a study of a server meanwhile: or a trial would be queued twice.
        changing = partial(exclusive, output, name, url)
        yield from _trials(study, tracker, changing, alone=url is None)
        if parent := study.user_attrs.get("mlflow_parent_run_id"):
            yield from _runs(study, tracker, parent)
        yield from _files(study, output, changing)
        if "spec" in study.user_attrs and (left := remaining_trials(study, spec := stored_spec(study))):
            yield Finding(f"{left} of {total_trials(spec)} trials are still to end")


def _trials(study: optuna.Study, tracker: Tracker, changing: Changing, *, alone: bool) -> Iterator[Finding]:
    running = running_trials(study)
    if gone := Watch(math.inf).dead(running, alone=alone):
        yield Finding(f"{_named(gone)} RUNNING, and nobody runs it", partial(_bury, study, tracker, gone, changing))
    if elsewhere := [trial for trial in running if is_alive(trial) is None and not alone]:
        yield Finding(f"{_named(elsewhere)} RUNNING on another machine; if that is dead, `hpo.run` will find out")
    if left := unqueued_trials(study):
        yield Finding(
            f"{_named(left)} cut short, and not queued to be tried again", partial(_bury, study, tracker, (), changing)
        )


def _runs(study: optuna.Study, tracker: Tracker, parent: str) -> Iterator[Finding]:
    statuses, runs = tracker.statuses(parent), trial_runs(study, tracker)
    if parent not in statuses:
        yield Finding("its parent run is not in MLflow any more; the next `hpo.run` starts another one")
        return
    trials = study.get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state.is_finished() and not is_superseded(trial)]
    for trial in ended:
        run = runs.get(trial.number)
        if run is None or run not in statuses:
            yield Finding(f"trial {trial.number} is {trial.state.name}, and has no run in MLflow")
        elif statuses[run] != RUN_STATUS[trial.state.name]:
            text = f"trial {trial.number} is {trial.state.name}, but its run in MLflow {statuses[run]}"
            yield Finding(text, partial(end_run, tracker.trial_run(run), trial))
    known = set(runs.values()) | {parent}
    if unknown := [run for run, status in statuses.items() if status == "RUNNING" and run not in known]:
        text = f"{len(unknown)} runs are RUNNING in MLflow of trials that are not there"
        yield Finding(text, partial(end_runs, study, tracker, parent))
    if statuses[parent] == "RUNNING" and not running_trials(study):
        yield Finding("its parent run is RUNNING in MLflow, and no trial is", partial(tracker.end_stale_study, parent))


def _files(study: optuna.Study, output: Path, changing: Changing) -> Iterator[Finding]:
    folder = study_folder(output, study.study_name)
    if left := leftover_checkpoints(study, folder):
        size = sum(path.stat().st_size for path in left) / 2**20
        text = f"{len(left)} checkpoints ({size:.0f} MiB) are of trials that have ended"
        yield Finding(text, partial(_remove, left))
    with changing():  # or those of a trial that is just becoming the best would be of no use
        best, others = best_trial(study), leftover_weights(study, folder)
    if others:
        yield Finding(
            f"weights are kept of {', '.join(path.name for path in others)}, not of the best trial",
            partial(_remove, others),
        )
    if best is None or study.study_name.endswith(FINALISTS):  # whose winner's are kept with the search
        return
    wanted = weights_path(folder, best.number)
    if not wanted.is_dir():
        again = f"python -m hpo.train --config {folder / 'best.yaml'}"
        yield Finding(f"the weights of its best trial, {wanted.name}, are not here; `{again}` trains them again")
    if not (folder / "report.md").is_file():
        yield Finding(f"has no report: python -m hpo.report --study {study.study_name}{output_option(output)}")


def _bury(study: optuna.Study, tracker: Tracker, gone: Sequence[FrozenTrial], changing: Changing) -> None:
    parent = parent_run(study, tracker)
    with changing():
        end_dead(study, tracker, parent, gone)
        requeue(study)


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _named(trials: Sequence[FrozenTrial]) -> str:
    numbers = ", ".join(str(trial.number) for trial in trials)
    return f"trial {numbers} is" if len(trials) == 1 else f"trials {numbers} are"
