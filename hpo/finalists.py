"""The best trials and the untuned default trained again over fresh seeds, and the one reading of the test split.

They are a study of their own beside the search's, of queued trials only: so they run in any executor, are resumed,
tried again and tracked as all trials are. The winner is the best on validation, as a mean over its seeds.
"""

import math
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from hpo.data.splits import Splits, load_splits
from hpo.events import Note, OnEvent
from hpo.executors import Executor
from hpo.interrupt import CtrlC
from hpo.mistakes import find_errors, mean_confusion
from hpo.output import FINALISTS
from hpo.results import Finalist, Finals, Reading
from hpo.score_estimates import score_differences, score_estimates
from hpo.search import derive_seed
from hpo.search_spec import NoPruner, RandomSampler
from hpo.spec import FinalistsSpec, StudySpec
from hpo.statistics import METHOD
from hpo.storage import exclusive
from hpo.study import (
    FINALIST,
    ended_trials,
    failure_reason,
    finalist_of,
    is_default,
    is_retried,
    rank,
    remaining_trials,
    running_trials,
    stored_spec,
    total_trials,
)
from hpo.supervisor import Supervisor, end_runs
from hpo.tracking import tracker_of
from hpo.training.predictions import PREDICTIONS, unpacked
from hpo.trial import Job, weights_path

# The study's attribute that holds its `Finals`.
FINALS = "finals"
# What the study of finalists has of its search's attributes: the facts that its trials share.
SHARED = ("data", "model", "models", "machine")


class Shows(Protocol):
    """Who shows trainings as they run."""

    def running(self, title: str, total: int, done: int) -> AbstractContextManager[OnEvent]:
        """Around them; gives what takes their events."""


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

    Args:
        read_again: the test split, though it was read for another winner.
    """
    if spec.finalists is None or running_trials(search):  # the last of a search's drivers does it
        return None
    study = train_finalists(search, spec, job, executor, shows, ctrl_c)
    if study is None or running_trials(study):
        return None
    return conclude(search, study, spec, job, read_again=read_again)


def train_finalists(
    search: optuna.Study, spec: StudySpec, job: Job, executor: Executor, shows: Shows, ctrl_c: CtrlC
) -> optuna.Study | None:
    """Trains what is missing of the finalists, and returns their study; None while the search has no complete trial.

    Raises:
        HpoError: what would break every training alike.
        KeyboardInterrupt: it was stopped; the same again goes on with it.
    """
    assert spec.finalists
    candidates = finalists_of(search, spec.finalists.n_trials)
    if not candidates:
        return None
    with exclusive(job.output, spec.name, job.storage):  # or two drivers would queue them twice
        study = _open(search, spec, spec.finalists, candidates)
    own = stored_spec(study)
    left, total = remaining_trials(study, own), total_trials(own)
    if not left:
        return study
    tracker, known = tracker_of(job.output), study.user_attrs.get("mlflow_parent_run_id")
    told = f"The best trials of `{spec.name}` and its untuned default, trained again over fresh seeds."
    run_id = tracker.start_study("finalists", known, told, {}, below=job.parent_run_id)
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
        tracker.end_study(run_id, None if running_trials(study) else status)
    return study


def finalists_of(search: optuna.Study, n_trials: int) -> list[FrozenTrial]:
    """The untuned default, and the best complete trials of a search beside it; none while none is complete."""
    trials = search.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and math.isfinite(trial.value or 0.0)]
    defaults = [trial for trial in trials if is_default(search, trial)]
    complete.sort(key=lambda trial: rank(search.direction, trial.value or 0.0, trial.number))
    tuned = [trial for trial in complete if trial not in defaults][:n_trials]
    # One that failed is tried again here all the same: without it there is nothing to compare with.
    default = next((trial for trial in defaults if trial in complete), defaults[-1] if defaults else None)
    return [*([default] if default else []), *tuned] if complete else []


def _open(
    search: optuna.Study, spec: StudySpec, asked: FinalistsSpec, candidates: Sequence[FrozenTrial]
) -> optuna.Study:
    """The study of finalists with everything queued that was not before: seed by seed, so that time may end it."""
    name = f"{spec.name}{FINALISTS}"
    study = optuna.create_study(
        study_name=name, storage=search._storage, direction=search.direction, load_if_exists=True
    )
    there = {(trial.user_attrs[FINALIST]["trial"], trial.user_attrs[FINALIST]["index"]) for trial in study.trials}
    for index in range(1, asked.n_seeds + 1):
        for trial in candidates:
            if (trial.number, index) not in there:
                finalist = {
                    "trial": trial.number,
                    "index": index,
                    "seed": derive_seed(spec.seed, FINALIST, index),
                    "is_default": is_default(search, trial),
                }
                there.add((trial.number, index))
                study.enqueue_trial(trial.params, user_attrs={FINALIST: finalist})
    own = spec.model_copy(
        update={
            "name": name,
            "n_trials": len(there),
            "timeout": asked.timeout,
            "sampler": RandomSampler(name="random"),  # nothing is drawn
            "pruner": NoPruner(name="none"),
            "finalists": None,
            "fallback": None,
        }
    )
    study.set_user_attr("spec", own.model_dump(mode="json"))
    for shared in SHARED:
        study.set_user_attr(shared, search.user_attrs[shared])
    return study


def conclude(
    search: optuna.Study, study: optuna.Study, spec: StudySpec, job: Job, *, read_again: bool
) -> Finals | None:
    """Chooses the winner, has the test split read if it was not before, and keeps the result with the search.

    Args:
        read_again: the test split, where it was read for another winner, or for other seeds.

    Returns:
        None if no finalist was trained to its end.
    """
    assert spec.finalists
    candidates = finalists_of(search, spec.finalists.n_trials)
    runs = {trial.number: _runs(study, trial) for trial in candidates}
    reasons = {trial.number: why_not(study, trial) for trial in candidates}
    kept = [trial for trial in candidates if reasons[trial.number] is None]
    notes = [f"Trial {number} is no finalist: {reason}." for number, reason in reasons.items() if reason]
    if not kept:
        return None
    indices = sorted(set.intersection(*(set(runs[trial.number]) for trial in kept)))
    if len(indices) < spec.finalists.n_seeds:
        notes.append(f"{len(indices)} of the {spec.finalists.n_seeds} seeds that were asked for: the time was over.")
    finalists = [_finalist(search, trial, [runs[trial.number][index] for index in indices]) for trial in kept]
    best_first = sorted(finalists, key=lambda each: rank(search.direction, each.mean, each.trial))
    winner = best_first[0]
    with exclusive(job.output, spec.name, job.storage):  # or two drivers would read the test split
        before = stored_finals(search)
        finals = Finals(
            ended_trials=len(ended_trials(search)),
            asked_seeds=spec.finalists.n_seeds,
            seeds=[derive_seed(spec.seed, FINALIST, index) for index in indices],
            finalists=best_first,
            winner=winner.trial,
            exported=_best_run(search, winner),
            readings=before.readings if before else [],
            notes=notes,
        )
        splits = load_splits(spec.data, spec.seed)
        if default := finals.default:
            logits = [_logits(study, each, "validation") for each in (winner, default)]
            errors = find_errors(splits.validation.texts, splits.validation.labels, splits.labels, *logits)
            finals = finals.model_copy(update={"errors": errors})
        finals = _read_once(finals, study, splits, read_again=read_again)
        search.set_user_attr(FINALS, finals.model_dump(mode="json"))
    return finals


def stored_finals(search: optuna.Study) -> Finals | None:
    """What the finalists of a study came to, as it is kept with it."""
    kept = search.user_attrs.get(FINALS)
    return None if kept is None else Finals.model_validate(kept)


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


def _runs(study: optuna.Study, candidate: FrozenTrial) -> dict[int, FrozenTrial]:
    """The complete trainings of a finalist by the index of their seed."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return {run.user_attrs[FINALIST]["index"]: run for run in complete if finalist_of(run) == candidate.number}


