"""The driver of a study: checks everything before the first trial, runs what is missing, reports whatever ends it."""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from hpo.errors import HpoError, StorageError
from hpo.events import Event, OnEvent, StepDone
from hpo.export import export_trial
from hpo.facts import StudyFacts, study_facts
from hpo.interrupt import CtrlC
from hpo.output import prepare_output, require_addressable, write_atomically
from hpo.report import best_trial, leaderboard, trials_table, write_report
from hpo.report.page import ReportFiles
from hpo.search import first_pruning
from hpo.search_spec import NoPruner
from hpo.spec import StudySpec
from hpo.study import (
    INTERRUPTED,
    end_stale_trials,
    ended_trials,
    load_study,
    next_position,
    open_storage,
    open_study,
    pinned,
    remaining_trials,
    requeue_interrupted,
    require_unchanged,
    set_aside,
    study_names,
)
from hpo.tracking import Tracker, tracker_of
from hpo.trial import Job, end_run, run_trial

BEST_YAML = "best.yaml"


@dataclass(frozen=True)
class Outcome:
    """What a call of `tune` left behind."""

    study: optuna.Study
    report: ReportFiles
    best_yaml: Path | None
    interrupted: bool
    timed_out: bool


class Display(Protocol):
    """Who shows a running study."""

    def header(self, study: optuna.Study, facts: StudyFacts, notes: list[str]) -> None:
        """Told once, before the first trial: the study as it stands in storage, and what is worth saying."""

    def running(self) -> AbstractContextManager[OnEvent]:
        """Around the trials; gives what takes their events."""


def tune(spec: StudySpec, output: Path, display: Display, *, fresh: bool = False, call: Sequence[str] = ()) -> Outcome:
    """Runs the trials that are missing to `n_trials`, within `timeout`; then reports and exports.

    Args:
        fresh: keep an earlier study of this name aside and start over.
        call: the arguments of `hpo.run` that asked for this, for the report to repeat.

    Raises:
        HpoError: data, model, storage or a changed study cannot be used. If trials have run before that, they are
            reported first.
    """
    require_addressable(output)
    prepare_output(output)
    folder = output / spec.name
    with _only_driver(output, spec.name):
        storage = open_storage(output)
        tracker = tracker_of(output)
        notes = tracker.send_waiting()
        pinned_spec = spec if fresh else pinned(spec, storage)
        facts = study_facts(pinned_spec, output / "cache")
        gc.collect()  # the models that it tried: a trial's own collection leaves alone what was there before
        notes += _set_aside(storage, tracker, spec.name, folder) if fresh else []
        study = open_study(spec, storage)
        if ended_trials(study):
            require_unchanged(study, facts.data.fingerprint, facts.models)
        known = {"models": study.user_attrs.get("models", {}) | facts.models, "call": list(call)}
        for name, value in {**asdict(facts), **known}.items():  # report and export are made from these
            study.set_user_attr(name, value)
        parent_run_id = _start_parent(study, spec, tracker)
        try:
            notes += [*_repair(study, tracker, parent_run_id), *_pruning_notes(spec)]
            if not remaining_trials(study, spec):
                notes.append("Nothing is left to run: raise n_trials (--trials) to go on.")
            display.header(study, facts, notes)
            deadline = time.monotonic() + spec.timeout if spec.timeout else float("inf")
            stopped: HpoError | KeyboardInterrupt | None = None
            try:
                with CtrlC() as ctrl_c, display.running() as on_event:
                    while remaining_trials(study, spec) and time.monotonic() < deadline:
                        job = Job(output, next_position(study), parent_run_id)
                        run_trial(pinned_spec, job, _interruptible(on_event, ctrl_c))
                        ctrl_c.check()
            except (HpoError, KeyboardInterrupt) as error:
                stopped = error
            outcome = _finish(study, folder, tracker, parent_run_id, stopped, time.monotonic() >= deadline)
        except BaseException as error:  # also a second Ctrl-C, while the report is written
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            tracker.end_study(parent_run_id, status)
            raise
        if isinstance(stopped, HpoError):
            raise stopped
        return outcome


def _interruptible(on_event: OnEvent, ctrl_c: CtrlC) -> OnEvent:
    """Looks for a Ctrl-C at every step; not at the end of a trial, which is told whatever ended it."""

    def tell(event: Event) -> None:
        on_event(event)
        if isinstance(event, StepDone):
            ctrl_c.check()

    return tell


def _repair(study: optuna.Study, tracker: Tracker, parent_run_id: str) -> list[str]:
    """Ends what a dead driver left running, and queues what it interrupted once more."""
    stale = end_stale_trials(study)
    _end_runs(study, tracker, parent_run_id)
    requeue_interrupted(study)
    numbers = ", ".join(map(str, stale))
    return [f"Tried again, for the program was killed while it ran: trial {numbers}."] if stale else []


