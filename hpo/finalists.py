"""The best trials of a search and its untuned default, trained again over fresh seeds; then the winner over others.

They are a study of their own beside the search's, of queued trials only: so they run in any executor, are resumed,
tried again and tracked as all trials are. What they come to is in `conclusion.py`.
"""

import math
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.attempts import (
    FINALIST,
    contest_of,
    failure_reason,
    is_default,
    is_retried,
    is_superseded,
    known_params,
    requeue,
    supersede,
)
from hpo.conclusion import (
    OUT_OF_TIME,
    best_run,
    choice_seeds,
    choose,
    conclude,
    finalists_of,
    reading_seeds,
    undecided,
)
from hpo.events import Note, OnEvent
from hpo.executors import Executor
from hpo.export import BEST_YAML, exported_config
from hpo.interrupt import CtrlC
from hpo.model_folder import is_model_of
from hpo.output import FINALISTS
from hpo.plain_text import shell_word
from hpo.results import Finals
from hpo.search import derive_seed
from hpo.search_spec import NoPruner, RandomSampler
from hpo.spec import FinalistsSpec, StudySpec
from hpo.storage import exclusive
from hpo.study import (
    ended_trials,
    finalists_study,
    name_metric,
    remaining_trials,
    running_trials,
    standing_finals,
    store_finals,
    stored_spec,
)
from hpo.supervisor import Supervisor, end_runs
from hpo.tracking import tracker_of
from hpo.trial import Job, weights_path

# What the study of finalists has of its search's attributes: the facts that its trials share.
SHARED = ("data", "model", "models", "machine")
# How the note begins that the winner was not trained on train and validation.
NO_REFIT = "The winner was not trained on train and validation together"
# A trial of the search, the index of its seed, and whether it is trained on validation too.
Wanted = tuple[FrozenTrial, int, bool]


class Shows(Protocol):
    """Who shows trainings as they run."""

    def status(self, text: str) -> None:
        """What is being done, until something else is shown."""

    def running(
        self, title: str = "search", total: int | None = None, done: int = 0, timeout: float | None = None
    ) -> AbstractContextManager[OnEvent]:
        """Around those of the search, then around those of its finalists; gives what takes their events.

        Args:
            title: which part of it, in a word or two.
            total: the trials of the finalists.
            done: those of them that had ended before.
            timeout: seconds after which no further one of them starts.
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
) -> list[str]:
    """Trains the finalists, if there are any, and keeps what they come to with the search; the last driver does.

    What they came to stands as long as nothing that they follow from has changed, also where their time was over.

    Args:
        read_again: the test split, though it was read for another winner.

    Returns:
        Why nothing came of them, in sentences.

    Raises:
        HpoError: what would break every training alike.
        KeyboardInterrupt: it was stopped; the same again goes on with it.
    """
    asked = spec.finalists
    if asked is None or running_trials(search):  # the last of a search's drivers does it
        return []
    train = _Trainings(search, spec, job, executor, shows, ctrl_c)
    finals = None if read_again else standing_finals(search, spec)
    if finals is None:
        found = _decide(train, asked, read_again=read_again)
        if not isinstance(found, Finals):
            return found
        finals = found
    if asked.refit:
        _refit(train, finals)
    elif finals.exported != (exported := best_run(search.direction, finals.chosen)):
        store_finals(search, finals.model_copy(update={"exported": exported}))
    return []


def _decide(train: "_Trainings", asked: FinalistsSpec, *, read_again: bool) -> Finals | list[str]:
    """Trains the finalists, then winner and default for the test split, and has it read; or says why not."""
    began, search, timeout = time.monotonic(), train.search, asked.timeout or math.inf
    candidates = finalists_of(search, asked.n_trials)
    if not candidates:
        return []
    # Seed by seed, so that whenever the time is over they have as many seeds each.
    wanted = [(trial, index, False) for index in choice_seeds(asked) for trial in candidates]
    share = len(wanted) / (len(wanted) + 2 * asked.n_test_seeds)
    if not train("finalists", wanted, share * timeout):
        return []
    choice, known = choose(search, train.study, asked), list[int]()
    while choice and choice.contenders != known:  # they change when one of them cannot be trained
        known = choice.contenders
        contenders = [search.get_trials(deepcopy=False)[number] for number in known]
        wanted = [(trial, index, False) for index in reading_seeds(asked) for trial in contenders]
        if not train("winner", wanted, timeout - (time.monotonic() - began)):
            return []
        choice = choose(search, train.study, asked)
    train.shows.status("reading the test split")
    finals = choice and conclude(search, train.study, train.spec, train.job, choice, read_again=read_again)
    return finals or undecided(search, train.study, asked)


def _refit(train: "_Trainings", finals: Finals) -> None:
    """Trains the winner on train and validation, with the first of its seeds, and has that model exported."""
    search, winner = train.search, train.search.get_trials(deepcopy=False)[finals.winner]
    assert train.spec.finalists
    if not train("refit", [(winner, 1, True)], train.spec.finalists.timeout or math.inf):
        return
    exported, notes = best_run(search.direction, finals.chosen), [n for n in finals.notes if not n.startswith(NO_REFIT)]
    runs = [run for run in train.study.get_trials(deepcopy=False) if contest_of(run) == (finals.winner, True)]
    if complete := [run for run in runs if run.state == TrialState.COMPLETE]:
        exported = complete[-1].number
    else:
        ended = [run for run in runs if run.state.is_finished() and not is_superseded(run)]
        why = f"it ended as {failure_reason(ended[-1])}" if ended else OUT_OF_TIME
        notes.append(f"{NO_REFIT}: {why}. Exported is the best of its fresh seeds.")
    store_finals(search, finals.model_copy(update={"exported": exported, "notes": notes}))


@dataclass(frozen=True)
class _Trainings:
    """What trains finalists: a study of their own beside the search's, and who runs and shows it."""

    search: optuna.Study
    spec: StudySpec
    job: Job
    executor: Executor
    shows: Shows
    ctrl_c: CtrlC

    def __call__(self, title: str, wanted: Sequence[Wanted], timeout: float) -> bool:
        """Trains what is missing of it.

        Args:
            title: of what it is, in the view.
            timeout: seconds after which no further training starts.

        Returns:
            Whether nobody else is still at it.
        """
        with exclusive(self.job.output, self.spec.name, self.job.storage):  # or two drivers would queue them twice
            study = _open(self.search, self.spec)
            ended = _ended(study)
            if all(_key(*each) in ended for each in wanted):
                return True
            _queue(self.search, study, self.spec, wanted, timeout)
        own = stored_spec(study)
        tracker, known = tracker_of(self.job.output), study.user_attrs.get("mlflow_parent_run_id")
        told = "The best trials and the untuned default, trained again over fresh seeds."
        tags = {"fallback_for": own.fallback_for} if own.fallback_for else {}
        run_id = tracker.start_study("finalists", known, told, tags, below=self.job.parent_run_id)
        study.set_user_attr("mlflow_parent_run_id", run_id)
        status = "FAILED"
        try:
            supervisor = Supervisor(study, own, replace(self.job, parent_run_id=run_id), self.executor)
            notes = supervisor.repair()
            done = len(wanted) - remaining_trials(study, own)
            with self.shows.running(title, len(wanted), done, own.timeout) as on_event:
                for note in notes:
                    on_event(Note(note))
                supervisor.run(on_event, self.ctrl_c)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            end_runs(study, tracker, run_id)
            others = bool(running_trials(study))
            tracker.end_study(run_id, None if others else status)
        return not others

    @property
    def study(self) -> optuna.Study:
        """Theirs, once there is one."""
        return finalists_study(self.search)


