"""The driver of a study: checks everything before the first trial, runs what is missing, reports whatever ends it."""

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage

from hpo.errors import HpoError, StorageError
from hpo.executors import EXECUTORS
from hpo.export import BEST_YAML, export_trial
from hpo.facts import StudyFacts, study_facts
from hpo.finalists import Shows, keep_model, model_path, run_finalists
from hpo.interrupt import CtrlC
from hpo.lease import Watch
from hpo.output import FINALISTS, prepare_output, require_addressable, write_atomically
from hpo.plain_text import markdown
from hpo.report import best_trial, leaderboard, write_report
from hpo.report.page import ReportFiles
from hpo.report.tables import view_of
from hpo.results import Finals, claim
from hpo.search import first_pruning
from hpo.search_spec import NoPruner
from hpo.spec import StudySpec
from hpo.storage import exclusive, open_storage, study_names
from hpo.study import (
    ended_trials,
    finalists_study,
    load_study,
    open_study,
    pinned,
    remaining_trials,
    require_unchanged,
    running_trials,
    set_aside,
    standing_finals,
    stored_finals,
)
from hpo.study_logging import runs_table, study_datasets, study_inputs, study_note, winner_of
from hpo.supervisor import Supervisor, end_dead, end_runs, parent_run, trial_runs
from hpo.tracking import Tracker, tracker_of
from hpo.tracking_run import Dataset
from hpo.training.device import return_unused_memory
from hpo.trial import Job, weights_path
from hpo.trial_logging import final_metrics

# Workers whose writes to `optuna.db` do not wait for each other for long.
MOST_ON_FILE = 8


@dataclass(frozen=True)
class Outcome:
    """What a call of `tune` left behind."""

    study: optuna.Study
    report: ReportFiles
    finals: Finals | None
    """What the finalists came to, if they were trained."""
    best_yaml: Path | None
    model: Path | None
    """The winner's model folder, or the best trial's, where this machine has it."""
    interrupted: bool
    timed_out: bool
    notes: list[str]
    """What is worth saying of its end, in sentences."""


class Display(Shows, Protocol):
    """Who shows a running study."""

    def header(self, study: optuna.Study, facts: StudyFacts, notes: list[str]) -> None:
        """Told once, before the first trial: the study as it stands in storage, and what is worth saying."""


