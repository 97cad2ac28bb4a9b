"""What the finalists come to: the winner, what winner and default get wrong, and the one reading of the test split.

Nothing else looks at the test split's labels. All of it is kept with the search's study, as its `Finals`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.attempts import FINALIST, contest_of, failure_reason, is_default, is_retried, is_superseded
from hpo.data.splits import Splits, load_splits
from hpo.mistakes import find_errors, mean_confusion
from hpo.results import Errors, Finalist, Finals, Reading
from hpo.score_estimates import score_differences, score_estimates
from hpo.search import derive_seed
from hpo.spec import FinalistsSpec, StudySpec
from hpo.statistics import method
from hpo.storage import exclusive
from hpo.study import best_first, ended_trials, rank, store_finals, stored_finals
from hpo.tasks import TASKS
from hpo.tasks.base import Task
from hpo.training.predictions import PREDICTIONS, unpacked
from hpo.trial import Job

OUT_OF_TIME = "there was no time left for it"


@dataclass(frozen=True)
class Choice:
    """How the finalists compare on validation."""

    finalists: Sequence[Finalist]
    """The best first."""
    seeds: Sequence[int]
    """The indices of those that all of them have."""
    notes: Sequence[str]

    @property
    def winner(self) -> int:
        """Its number in the search."""
        return self.finalists[0].trial

    @property
    def contenders(self) -> list[int]:
        """Who reads the test split, by number: the winner, and the default where it is another one."""
        return list(dict.fromkeys([self.winner, *(each.trial for each in self.finalists if each.is_default)]))


def choose(search: optuna.Study, study: optuna.Study, asked: FinalistsSpec) -> Choice | None:
    """Ranks the finalists; None if there is nothing to choose from: `undecided` says why."""
    kept, reasons = _trained(search, study, asked)
    if not kept or (OUT_OF_TIME in reasons.values() and all(is_default(search, trial) for trial in kept)):
        return None
    runs = {trial.number: _runs(study, trial, choice_seeds(asked)) for trial in kept}
    indices = sorted(set.intersection(*map(set, runs.values())))
    finalists = [_finalist(search, trial, [runs[trial.number][index] for index in indices]) for trial in kept]
    ranked = sorted(finalists, key=lambda each: rank(search.direction, each.mean, each.trial))
    few = _fewer("The winner was chosen", len(indices), asked.n_seeds)
    return Choice(finalists=ranked, seeds=indices, notes=[*_told(reasons), *few])


def choice_seeds(asked: FinalistsSpec) -> range:
    """The indices of the seeds by which the winner is chosen."""
    return range(1, asked.n_seeds + 1)


def reading_seeds(asked: FinalistsSpec) -> range:
    """The indices of the seeds with which the test split is read."""
    return range(asked.n_seeds + 1, asked.n_seeds + asked.n_test_seeds + 1)


def conclude(
    search: optuna.Study, study: optuna.Study, spec: StudySpec, job: Job, choice: Choice, *, read_again: bool
) -> Finals | None:
    """Has the test split read if it was not before, and keeps the result with the search.

    It is read with other seeds than those that chose the winner: as a rule some of these were lucky ones, and the same
    models would be as lucky on the test split.

    Args:
        read_again: the test split, where it was read for another winner, or for other seeds.

    Returns:
        None if no seed is there to read it with; `undecided` says why.
    """
    asked = spec.finalists
    assert asked
    trials = search.get_trials(deepcopy=False)
    runs = {number: _runs(study, trials[number], reading_seeds(asked)) for number in choice.contenders}
    indices = sorted(set.intersection(*map(set, runs.values())))
    if not indices:
        return None
    finalists = [
        each if each.trial not in runs else _tested(each, [runs[each.trial][index] for index in indices])
        for each in choice.finalists
    ]
    with exclusive(job.output, spec.name, job.storage):  # or two drivers would read the test split
        before = stored_finals(search.user_attrs)
        finals = Finals(
            ended_trials=len(ended_trials(search)),
            asked_trials=asked.n_trials,
            asked_seeds=asked.n_seeds,
            asked_test_seeds=asked.n_test_seeds,
            asked_timeout=asked.timeout,
            search_best=best_first(search.direction, trials)[0].value,
            seeds=[derive_seed(spec.seed, FINALIST, index) for index in choice.seeds],
            test_seeds=[derive_seed(spec.seed, FINALIST, index) for index in indices],
            finalists=finalists,
            winner=choice.winner,
            exported=best_run(search.direction, finalists[0]),
            readings=before.readings if before else [],
            notes=[*choice.notes, *_fewer("The test split was read", len(indices), asked.n_test_seeds)],
        )
        splits = load_splits(spec.task, spec.data, spec.seed)
        finals = finals.model_copy(update={"errors": _errors(finals, study, splits)})
        finals = _read_once(finals, study, splits, read_again=read_again)
        store_finals(search, finals)
    return finals


def undecided(search: optuna.Study, study: optuna.Study, asked: FinalistsSpec) -> list[str]:
    """Why there is no winner among the finalists, or no reading of the test split by it, in sentences."""
    _, reasons = _trained(search, study, asked)
    missing = "there was one to choose beside the untuned default"
    if choose(search, study, asked):
        missing = "winner and default were trained with one seed to read the test split with"
    elif OUT_OF_TIME not in reasons.values():
        return ["No finalist could be trained again, so there is no winner.", *_told(reasons)]
    return [
        f"The time of the finalists was over (finalists.timeout) before {missing}. The same command goes on; a higher "
        "finalists.timeout gives it more at once."
    ]


def _fewer(what: str, seeds: int, asked: int) -> list[str]:
    if seeds == asked:
        return []
    return [f"{what} with {seeds} of the {asked} seeds that were asked for: the time was over (finalists.timeout)."]


def _told(reasons: Mapping[int, str]) -> list[str]:
    return [f"Trial {number} is no finalist: {reason}." for number, reason in reasons.items()]


def _trained(
    search: optuna.Study, study: optuna.Study, asked: FinalistsSpec
) -> tuple[list[FrozenTrial], dict[int, str]]:
    """The trials to choose from, which have seeds in common, and why the others are not among them, by number."""
    candidates = finalists_of(search, asked.n_trials)
    reasons = {trial.number: why_not(study, trial) for trial in candidates}
    kept = [trial for trial in candidates if reasons[trial.number] is None]
    runs = {trial.number: set(_runs(study, trial, choice_seeds(asked))) for trial in kept}
    if kept and not set.intersection(*runs.values()):
        # One that was tried again comes late, and may have other seeds than the rest when the time is over. The default
        # is first: without it there is nothing to compare with.
        counts = Counter(index for indices in runs.values() for index in sorted(indices))
        shared = max(counts, key=lambda index: (index in runs[kept[0].number], counts[index], -index))
        reasons |= {number: OUT_OF_TIME for number, indices in runs.items() if shared not in indices}
        kept = [trial for trial in kept if shared in runs[trial.number]]
    return kept, {number: reason for number, reason in reasons.items() if reason}


def finalists_of(search: optuna.Study, n_trials: int) -> list[FrozenTrial]:
    """The untuned default, and the best complete trials of a search beside it; none while none is complete."""
    trials = search.get_trials(deepcopy=False)
    complete, defaults = best_first(search.direction, trials), [each for each in trials if is_default(search, each)]
    tuned = [trial for trial in complete if trial not in defaults][:n_trials]
    # One that failed is tried again here all the same: without it there is nothing to compare with.
    default = next((trial for trial in defaults if trial in complete), defaults[-1] if defaults else None)
    return [*([default] if default else []), *tuned] if complete else []


def _runs(study: optuna.Study, candidate: FrozenTrial, seeds: range) -> dict[int, FrozenTrial]:
    """The complete trainings of a finalist with these seeds, by their index."""
    complete = [run for run in _trainings(study, candidate) if run.state == TrialState.COMPLETE]
    runs = {run.user_attrs[FINALIST]["index"]: run for run in complete}
    return {index: run for index, run in runs.items() if index in seeds}


def _trainings(study: optuna.Study, candidate: FrozenTrial) -> list[FrozenTrial]:
    """All of a finalist's that were begun or will be, but for that on train and validation."""
    runs = [run for run in study.get_trials(deepcopy=False) if contest_of(run) == (candidate.number, False)]
    return [run for run in runs if not is_superseded(run)]


