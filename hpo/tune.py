"""The driver of a study: checks everything before the first trial, runs what is missing, reports whatever ends it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import optuna
import yaml
from filelock import FileLock, Timeout

from hpo.errors import StorageError
from hpo.events import OnEvent
from hpo.export import export_trial
from hpo.output import prepare_output, write_atomically
from hpo.provenance import versions
from hpo.report import best_trial, write_report
from hpo.report.page import ReportFiles
from hpo.search import first_pruning
from hpo.search_spec import ChoiceParameter, NoPruner
from hpo.space import default_params, trial_config
from hpo.spec import StudySpec
from hpo.study import (
    end_stale_trials,
    ended_trials,
    next_position,
    open_storage,
    open_study,
    remaining_trials,
    requeue_interrupted,
    set_aside,
)
from hpo.tracking import Tracker, tracker_of
from hpo.training.setup import Setup, set_up
from hpo.trial import Job, run_trial


@dataclass(frozen=True)
class DataFacts:
    rows: dict[str, int]
    labels: list[str]
    fingerprint: str
    notes: list[str]
    """What was removed, and what was truncated."""


@dataclass(frozen=True)
class ModelFacts:
    name: str
    num_parameters: int
    fingerprint: str
    new_weights: list[str]
    """The modules that start from random weights: the head, and what else pretraining left out."""


@dataclass(frozen=True)
class MachineFacts:
    device: str
    precision: str
    versions: dict[str, str]


@dataclass(frozen=True)
class StudyFacts:
    """What a study runs on, known before its first trial."""

    data: DataFacts
    model: ModelFacts
    machine: MachineFacts


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
        HpoError: data, model, storage or a changed study cannot be used; nothing was run then.
    """
    prepare_output(output)
    folder = output / spec.name
    with _only_driver(output, spec.name):
        facts = study_facts(spec, output)
        storage, tracker = open_storage(output), tracker_of(output)
        notes = _set_aside(storage, spec.name, folder) if fresh else []
        study = open_study(spec, storage)
        _store_facts(study, facts)
        study.set_user_attr("call", list(call))
        parent_run_id = _start_parent(study, spec, tracker)
        tracker.end_stale_trials(parent_run_id)  # also those of trials that a changed study has left behind
        if stale := end_stale_trials(study):
            numbers = ", ".join(map(str, stale))
            notes.append(f"Tried again, for the program was killed while it ran: trial {numbers}.")
        requeue_interrupted(study)
        notes += _pruning_notes(spec)

        display.header(study, facts, notes)
        deadline = time.monotonic() + spec.timeout if spec.timeout else float("inf")
        interrupted = False
        try:
            with display.running() as on_event:
                while remaining_trials(study, spec) and time.monotonic() < deadline:
                    run_trial(spec, Job(output, next_position(study), parent_run_id), on_event)
        except KeyboardInterrupt:
            interrupted = True
        except BaseException:
            tracker.end_study(parent_run_id, "FAILED", {}, [])
            raise
        return _finish(study, folder, tracker, parent_run_id, interrupted, time.monotonic() >= deadline)


def _pruning_notes(spec: StudySpec) -> list[str]:
    """A pruner that comes too late to prune is a mistake that nothing else would show."""
    first, last = first_pruning(spec.pruner), spec.training.num_evaluations
    if isinstance(spec.pruner, NoPruner) or first < last:
        return []
    return [
        f"Nothing will be pruned: the {spec.pruner.name} pruner first looks at evaluation {first:g}, and at the last "
        f"one, {last}, there is nothing left to save. Raise training.num_evaluations, or change the pruner."
    ]


def study_facts(spec: StudySpec, output: Path) -> StudyFacts:
    """Loads what every trial will load, so that a mistake shows before the first one.

    Raises:
        DataError: the data, a model, or what is asked of them cannot be used.
    """
    params = default_params(spec)
    searched = spec.search_space.get("model.name")
    names = searched.choices if isinstance(searched, ChoiceParameter) else [spec.model.name]
    for name in names:
        drawn = {**params, "model.name": name} if searched else params
        setup = set_up(trial_config(spec, drawn, seed=0), output / "cache")
        if name == spec.model.name:
            facts = _facts(setup)
    return facts


