"""The studies of a storage as a table: how each stands, its trials, its scores. Also of those that others have made.

Imports neither torch, transformers, MLflow nor pandas: it answers at once.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from hpo.attempts import is_default, is_retried
from hpo.lease import is_alive
from hpo.live import score_text
from hpo.output import FINALISTS
from hpo.plain_text import markup
from hpo.spec import StudySpec
from hpo.storage import study_names
from hpo.study import best_first, ended_trials, known_spec, load_study, running_trials, standing_finals, total_trials

RUNNING, PERHAPS, FINISHED, INTERRUPTED, UNFINISHED, FINALISTS_LEFT = (
    "running",
    "running elsewhere",
    "finished",
    "interrupted",
    "unfinished",
    "finalists left",
)
# Of a study without a study file nobody knows how many trials it is to have.
FOREIGN = "of another tool"
WORDS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "queued",
}
STOPPED = "stopped"
LEFT: Literal["left"] = "left"
RIGHT: Literal["right"] = "right"


@dataclass(frozen=True)
class Listed:
    """A study as it stands in storage."""

    name: str
    state: str
    ended: int
    total: int | None
    """The trials wanted, where that is known."""
    counts: dict[str, int]
    """Trials by state, in words."""
    metric: str
    best: float | None
    default: float | None
    """The untuned default's score."""
    touched: datetime | None
    """When a trial last began or ended, by the clock of the machine that ran it."""


def listed(storage: BaseStorage) -> list[Listed]:
    """Every study, that touched last first; finalists belong to the study that chose them."""
    names = study_names(storage)
    found = [_listed(storage, name, names) for name in names if not name.endswith(FINALISTS)]
    return sorted(found, key=lambda study: study.touched or datetime.min, reverse=True)


def _listed(storage: BaseStorage, name: str, names: list[str]) -> Listed:
    study = load_study(storage, name)
    trials = study.get_trials(deepcopy=False)
    finalists = load_study(storage, name + FINALISTS) if name + FINALISTS in names else None
    others = finalists.get_trials(deepcopy=False) if finalists else []
    spec = known_spec(study)
    total = total_trials(spec) if spec else None
    ended = len(ended_trials(study))
    running = running_trials(study) + (running_trials(finalists) if finalists else [])
    best = _best(study, trials)
    defaults = [trial for trial in trials if spec and is_default(study, trial)]
    return Listed(
        name=name,
        state=_state(trials, running, ended, total, finalists_left=best is not None and _finalists_left(study, spec)),
        ended=ended,
        total=total,
        counts=_counts(trials),
        metric=_metric(study, spec),
        best=best,
        default=_best(study, defaults),
        touched=_touched([*trials, *others]),
    )


def _finalists_left(study: optuna.Study, spec: StudySpec | None) -> bool:
    return spec is not None and spec.finalists is not None and standing_finals(study, spec) is None


def _state(
    trials: list[FrozenTrial], running: list[FrozenTrial], ended: int, total: int | None, *, finalists_left: bool
) -> str:
    alive = {is_alive(trial) for trial in running}
    if True in alive:
        return RUNNING
    if total is None:
        return FOREIGN
    if None in alive:
        return PERHAPS
    if ended >= total:
        return FINALISTS_LEFT if finalists_left else FINISHED
    # Queued to be tried again, or left running by a driver that is gone.
    cut_short = running or any(is_retried(trial) for trial in trials[-1:])
    repeats = any(t.state == TrialState.WAITING and "retry_of" in t.user_attrs for t in trials)
    return INTERRUPTED if cut_short or repeats else UNFINISHED


def _counts(trials: Iterable[FrozenTrial]) -> dict[str, int]:
    counted = Counter(STOPPED if is_retried(trial) else WORDS[trial.state] for trial in trials)
    return {word: counted[word] for word in [*WORDS.values(), STOPPED] if counted[word]}


def _metric(study: optuna.Study, spec: StudySpec | None) -> str:
    if spec:
        return spec.metric.removeprefix("eval/")
    if len(study.directions) > 1:
        return f"{len(study.directions)} objectives"
    names = study.metric_names
    return names[0] if names else "value"


def _best(study: optuna.Study, trials: Iterable[FrozenTrial]) -> float | None:
    """The best score of the complete trials; None also of several objectives, of which none is the best."""
    if len(study.directions) > 1:
        return None
    return next((trial.value for trial in best_first(study.direction, trials)), None)


def _touched(trials: Iterable[FrozenTrial]) -> datetime | None:
    times = [time for trial in trials for time in (trial.datetime_start, trial.datetime_complete) if time]
    return max(times, default=None)


def listing(studies: Iterable[Listed]) -> Table:
    """Two lines or more a study, in 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("study", overflow="fold")
    table.add_column("state", max_width=14)
    for name, justify in (("trials", LEFT), ("best", RIGHT), ("default", RIGHT), ("touched", LEFT)):
        table.add_column(name, justify=justify, no_wrap=True)
    for study in studies:
        of = "" if study.total is None else f"\n{study.ended} of {study.total}"
        table.add_row(
            f"[bold]{markup(study.name)}[/]",
            study.state + of,
            "\n".join(f"{number} {word}" for word, number in study.counts.items()) or "none",
            f"{score_text(study.best)}\n{markup(study.metric)}",
            score_text(study.default),
            f"{study.touched:%Y-%m-%d\n%H:%M}" if study.touched else "never",
        )
    return table


def show(storage: BaseStorage, console: Console) -> None:
    """Prints it."""
    studies = listed(storage)
    console.print(listing(studies) if studies else "No study has been run here yet.")