def _end_runs(study: optuna.Study, tracker: Tracker, parent_run_id: str) -> None:
    """Ends the runs that are still open as Optuna knows their trials; those of trials that are gone as interrupted."""
    running = tracker.running_trials(parent_run_id)
    numbers = {run_id: number for number, run_id in _runs(study, tracker).items()}
    trials = study.get_trials(deepcopy=False)
    for run in running:
        trial = trials[numbers[run.run_id]] if run.run_id in numbers else None
        if trial is None:
            run.end("FAIL", reason=INTERRUPTED, tags={}, metrics={})
        elif trial.state.is_finished():
            end_run(run, trial)


def _runs(study: optuna.Study, tracker: Tracker) -> dict[int, str]:
    """The trials' runs by number, with the ids of those that could not be created at once, as far as they are now."""
    trials = study.get_trials(deepcopy=False)
    runs = {trial.number: run for trial in trials if (run := trial.user_attrs.get("mlflow_run_id"))}
    known = study.user_attrs.get("mlflow_run_ids", {})
    if new := tracker.created(run for run in runs.values() if run not in known):
        known = known | new
        study.set_user_attr("mlflow_run_ids", known)
    return {number: known.get(run, run) for number, run in runs.items()}


def _pruning_notes(spec: StudySpec) -> list[str]:
    """A pruner that comes too late to prune is a mistake that nothing else would show."""
    first, last = first_pruning(spec.pruner), spec.training.num_evaluations
    if isinstance(spec.pruner, NoPruner) or first < last:
        return []
    return [
        f"Nothing will be pruned: the {spec.pruner.name} pruner first looks at evaluation {first:g}, and at the last "
        f"one, {last}, there is nothing left to save. Raise training.num_evaluations, or change the pruner."
    ]


def _start_parent(study: optuna.Study, spec: StudySpec, tracker: Tracker) -> str:
    tags = {"fallback_for": spec.fallback_for} if spec.fallback_for else {}
    known = study.user_attrs.get("mlflow_parent_run_id")
    run_id = tracker.start_study(spec.name, known, spec.description, tags)
    study.set_user_attr("mlflow_parent_run_id", run_id)
    return run_id


def _finish(
    study: optuna.Study,
    folder: Path,
    tracker: Tracker,
    parent_run_id: str,
    stopped: HpoError | KeyboardInterrupt | None,
    timed_out: bool,
) -> Outcome:
    """Report and export of whatever has finished."""
    _end_runs(study, tracker, parent_run_id)
    best, report = _export_and_report(study, folder)
    best_yaml = folder / BEST_YAML if best else None
    scores = best.user_attrs["result"]["metrics"] if best else {}
    metrics = {name.replace("eval/", "study/best_"): value for name, value in scores.items()}
    files = [study_file(study, folder), report.markdown, report.table, folder / "figures"]
    status = {type(None): "FINISHED", KeyboardInterrupt: "KILLED"}.get(type(stopped), "FAILED")
    runs = _runs(study, tracker)
    ranked = leaderboard(trials_table(study), "score", study.direction.name.lower())["number"]
    tracker.end_study(
        parent_run_id,
        status,
        metrics,
        files=[*files, *([best_yaml] if best_yaml else [])],
        compare=[runs[number] for number in ranked if number in runs],
    )
    return Outcome(study, report, best_yaml, isinstance(stopped, KeyboardInterrupt), timed_out)


def study_file(study: optuna.Study, folder: Path) -> Path:
    """The study as it was run, every default written out, as `study.yaml` in its folder."""
    path = folder / "study.yaml"
    write_atomically(path, yaml.safe_dump(study.user_attrs["spec"], sort_keys=False).encode())
    return path


def _set_aside(storage: BaseStorage, tracker: Tracker, name: str, folder: Path) -> list[str]:
    if name not in study_names(storage):
        return []
    study = load_study(storage, name)
    end_stale_trials(study)
    if parent_run_id := study.user_attrs.get("mlflow_parent_run_id"):
        _end_runs(study, tracker, parent_run_id)
        tracker.end_stale_study(parent_run_id)
    kept = set_aside(storage, name)
    tracker.rename_study(name, kept)
    if folder.exists():  # its files name the study and themselves, in commands to be copied
        _export_and_report(load_study(storage, kept), folder.rename(folder.with_name(kept)))
    return [f"The earlier study is kept as `{kept}`."]


def _export_and_report(study: optuna.Study, folder: Path) -> tuple[FrozenTrial | None, ReportFiles]:
    """Everything in the study's folder that is made from storage; returns the best trial with it."""
    best = best_trial(study)
    if best:
        export_trial(study, best, folder / BEST_YAML)
    return best, write_report(study, folder)


@contextmanager
def _only_driver(output: Path, name: str) -> Iterator[None]:
    """One driver a study: a second one would take the first one's running trial for dead."""
    lock = FileLock(output / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(
            f"a study must have one driver at a time, but `{name}` in {output} is being run by another process. "
            "Wait for it, or use another name: --set name=..."
        ) from error
    try:
        yield
    finally:
        lock.release()