def _facts(setup: Setup) -> StudyFacts:
    splits, pretrained = setup.splits, setup.pretrained
    return StudyFacts(
        DataFacts(
            rows={name: len(getattr(splits, name).texts) for name in ("train", "validation", "test")},
            labels=list(splits.labels),
            fingerprint=splits.fingerprint,
            notes=[*splits.notes, *_truncation(setup)],
        ),
        ModelFacts(
            setup.config.model.name,
            pretrained.num_parameters,
            pretrained.fingerprint,
            sorted({key.rpartition(".")[0] for key in pretrained.new_weights}),
        ),
        MachineFacts(setup.device.name, setup.device.precision, versions()),
    )


def _truncation(setup: Setup) -> Iterator[str]:
    counts = {"train": setup.train.n_truncated, "validation": setup.validation.n_truncated}
    cut = [f"{count:,} of {name}" for name, count in counts.items() if count]
    if cut:
        yield f"Truncated to {setup.config.training.max_length} tokens: {' and '.join(cut)}."


def _store_facts(study: optuna.Study, facts: StudyFacts) -> None:
    """Into the study's attributes, from which report and export are made; refuses data that changed underneath."""
    stored = study.user_attrs.get("data")
    if stored and ended_trials(study):
        for what, old, new in (
            ("data", stored["fingerprint"], facts.data.fingerprint),
            ("model", study.user_attrs["model"]["fingerprint"], facts.model.fingerprint),
        ):
            if old != new:
                raise StorageError(
                    f"the {what} of the study `{study.study_name}` changed since its first trials, which makes them "
                    f"incomparable: the fingerprint was {old[:20]}, is {new[:20]}. Restore the files, start over with "
                    f"--fresh (the old study is kept), or use another name: --set name={study.study_name}-2."
                )
    for name, value in asdict(facts).items():
        study.set_user_attr(name, value)


def _start_parent(study: optuna.Study, spec: StudySpec, tracker: Tracker) -> str:
    tags = {"fallback_for": spec.fallback_for} if spec.fallback_for else {}
    known = study.user_attrs.get("mlflow_parent_run_id")
    run_id = tracker.start_study(spec.name, known, spec.description, tags)
    study.set_user_attr("mlflow_parent_run_id", run_id)
    return run_id


def _finish(
    study: optuna.Study, folder: Path, tracker: Tracker, parent_run_id: str, interrupted: bool, timed_out: bool
) -> Outcome:
    """Report and export of whatever has finished."""
    best = best_trial(study)
    best_yaml = folder / "best.yaml" if best else None
    if best and best_yaml:
        export_trial(study, best, best_yaml)
    report = write_report(study, folder)
    scores = best.user_attrs["result"]["metrics"] if best else {}
    metrics = {name.replace("eval/", "study/best_"): value for name, value in scores.items()}
    files = [study_file(study, folder), report.markdown, report.table, folder / "figures"]
    tracker.end_study(
        parent_run_id, "KILLED" if interrupted else "FINISHED", metrics, [*files, *([best_yaml] if best_yaml else [])]
    )
    return Outcome(study, report, best_yaml, interrupted, timed_out)


def study_file(study: optuna.Study, folder: Path) -> Path:
    """The study as it was run, every default written out, as `study.yaml` in its folder."""
    path = folder / "study.yaml"
    write_atomically(path, yaml.safe_dump(study.user_attrs["spec"], sort_keys=False).encode())
    return path


def _set_aside(storage: optuna.storages.RDBStorage, name: str, folder: Path) -> list[str]:
    kept = set_aside(storage, name)
    if kept is None:
        return []
    if folder.exists():
        folder.rename(folder.with_name(kept))
    return [f"The earlier study is kept as `{kept}`."]


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
