"""What is told of a trial as storage has it, by its worker or by whoever finds it dead: names, tags, its end."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.attempts import FINALIST, failure_reason, is_default, is_refit, is_retried
from hpo.events import TrialEnded
from hpo.plain_text import markdown, markdown_cell
from hpo.spec import StudySpec
from hpo.study import COSTS, learns_from_all
from hpo.tracking import TrialRun
from hpo.tracking_run import milliseconds


def finalist_label(trial: optuna.Trial | FrozenTrial) -> str | None:
    """What a finalist is called, also its run in MLflow; None for a trial of a search, which goes by its number."""
    finalist = trial.user_attrs.get(FINALIST)
    if not finalist:
        return None
    how = "train + validation" if is_refit(trial) else f"seed {finalist['index']}"
    return f"finalist {finalist['trial']}, {how}"


def trial_name(trial: optuna.Trial | FrozenTrial) -> str:
    """What a trial is called in a sentence."""
    return finalist_label(trial) or f"trial {trial.number}"


def start_tags(study: optuna.Study, spec: StudySpec, trial: optuna.Trial | FrozenTrial) -> dict[str, str]:
    """What there is to say of a trial that has just begun, for MLflow."""
    repeats = trial.user_attrs.get("retry_of")
    return {
        "trial.default": str(is_default(study, trial)).lower(),
        **({"trial.retry_of": str(repeats)} if repeats is not None else {}),
        **({"fallback_for": spec.fallback_for} if spec.fallback_for else {}),
    }


def started_at(trial: optuna.Trial | FrozenTrial) -> int:
    """When a trial began, in MLflow's milliseconds."""
    assert trial.datetime_start
    return milliseconds(trial.datetime_start)


def end_run(run: TrialRun, trial: FrozenTrial, details: str | None = None) -> None:
    """Ends a trial's run as Optuna has stored its end, with what it took and, if it crashed, its traceback.

    Its worker does, and whoever finds the run open meanwhile: what both tell is there once.
    """
    result = trial.user_attrs.get("result", {})
    stopped = "trial.stopped_step" if trial.state == TrialState.COMPLETE else "trial.pruned_step"
    known = {stopped: result.get("step"), "trial.micro_batch_size": result.get("micro_batch_size")}
    tags = {name: str(value) for name, value in known.items() if value is not None}
    costs = {name: result[name] for name in COSTS if name in result}
    at = milliseconds(trial.datetime_complete) if trial.datetime_complete else None
    state, reason = trial.state.name, failure_reason(trial)
    note = _trial_note(state, reason, result, trial.params)
    run.end(state, reason=reason, tags=tags, metrics=costs, at=at, traceback=details, note=note)


def _trial_note(state: str, reason: str | None, result: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """A trial in a sentence of Markdown: how it ended, and with what it was trained.

    Args:
        state: Optuna's.
        params: as they were drawn.
    """
    steps = (
        f"{result['optimizer_steps']:,} of {result['total_steps']:,} steps" if result.get("total_steps") else "0 steps"
    )
    why = f" ({reason.replace('_', ' ')})" if reason else ""
    drawn = ", ".join(
        f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}" for name, value in params.items()
    )
    return f"**{state.capitalize()}**{markdown_cell(why)} after {steps}." + (f" {markdown(drawn)}" if drawn else "")


def trial_ended(study: optuna.Study, spec: StudySpec, trial: FrozenTrial) -> TrialEnded:
    """The end of a trial as it is stored."""
    assert trial.datetime_start and trial.datetime_complete
    result = trial.user_attrs.get("result", {})
    steps, total = result.get("optimizer_steps", 0), result.get("total_steps", 0)
    return TrialEnded(
        number=trial.number,
        state=trial.state.name,
        reason=failure_reason(trial),
        score=result.get("metrics", {}).get(spec.metric),
        metrics=result.get("metrics", {}),
        share=steps / total if total else 0.0,
        seconds=(trial.datetime_complete - trial.datetime_start).total_seconds(),
        is_default=is_default(study, trial),
        micro_batch_size=result.get("micro_batch_size"),
        message=result.get("message"),
        retried=is_retried(trial),
        label=finalist_label(trial),
        competes=learns_from_all(trial),
    )