def why_not(study: optuna.Study, candidate: FrozenTrial) -> str | None:
    """Why a finalist that was trained with several seeds cannot be chosen; None if it can."""
    runs = [run for run in study.get_trials(deepcopy=False) if finalist_of(run) == candidate.number]
    for run in runs:
        if run.state in (TrialState.PRUNED, TrialState.FAIL) and not is_retried(run):
            return f"with seed {run.user_attrs[FINALIST]['index']} it ended as {failure_reason(run)}"
    return None if any(run.state == TrialState.COMPLETE for run in runs) else "there was no time left for it"


def _finalist(search: optuna.Study, trial: FrozenTrial, runs: Sequence[FrozenTrial]) -> Finalist:
    scores = [run.value or 0.0 for run in runs]
    return Finalist(
        trial=trial.number,
        is_default=is_default(search, trial),
        searched=trial.value,
        scores=scores,
        mean=float(np.mean(scores)),
        runs=[run.number for run in runs],
    )


def _best_run(search: optuna.Study, winner: Finalist) -> int:
    """The winner's training whose model is kept: the best on validation, of equal ones the first."""
    pairs = zip(winner.scores, winner.runs, strict=True)
    return min(pairs, key=lambda pair: rank(search.direction, *pair))[1]


def _logits(study: optuna.Study, finalist: Finalist, split: str) -> NDArray[np.float32]:
    """[seeds, rows, classes] of what a finalist predicts."""
    trials = study.get_trials(deepcopy=False)
    return np.stack([unpacked(trials[run].user_attrs[PREDICTIONS][split]) for run in finalist.runs])


def _read_once(finals: Finals, study: optuna.Study, splits: Splits, *, read_again: bool) -> Finals:
    """With a reading of the test split by this winner, unless another one had it."""
    if (default := finals.default) is None:
        return finals.model_copy(update={"refused": "The untuned default is missing, so there is nothing to compare."})
    if finals.readings:
        last = finals.readings[-1]
        if (last.winner, last.default, last.seeds) == (finals.winner, default.trial, finals.seeds):
            return finals
        if not read_again:
            refused = (
                f"The test split was read on {last.at[:10]} for trial {last.winner} and {len(last.seeds)} seeds. Who "
                "reads it again for another winner begins to choose by it: --read-test-again does, and it is recorded."
            )
            return finals.model_copy(update={"refused": refused})
    reading = read_test(finals, default, study, splits)
    return finals.model_copy(update={"readings": [*finals.readings, reading]})


def read_test(finals: Finals, default: Finalist, study: optuna.Study, splits: Splits) -> Reading:
    """Holds the predictions of winner and default against the labels of the test split. Nothing else looks at them."""
    labels, classes, winner = splits.test.labels, splits.labels, finals.chosen
    logits, others = (_logits(study, each, "test") for each in (winner, default))
    return Reading(
        at=datetime.now().astimezone().isoformat(timespec="seconds"),
        winner=winner.trial,
        default=default.trial,
        seeds=finals.seeds,
        rows=len(labels),
        method=METHOD,
        winner_scores=score_estimates(logits, labels, classes),
        default_scores=score_estimates(others, labels, classes),
        differences={} if winner == default else score_differences(logits, others, labels, classes),
        confusion=mean_confusion(labels, logits),
    )