def tune(
    spec: StudySpec,
    output: Path,
    display: Display,
    *,
    workers: int = 1,
    executor: str | None = None,
    storage: str | None = None,
    fresh: bool = False,
    read_test_again: bool = False,
    call: Sequence[str] = (),
) -> Outcome:
    """Runs the trials that are missing to `n_trials`, within `timeout`, then the finalists; then reports and exports.

    Args:
        workers: how many trials run at once.
        executor: one of `EXECUTORS`. Default: this process, for one trial at a time that nobody may kill, and if no
            other driver can share the study; processes else.
        storage: the address of the database; None is `optuna.db` in `output`.
        fresh: keep an earlier study of this name aside and start over.
        read_test_again: for another winner than that of the first reading.
        call: the arguments of `hpo.run` that asked for this, for the report to repeat.

    Raises:
        HpoError: data, model, storage or a changed study cannot be used, or everything fails. If trials have run
            before that, they are reported first.
    """
    require_addressable(output)
    prepare_output(output)
    folder = output / spec.name
    # A driver that trains looks after no other trial: it does so only where it alone may run any, and none has to end.
    serial = workers == 1 and spec.trial_timeout is None and storage is None
    chosen = executor or ("serial" if serial else "processes")
    ctrl_c = CtrlC()
    # On a server drivers share a study, as workers do.
    alone = only_driver(output, spec.name) if storage is None else nullcontext()
    with alone, EXECUTORS[chosen](spec, output, storage, workers, ctrl_c.check) as running:
        display.status("opening the databases")
        opened = open_storage(output, storage)
        tracker = tracker_of(output)
        notes = tracker.send_waiting()
        pinned_spec = spec if fresh else pinned(spec, opened)
        display.status("reading data and models, and trying what the space may draw")
        facts = study_facts(pinned_spec, output / "cache")
        inputs = study_datasets(pinned_spec)
        gc.collect()  # the models that it tried: a trial's own collection leaves alone what was there before
        return_unused_memory()  # for the workers
        with exclusive(output, spec.name, storage):  # or two that begin at once would queue two defaults
            if fresh:
                notes += _set_aside(opened, tracker, spec.name, folder, alone=storage is None)
            study = open_study(spec, opened)
            if ended_trials(study):
                require_unchanged(study, facts.data.fingerprint, facts.models)
            known = {"models": study.user_attrs.get("models", {}) | facts.models, "call": list(call)}
            for name, value in {**asdict(facts), **known}.items():  # report and export are made from these
                study.set_user_attr(name, value)
            job = Job(output, _start_parent(study, spec, tracker), storage)
        try:
            supervisor = Supervisor(study, pinned_spec, job, running)
            notes += [*supervisor.repair(), *_pruning_notes(spec), *storage_notes(workers, storage)]
            if not remaining_trials(study, spec):
                notes.append(_nothing_to_search(study, spec))
            display.header(study, facts, notes)
            stopped: HpoError | KeyboardInterrupt | None = None
            told = list[str]()
            try:
                with ctrl_c:
                    with display.running() as on_event:
                        supervisor.run(on_event, ctrl_c)
                    told = run_finalists(study, pinned_spec, job, running, display, ctrl_c, read_again=read_test_again)
            except (HpoError, KeyboardInterrupt) as error:
                stopped = error
            display.status("writing the report, and registering the model")
            outcome = _finish(study, job, stopped, supervisor.timed_out, inputs, told)
        except BaseException as error:  # also a second Ctrl-C, while the report is written
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            tracker.end_study(job.parent_run_id, status)
            raise
        if isinstance(stopped, HpoError):
            raise stopped
        return outcome


def _nothing_to_search(study: optuna.Study, spec: StudySpec) -> str:
    more = "Raise n_trials (--trials) to go on."
    if spec.finalists and best_trial(study) and standing_finals(study, spec) is None:
        return f"All trials have ended; the finalists are still to be trained. {more}"
    return f"Nothing is left to run. {more}"


def _pruning_notes(spec: StudySpec) -> list[str]:
    """A pruner that comes too late to prune is a mistake that nothing else would show."""
    first, last = first_pruning(spec.pruner), spec.training.num_evaluations
    if isinstance(spec.pruner, NoPruner) or first < last:
        return []
    return [
        f"Nothing will be pruned: the {spec.pruner.name} pruner first looks at evaluation {first:g}, and at the last "
        f"one, {last}, there is nothing left to save. Raise training.num_evaluations, or change the pruner."
    ]


def storage_notes(workers: int, storage: str | None) -> list[str]:
    """Of a file that is too slow for so many: its writers wait for each other."""
    if storage is not None or workers <= MOST_ON_FILE:
        return []
    return [
        f"{workers} workers write to one SQLite file, which is made for up to {MOST_ON_FILE}: if they wait for it, "
        "give --storage postgresql://..., or fewer --workers."
    ]


def _start_parent(study: optuna.Study, spec: StudySpec, tracker: Tracker) -> str:
    tags = {"fallback_for": spec.fallback_for} if spec.fallback_for else {}
    known = study.user_attrs.get("mlflow_parent_run_id")
    run_id = tracker.start_study(spec.name, known, markdown(spec.about), tags, table=runs_table(spec))
    study.set_user_attr("mlflow_parent_run_id", run_id)
    study.set_user_attr("mlflow_address", tracker.address)  # for the report's links
    return run_id


