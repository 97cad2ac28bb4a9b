"""The best trials of a search and its untuned default, trained again over fresh seeds.

They are a study of their own beside the search's, of queued trials only: so they run in any executor, are resumed,
tried again and tracked as all trials are. What they come to is in `conclusion.py`.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.conclusion import conclude, finalists_of
from hpo.events import Note, OnEvent
from hpo.executors import Executor
from hpo.interrupt import CtrlC
from hpo.output import FINALISTS
from hpo.results import Finals
from hpo.search import derive_seed
from hpo.search_spec import NoPruner, RandomSampler
from hpo.spec import FinalistsSpec, StudySpec
from hpo.storage import exclusive
from hpo.study import (
    FINALIST,
    FINALS,
    contest_of,
    ended_trials,
    is_default,
    remaining_trials,
    running_trials,
    stored_finals,
    stored_spec,
    total_trials,
)
from hpo.supervisor import Supervisor, end_runs
from hpo.tracking import tracker_of
from hpo.trial import Job, weights_path

# What the study of finalists has of its search's attributes: the facts that its trials share.
SHARED = ("data", "model", "models", "machine")
# A trial of the search, the index of its seed, and whether it is trained on validation too.
Wanted = tuple[FrozenTrial, int, bool]


class Shows(Protocol):
    """Who shows trainings as they run."""

    def status(self, text: str) -> None:
        """What is being done, until something else is shown."""

    def running(
        self, title: str = "search", total: int | None = None, done: int = 0
    ) -> AbstractContextManager[OnEvent]:
        """Around those of the search, then around those of its finalists; gives what takes their events.

        Args:
            title: which of the two, in a word.
            total: the trials of the finalists.
            done: those of them that had ended before.
        """


def run_finalists(
    search: optuna.Study,
    spec: StudySpec,
    job: Job,
    executor: Executor,
    shows: Shows,
    ctrl_c: CtrlC,
    *,
    read_again: bool,
) -> Finals | None:
    """Trains the finalists and says what they come to; None if there are none, or others are not done yet.

    What they came to stands as long as nothing that they follow from has changed, also where their time was over.

    Args:
        read_again: the test split, though it was read for another winner.

    Raises:
        HpoError: what would break every training alike.
        KeyboardInterrupt: it was stopped; the same again goes on with it.
    """
    asked = spec.finalists
    if asked is None or running_trials(search):  # the last of a search's drivers does it
        return None
    before = stored_finals(search.user_attrs)
    finals = before if before and not read_again and _stands(before, search, asked) else None
    if finals is None:
        candidates = finalists_of(search, asked.n_trials)
        if not candidates:
            return None
        with exclusive(job.output, spec.name, job.storage):  # or two drivers would queue them twice
            study = _open(search, spec)
            # Seed by seed, so that whenever the time is over they have as many seeds each.
            seeds = range(1, asked.n_seeds + 1)
            _queue(search, study, spec, [(trial, index, False) for index in seeds for trial in candidates])
        if not _train(study, job, executor, shows, ctrl_c):
            return None
        shows.status("choosing the winner, and reading the test split")
        finals = conclude(search, study, spec, job, read_again=read_again)
    if finals and asked.refit:
        finals = _refit(search, finals, spec, job, executor, shows, ctrl_c)
    return finals


def _stands(finals: Finals, search: optuna.Study, asked: FinalistsSpec) -> bool:
    return (finals.ended_trials, finals.asked_trials, finals.asked_seeds) == (
        len(ended_trials(search)),
        asked.n_trials,
        asked.n_seeds,
    )


def _refit(
    search: optuna.Study,
    finals: Finals,
    spec: StudySpec,
    job: Job,
    executor: Executor,
    shows: Shows,
    ctrl_c: CtrlC,
) -> Finals:
    """Trains the winner on train and validation, with the first of its seeds, and has that model exported."""
    with exclusive(job.output, spec.name, job.storage):
        study, winner = _open(search, spec), search.get_trials(deepcopy=False)[finals.winner]
        _queue(search, study, spec, [(winner, 1, True)])
    if not _train(study, job, executor, shows, ctrl_c):
        return finals
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if trained := [run for run in complete if contest_of(run) == (finals.winner, True)]:
        finals = finals.model_copy(update={"exported": trained[-1].number})
        search.set_user_attr(FINALS, finals.model_dump(mode="json"))
    return finals


def _train(study: optuna.Study, job: Job, executor: Executor, shows: Shows, ctrl_c: CtrlC) -> bool:
    """Trains what is queued of the finalists. Returns whether nobody else still does."""
    own = stored_spec(study)
    left, total = remaining_trials(study, own), total_trials(own)
    if not left:
        return True
    tracker, known = tracker_of(job.output), study.user_attrs.get("mlflow_parent_run_id")
    told = "The best trials and the untuned default, trained again over fresh seeds."
    tags = {"fallback_for": own.fallback_for} if own.fallback_for else {}
    run_id = tracker.start_study("finalists", known, told, tags, below=job.parent_run_id)
    study.set_user_attr("mlflow_parent_run_id", run_id)
    status = "FAILED"
    try:
        supervisor = Supervisor(study, own, replace(job, parent_run_id=run_id), executor)
        notes = supervisor.repair()
        with shows.running("finalists", total, total - left) as on_event:
            for note in notes:
                on_event(Note(note))
            supervisor.run(on_event, ctrl_c)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        end_runs(study, tracker, run_id)
        others = bool(running_trials(study))
        tracker.end_study(run_id, None if others else status)
    return not others


def _open(search: optuna.Study, spec: StudySpec) -> optuna.Study:
    """The study of finalists, whose spec follows with what is queued."""
    study = optuna.create_study(
        study_name=f"{spec.name}{FINALISTS}",
        storage=search._storage,
        direction=search.direction,
        load_if_exists=True,
    )
    for shared in SHARED:
        study.set_user_attr(shared, search.user_attrs[shared])
    return study


def _queue(search: optuna.Study, study: optuna.Study, spec: StudySpec, wanted: Sequence[Wanted]) -> None:
    """Queues what was not before, each to be trained as its search's trial was, with another seed."""
    there = {_key(trial.user_attrs[FINALIST]) for trial in study.get_trials(deepcopy=False)}
    for trial, index, refit in wanted:
        finalist = {
            "trial": trial.number,
            "index": index,
            "refit": refit,
            "seed": derive_seed(spec.seed, FINALIST, index),
            "is_default": is_default(search, trial),
        }
        if _key(finalist) not in there:
            there.add(_key(finalist))
            study.enqueue_trial(trial.params, user_attrs={FINALIST: finalist})
    assert spec.finalists
    own = spec.model_copy(
        update={
            "name": study.study_name,
            "n_trials": len(there),
            "timeout": spec.finalists.timeout,
            "sampler": RandomSampler(name="random"),  # nothing is drawn
            "pruner": NoPruner(name="none"),
            "finalists": None,
            "fallback": None,
        }
    )
    study.set_user_attr("spec", own.model_dump(mode="json"))


def _key(finalist: Mapping[str, Any]) -> tuple[Any, ...]:
    return finalist["trial"], finalist["index"], finalist["refit"]


def keep_model(finals: Finals, folder: Path) -> None:
    """Moves the winner's model, where this machine has it, to its place in the study's folder; drops the others'."""
    finalists = folder / FINALISTS[1:]
    trained = weights_path(finalists, finals.exported)
    if trained.is_dir():
        shutil.rmtree(model_path(folder), ignore_errors=True)
        trained.rename(model_path(folder))
        shutil.rmtree(trained.parent)


def model_path(folder: Path) -> Path:
    """The winner's model in a study's folder: where `hpo.train` would save it."""
    return folder / "model"