def why_not(study: optuna.Study, candidate: FrozenTrial) -> str | None:
    """Why a finalist that was trained with several seeds cannot be chosen; None if it can."""
    runs = _trainings(study, candidate)
    for run in runs:
        if run.state in (TrialState.PRUNED, TrialState.FAIL) and not is_retried(run):
            return f"with seed {run.user_attrs[FINALIST]['index']} it ended as {failure_reason(run)}"
    return None if any(run.state == TrialState.COMPLETE for run in runs) else OUT_OF_TIME


def _finalist(search: optuna.Study, trial: FrozenTrial, runs: Sequence[FrozenTrial]) -> Finalist:
    scores = [run.value for run in runs if run.value is not None]
    return Finalist(
        trial=trial.number,
        is_default=is_default(search, trial),
        searched=trial.value,
        scores=scores,
        mean=float(np.mean(scores)),
        runs=[run.number for run in runs],
    )


def _tested(finalist: Finalist, runs: Sequence[FrozenTrial]) -> Finalist:
    scores = [run.value for run in runs if run.value is not None]
    return finalist.model_copy(update={"test_scores": scores, "test_runs": [run.number for run in runs]})


def best_run(direction: StudyDirection, winner: Finalist) -> int:
    """The winner's training whose model is kept: the best on validation of all, of equal ones the first."""
    pairs = zip([*winner.scores, *winner.test_scores], [*winner.runs, *winner.test_runs], strict=True)
    return min(pairs, key=lambda pair: rank(direction, *pair))[1]


