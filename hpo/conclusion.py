"""What the finalists come to: the winner, what winner and default get wrong, and the one reading of the test split.

Nothing else looks at the test split's labels. All of it is kept with the search's study, as its `Finals`.
"""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from hpo.data.splits import Splits, load_splits
from hpo.mistakes import find_errors, mean_confusion
from hpo.results import Finalist, Finals, Reading
from hpo.score_estimates import score_differences, score_estimates
from hpo.search import derive_seed
from hpo.spec import StudySpec
from hpo.statistics import method
from hpo.storage import exclusive
from hpo.study import (
    FINALIST,
    FINALS,
    best_first,
    contest_of,
    ended_trials,
    failure_reason,
    is_default,
    is_retried,
    rank,
    stored_finals,
)
from hpo.training.predictions import PREDICTIONS, unpacked
from hpo.trial import Job


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
        before = stored_finals(search.user_attrs)
        finals = Finals(
            ended_trials=len(ended_trials(search)),
            asked_trials=spec.finalists.n_trials,
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


def finalists_of(search: optuna.Study, n_trials: int) -> list[FrozenTrial]:
    """The untuned default, and the best complete trials of a search beside it; none while none is complete."""
    trials = search.get_trials(deepcopy=False)
    complete, defaults = best_first(search.direction, trials), [each for each in trials if is_default(search, each)]
    tuned = [trial for trial in complete if trial not in defaults][:n_trials]
    # One that failed is tried again here all the same: without it there is nothing to compare with.
    default = next((trial for trial in defaults if trial in complete), defaults[-1] if defaults else None)
    return [*([default] if default else []), *tuned] if complete else []


def _runs(study: optuna.Study, candidate: FrozenTrial) -> dict[int, FrozenTrial]:
    """The complete trainings of a finalist by the index of their seed."""
    complete = [run for run in _trainings(study, candidate) if run.state == TrialState.COMPLETE]
    return {run.user_attrs[FINALIST]["index"]: run for run in complete}


def _trainings(study: optuna.Study, candidate: FrozenTrial) -> list[FrozenTrial]:
    """All of a finalist's, but for that on train and validation."""
    return [run for run in study.get_trials(deepcopy=False) if contest_of(run) == (candidate.number, False)]


def why_not(study: optuna.Study, candidate: FrozenTrial) -> str | None:
    """Why a finalist that was trained with several seeds cannot be chosen; None if it can."""
    runs = _trainings(study, candidate)
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


def _read_once(finals: Finals, study: optuna.Study, splits: Splits, *, read_again: bool) -> Finals:
    """With a reading of the test split by this winner, unless another one had it."""
    if finals.readings:
        last = finals.readings[-1]
        if (last.winner, last.seeds) == (finals.winner, finals.seeds):
            return finals
        if not read_again:
            refused = (
                f"The test split was read on {last.at[:10]} for trial {last.winner} and {len(last.seeds)} seeds. Who "
                "reads it again for another winner begins to choose by it: --read-test-again does, and it is recorded."
            )
            return finals.model_copy(update={"refused": refused})
    reading = read_test(finals, study, splits)
    return finals.model_copy(update={"readings": [*finals.readings, reading]})


def read_test(finals: Finals, study: optuna.Study, splits: Splits) -> Reading:
    """Holds the predictions of winner and default against the labels of the test split. Nothing else looks at them."""
    labels, classes, winner, default = splits.test.labels, splits.labels, finals.chosen, finals.default
    logits = _logits(study, winner, "test")
    others = None if default is None else _logits(study, default, "test")
    differences = {}
    if others is not None and default != winner:
        differences = score_differences(logits, others, labels, classes)
    return Reading(
        at=datetime.now().astimezone().isoformat(timespec="seconds"),
        winner=winner.trial,
        default=None if default is None else default.trial,
        seeds=finals.seeds,
        rows=len(labels),
        method=method(len(finals.seeds)),
        winner_scores=score_estimates(logits, labels, classes),
        default_scores={} if others is None else score_estimates(others, labels, classes),
        differences=differences,
        confusion=mean_confusion(labels, logits),
    )


def _logits(study: optuna.Study, finalist: Finalist, split: str) -> NDArray[np.float32]:
    """[seeds, rows, classes] of what a finalist predicts."""
    trials = study.get_trials(deepcopy=False)
    return np.stack([unpacked(trials[run].user_attrs[PREDICTIONS][split]) for run in finalist.runs])
