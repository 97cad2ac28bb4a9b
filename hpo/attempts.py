"""The attempts at a trial: how one ended, whether it is tried again, and what it repeats.

A trial that is tried again counts for nothing; the next attempt is a trial of its own, which names the one it repeats.
"""

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

# How a trial may end that is not to blame for it, or hung.
INTERRUPTED, KILLED, DISK_FULL, TIMED_OUT = "interrupted", "killed", "disk_full", "timed_out"
DEVICE_FAILED = "device_failed"
# Of a queued trial that was not begun, and is not wanted any more.
SUPERSEDED = "superseded"
# How often a trial is tried again, by how it ended; one that had come further than the attempt before counts anew. What
# is not here is the trial's own, and would only happen again. Whoever kills a trial may be the kernel, for its memory.
MAX_RETRIES: dict[str, float] = {INTERRUPTED: math.inf, DISK_FULL: math.inf, KILLED: 3, DEVICE_FAILED: 1}
# Of a trial of a study's finalists: which trial of the search it trains again, and with which seed.
FINALIST = "finalist"
# The optimizer step from which an attempt went on.
RESUMED_STEP = "resumed_step"


def failure_reason(trial: FrozenTrial) -> str | None:
    """Why a trial ended before its time.

    One that failed without having recorded so is not to blame: its driver died, or what it needs was not there.
    """
    result = trial.user_attrs.get("result", {})
    if trial.state == TrialState.FAIL and result.get("state") != "FAIL":
        return INTERRUPTED
    reason: str | None = result.get("reason")
    return reason


def is_retried(trial: FrozenTrial) -> bool:
    """Whether a trial failed and is tried again, or has been."""
    # The state first: this is asked of every trial that the study has had, several times a trial.
    if trial.state != TrialState.FAIL:
        return False
    known = trial.user_attrs.get("result", {}).get("retried")
    return failure_reason(trial) == INTERRUPTED if known is None else bool(known)


def may_retry(study: optuna.Study, trial: optuna.Trial | FrozenTrial, reason: str | None) -> bool:
    """Whether a trial that ends for this reason is tried again."""
    came_to = _came_to(study.get_trials(deepcopy=False)[trial.number])
    failures = sum(
        failure_reason(before) == reason and _came_to(before) >= came_to for before in earlier_attempts(study, trial)
    )
    return failures < MAX_RETRIES.get(reason or "", 0)


def _came_to(trial: FrozenTrial) -> tuple[int, int]:
    """How far an attempt came: its evaluations; of as many, the step of the checkpoint that it went on from."""
    return len(trial.intermediate_values), trial.user_attrs.get(RESUMED_STEP, 0)


def earlier_attempts(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> list[FrozenTrial]:
    """The trials that this one repeats, the last of them first."""
    repeats, found = trial.user_attrs.get("retry_of"), list[FrozenTrial]()
    trials = study.get_trials(deepcopy=False) if repeats is not None else []
    while repeats is not None:
        found.append(trials[repeats])
        repeats = trials[repeats].user_attrs.get("retry_of")
    return found


def first_attempt(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> int:
    """The number of the trial that this one repeats, through all repeats; its own if it repeats none."""
    return min([trial.number, *(before.number for before in earlier_attempts(study, trial))])


def is_default(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> bool:
    """Whether a trial is the untuned default, or repeats it."""
    if finalist := trial.user_attrs.get(FINALIST):
        return bool(finalist["is_default"])
    return first_attempt(study, trial) == 0


def finalist_of(trial: optuna.Trial | FrozenTrial) -> int | None:
    """The trial of the search that a finalist trains again; None for one of a search."""
    finalist = trial.user_attrs.get(FINALIST)
    return None if finalist is None else int(finalist["trial"])


def is_refit(trial: optuna.Trial | FrozenTrial) -> bool:
    """Whether a trial trains the winner on train and validation together, so that its score says nothing."""
    return bool(trial.user_attrs.get(FINALIST, {}).get("refit"))


def contest_of(trial: optuna.Trial | FrozenTrial) -> tuple[int | None, bool]:
    """What trials have in common of which only the best one's weights are kept."""
    return finalist_of(trial), is_refit(trial)


def position_of(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> int:
    """A trial's place in the study as if none had been tried again, the same for each attempt: its seed follows it."""
    first = first_attempt(study, trial)
    earlier = study.get_trials(deepcopy=False)[:first]
    return first - sum(map(is_retried, earlier))


def end_dead_trials(study: optuna.Study, dead: Sequence[FrozenTrial], reason: str = KILLED) -> list[int]:
    """Fails trials that nobody runs any more (they would repel the sampler), and returns their numbers."""
    ended = []
    for trial in dead:
        result = {**trial.user_attrs.get("result", {}), "state": "FAIL", "reason": reason}
        result["retried"] = may_retry(study, trial, reason)
        try:
            study._storage.set_trial_user_attr(trial._trial_id, "result", result)  # an optuna.Trial asks the sampler
        except UpdateFinishedTrialError:  # it has come to its end by itself, just now
            continue
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        ended.append(trial.number)
    return ended


def unqueued_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Those that are to be tried again, and are not queued for it."""
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get("retry_of") for trial in trials}
    return [trial for trial in trials if is_retried(trial) and trial.number not in repeated]


def requeue(study: optuna.Study) -> None:
    """Queues every trial that is to be tried again once more, with its parameters."""
    for trial in unqueued_trials(study):
        kept = {name: trial.user_attrs[name] for name in (FINALIST,) if name in trial.user_attrs}
        study.enqueue_trial(known_params(trial), user_attrs={**kept, "retry_of": trial.number})


def known_params(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial has drawn, or will have: of one that is queued, or died in its first moments, what it was given."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def supersede(study: optuna.Study, trial: FrozenTrial) -> None:
    """Ends a queued trial that nobody has begun, for Optuna would hand it out before any that is queued later."""
    storage = study._storage
    storage.set_trial_user_attr(trial._trial_id, "result", {"state": "FAIL", "reason": SUPERSEDED, "retried": False})
    storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def is_superseded(trial: FrozenTrial) -> bool:
    """Whether a trial was ended while it was queued, so that nothing was trained and MLflow knows nothing of it."""
    return trial.state == TrialState.FAIL and failure_reason(trial) == SUPERSEDED