def _errors(finals: Finals, study: optuna.Study, splits: Splits) -> Errors | None:
    """What winner and default get wrong on validation; None where a task knows no right and wrong."""
    decisions, split = TASKS[splits.task].decisions, splits.validation
    if decisions is None:
        return None
    of = [finals.chosen, *([finals.default] if finals.default else [])]
    outputs = tuple(logits_of(study, each, "validation") for each in of)
    return find_errors(decisions(split, split.labels, splits.labels, outputs), split.texts)


def _read_once(finals: Finals, study: optuna.Study, splits: Splits, *, read_again: bool) -> Finals:
    """With a reading of the test split by this winner, unless another one had it."""
    if finals.readings:
        last = finals.readings[-1]
        if (last.winner, last.seeds) == (finals.winner, finals.test_seeds):
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
    task = TASKS[splits.task]
    logits = logits_of(study, winner, "test")
    others = None if default is None else logits_of(study, default, "test")
    differences = {}
    if others is not None and default != winner:
        differences = score_differences(task.scores, logits, others, labels, classes)
    return Reading(
        at=datetime.now().astimezone().isoformat(timespec="seconds"),
        winner=winner.trial,
        default=None if default is None else default.trial,
        seeds=finals.test_seeds,
        rows=len(labels),
        method=method(len(finals.test_seeds)),
        winner_scores=score_estimates(task.scores, logits, labels, classes),
        default_scores={} if others is None else score_estimates(task.scores, others, labels, classes),
        differences=differences,
        confusion=_confusion(task, splits, logits),
    )


def _confusion(task: Task, splits: Splits, outputs: NDArray[np.float32]) -> list[list[float]]:
    if task.decisions is None:
        return []
    decided = task.decisions(splits.test, splits.test.labels, splits.labels, (outputs,))
    return mean_confusion(decided.labels, decided.outputs[0])


def logits_of(study: optuna.Study, finalist: Finalist, split: str) -> NDArray[np.float32]:
    """[test seeds, ...] What a finalist's head says."""
    trials = study.get_trials(deepcopy=False)
    return np.stack([unpacked(trials[run].user_attrs[PREDICTIONS][split]) for run in finalist.test_runs])