def _open(search: optuna.Study, spec: StudySpec) -> optuna.Study:
    """The study of finalists, whose spec follows with what is queued."""
    study = optuna.create_study(
        study_name=f"{spec.name}{FINALISTS}",
        storage=search._storage,
        direction=search.direction,
        load_if_exists=True,
    )
    name_metric(study, spec)
    for shared in SHARED:
        study.set_user_attr(shared, search.user_attrs[shared])
    return study


def _queue(
    search: optuna.Study, study: optuna.Study, spec: StudySpec, wanted: Sequence[Wanted], timeout: float
) -> None:
    """Queues what was not before, each to be trained as its search's trial was, with another seed, and nothing else.

    What an earlier call had no time for would come before what is wanted now.
    """
    requeue(study)
    keys = {_key(*each) for each in wanted}
    for queued in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if _key_of(queued) not in keys:
            supersede(study, queued)
    trials = [trial for trial in study.get_trials(deepcopy=False) if not is_retried(trial)]
    there = {_key_of(trial) for trial in trials if not is_superseded(trial)}
    for trial, index, refit in wanted:
        if _key(trial, index, refit) not in there:
            finalist = {
                "trial": trial.number,
                "index": index,
                "refit": refit,
                "seed": derive_seed(spec.seed, FINALIST, index),
                "is_default": is_default(search, trial),
            }
            study.enqueue_trial(known_params(trial), user_attrs={FINALIST: finalist})
    own = spec.model_copy(
        update={
            "name": study.study_name,
            "n_trials": len(there | keys) + sum(map(is_superseded, trials)),
            "timeout": max(timeout, 1e-3) if math.isfinite(timeout) else None,
            "sampler": RandomSampler(name="random"),  # nothing is drawn
            "pruner": NoPruner(name="none"),
            "finalists": None,
            "fallback": None,
        }
    )
    study.set_user_attr("spec", own.model_dump(mode="json"))


def _key(trial: FrozenTrial, index: int, refit: bool) -> tuple[int, int, bool]:
    return trial.number, index, refit


def _key_of(training: FrozenTrial) -> tuple[int, int, bool]:
    finalist = training.user_attrs[FINALIST]
    return finalist["trial"], finalist["index"], finalist["refit"]


def _ended(study: optuna.Study) -> set[tuple[int, int, bool]]:
    """What has come to an end of its own, and is not to be trained again."""
    return {_key_of(training) for training in ended_trials(study) if not is_superseded(training)}


def keep_model(search: optuna.Study, finals: Finals, folder: Path) -> list[str]:
    """Moves the winner's model, where this machine has it, to its place in the study's folder; drops the others'.

    Returns:
        What became of the model of an earlier winner, if that of this one is not here, in a sentence.
    """
    model, trained = model_path(folder), weights_path(folder / FINALISTS[1:], finals.exported)
    if trained.is_dir():
        shutil.rmtree(model, ignore_errors=True)
        trained.rename(model)
        shutil.rmtree(trained.parent)
        return []
    config = exported_config(finalists_study(search).get_trials(deepcopy=False)[finals.exported])
    if model.is_dir() and not is_model_of(model, config):
        kept = model.with_name(f"{model.name}-until-{datetime.now():%Y%m%d-%H%M%S}")
        model.rename(kept)
        again = f"python -m hpo.train --config {shell_word(str(folder / BEST_YAML))}"
        return [f"The model of an earlier winner is kept as `{kept.name}`; that of this one is not here: `{again}`."]
    return []


def model_path(folder: Path) -> Path:
    """The winner's model in a study's folder: where `hpo.train` would save it."""
    return folder / "model"