def _finish(
    study: optuna.Study,
    job: Job,
    stopped: HpoError | KeyboardInterrupt | None,
    timed_out: bool,
    inputs: Sequence[Dataset],
    told: Sequence[str],
) -> Outcome:
    """Report and export of whatever has finished; `told` is what is worth saying of it already."""
    folder, tracker, parent_run_id = job.output / study.study_name, tracker_of(job.output), job.parent_run_id
    alone = partial(exclusive, job.output, study.study_name, job.storage)  # or the last two drivers would do it at once
    end_runs(study, tracker, parent_run_id)
    best, finals = best_trial(study), stored_finals(study.user_attrs)
    notes = list(told)
    if finals:
        with alone():
            notes += keep_model(study, finals, folder)
    report = _export_and_report(study, folder)
    best_yaml = folder / BEST_YAML if best else None
    scores = best.user_attrs["result"]["metrics"] if best else {}
    metrics = {name.replace("eval/", "validation/best_"): value for name, value in scores.items()}
    if finals:
        metrics |= final_metrics(finals)
    view = view_of(study)
    if finals and not stopped and model_path(folder).is_dir():
        with alone():
            notes.append(tracker.register(winner_of(view, model_path(folder), report.page), parent_run_id))
    files = [study_file(study, folder), report.page, report.markdown, report.table, folder / "figures"]
    status = {type(None): "FINISHED", KeyboardInterrupt: "KILLED"}.get(type(stopped), "FAILED")
    others = bool(running_trials(study))
    runs = trial_runs(study, tracker)
    ranked = leaderboard(view.table, "score", view.direction)["number"]
    tracker.end_study(
        parent_run_id,
        None if others else status,
        metrics,
        files=[*files, *([best_yaml] if best_yaml else [])],
        compare=[runs[number] for number in ranked if number in runs],
        note=study_note(view, report.page, notes),
        inputs=study_inputs(inputs, finals),
    )
    kept = [model_path(folder)] if finals else [weights_path(folder, best.number)] if best else []
    model = next((path for path in kept if path.is_dir()), None)
    return Outcome(study, report, finals, best_yaml, model, isinstance(stopped, KeyboardInterrupt), timed_out, notes)


def study_file(study: optuna.Study, folder: Path) -> Path:
    """The study as it was run, every default written out, as `study.yaml` in its folder."""
    path = folder / "study.yaml"
    write_atomically(path, yaml.safe_dump(study.user_attrs["spec"], sort_keys=False).encode())
    return path


def _set_aside(storage: BaseStorage, tracker: Tracker, name: str, folder: Path, *, alone: bool) -> list[str]:
    names = [each for each in (name, f"{name}{FINALISTS}") if each in study_names(storage)]
    if not names:
        return []
    studies = [load_study(storage, each) for each in names]
    for study in studies:
        running = running_trials(study)
        dead = {trial.number for trial in Watch(math.inf).dead(running, alone=alone)}
        if alive := [str(trial.number) for trial in running if trial.number not in dead]:
            raise StorageError(
                f"--fresh sets a study aside that nobody works on, but `{study.study_name}` has trials that run: "
                f"{', '.join(alive)}. End its other drivers, or use another name: --set name=..."
            )
    for study in reversed(studies):  # the run of the finalists is within that of the search
        parent = parent_run(study, tracker)
        end_dead(study, tracker, parent, running_trials(study))
        if parent:
            end_runs(study, tracker, parent)
            tracker.end_stale_study(parent)
    kept = set_aside(storage, names)
    tracker.rename_study(name, kept)
    if folder.exists():  # its files name the study and themselves, in commands to be copied
        _export_and_report(load_study(storage, kept), folder.rename(folder.with_name(kept)))
    return [f"The earlier study is kept as `{kept}`."]


def _export_and_report(study: optuna.Study, folder: Path) -> ReportFiles:
    """Everything in the study's folder that is made from storage."""
    if finals := stored_finals(study.user_attrs):
        finalists = finalists_study(study)
        trained = finalists.get_trials(deepcopy=False)[finals.exported]
        export_trial(finalists, trained, folder / BEST_YAML, claim(finals))
    elif best := best_trial(study):
        export_trial(study, best, folder / BEST_YAML)
    return write_report(study, folder)


@contextmanager
def only_driver(output: Path, name: str) -> Iterator[None]:
    """One driver a study: a second one would take the first one's running trial for dead. Raises `StorageError`."""
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
