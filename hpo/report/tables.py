"""Trials in storage as one table, and what is read off it: ranking, the best, what pruning saved.

The score of a trial is its last evaluation. Trials that only wait in the queue are left out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import optuna
import pandas as pd
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.attempts import failure_reason, is_default, is_retried
from hpo.errors import StorageError
from hpo.output import write_atomically
from hpo.results import Finals, Reading
from hpo.spec import StudySpec
from hpo.study import COSTS, TRAIN_FRACTION, best_first, finalist_trials, known_spec, remaining_of, stored_finals
from hpo.tasks import DEFAULT_TASK, TASKS
from hpo.tasks.base import Task

T = TypeVar("T")
# What `eval/<name>` is called in words, where these are not its own.
METRICS: Final = {
    "accuracy": "accuracy",
    "f1_micro": "micro F1",
    "precision_micro": "micro precision",
    "recall_micro": "micro recall",
    "pearson": "Pearson's r",
    "spearman": "Spearman's ρ",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "f1_macro": "macro F1",
    "f1": "F1",
    "precision_macro": "macro precision",
    "precision": "precision",
    "recall_macro": "macro recall",
    "recall": "recall",
    "mcc": "MCC",
    "loss": "loss",
}
DTYPES: Final = {
    "number": "int64",
    "state": "str",
    "reason": "str",
    "score": "float64",
    "evaluations": "int64",
    "num_evaluations": "Int64",
    **{name: "Int64" if name.endswith(("_steps", "_parameters")) else "float64" for name in COSTS},
    "is_default": "bool",
    "retried": "bool",
    "retry_of": "Int64",
}
PARAM: Final = "params."
SHARE: Final = PARAM + TRAIN_FRACTION
NONE: Final = "none"
# Not a state of Optuna's, where such a trial has failed.
RETRIED: Final = "RETRIED"
RANKS: Final = {"COMPLETE": 0, "PRUNED": 1, "FAIL": 2, "RUNNING": 3}


def learned_from_all(table: pd.DataFrame) -> "pd.Series[bool]":
    """Of each trial, whether it drew no share of the train split, or all of it."""
    if SHARE not in table:
        return pd.Series(True, index=table.index)
    return shares(table) == 1.0


def shares(table: pd.DataFrame) -> "pd.Series[float]":
    """Of each trial of a study that searches it, the share of the train split; all of it where it drew none."""
    return table[SHARE].astype(float).fillna(1.0)


@dataclass(frozen=True, kw_only=True)
class Savings:
    """What stopping trials early saved, over the complete and the pruned ones."""

    steps_done: int
    """Optimizer steps that were made."""
    steps_planned: int
    """Optimizer steps, had every trial run to its end."""
    seconds_saved: float | None
    """Estimated from the mean time of a complete trial; None while there is none."""

    @property
    def steps_saved(self) -> int:
        return self.steps_planned - self.steps_done

    @property
    def share_saved(self) -> float:
        return self.steps_saved / self.steps_planned if self.steps_planned else 0.0


@dataclass(frozen=True, kw_only=True)
class View:
    """A study at one moment, as the figures and the page see it, though it may be running on.

    It has no study that could be asked again: whoever read some of it later would contradict the rest.
    """

    name: str
    direction: Literal["minimize", "maximize"]
    spec: StudySpec | None
    trials: tuple[FrozenTrial, ...]
    finalist_trials: tuple[FrozenTrial, ...]
    """The trainings of its finalists that were begun, which are no trials of the search."""
    remaining: int
    """Trials of the search that are still to end; 0 where another tool ran it."""
    table: pd.DataFrame
    """A row for every trial of the search."""
    finalist_table: pd.DataFrame
    """The same for the trainings of its finalists."""
    best: int | None
    """The number of the best complete trial."""
    default: int | None
    """The number of the untuned default's attempt that counts."""
    attributes: Mapping[str, Any]
    """What `hpo.tune` stored with the study; what another tool stored under the same names means something else."""
    finals: Finals | None
    """How the finalists came out; None for a study that is not so far, or has none."""

    @property
    def reading(self) -> Reading | None:
        """The reading of the test split by the winner."""
        return self.finals.reading if self.finals else None

    @property
    def task(self) -> Task:
        """What is learned; of another tool's study the usual one."""
        return _task_of(self.spec)

    @property
    def metric(self) -> str:
        """The score in words, such as `validation accuracy`."""
        return f"validation {metric_in_words(self.spec.metric)}" if self.spec else "score"

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The complete and pruned trials with a finite score: those that say something about their parameters."""
        finite = self.table["score"].abs() < math.inf
        return self.table[finite & self.table["state"].isin(["COMPLETE", "PRUNED"])]

    @cached_property
    def complete(self) -> pd.DataFrame:
        return self.shown[self.shown["state"] == "COMPLETE"]

    @cached_property
    def rivals(self) -> pd.DataFrame:
        """The complete trials that compete with each other: those that learned from all rows."""
        return self.complete[learned_from_all(self.complete)]

    @cached_property
    def pruned(self) -> pd.DataFrame:
        return self.shown[self.shown["state"] == "PRUNED"]

    @cached_property
    def _known(self) -> dict[Any, Any]:
        return {}

    def once(self, compute: Callable[["View"], T]) -> T:
        """What a function makes of it that takes long, and is asked for in several places."""
        if compute not in self._known:
            self._known[compute] = compute(self)
        found: T = self._known[compute]
        return found

    def only(self, number: int | None) -> pd.DataFrame:
        """The row of one shown trial, or none."""
        return self.shown[self.shown["number"] == (-1 if number is None else number)]


def view_of(study: optuna.Study) -> View:
    """Reads the study from its storage, each part of it once.

    First what it came to, then the trials: so all trials that it names are there, though more may have ended since.

    Raises:
        StorageError: it has several objectives.
    """
    if len(study.directions) > 1:
        raise StorageError(
            f"a report is of one score, but the study `{study.study_name}` has {len(study.directions)}. "
            "Look at it with optuna-dashboard."
        )
    spec = known_spec(study)
    attributes = study.user_attrs if spec else {}
    finalist = finalist_trials(study) if spec else []
    trials = _started(study)
    table, best = _table(study, spec, trials), _best(trials, study.direction)
    return View(
        name=study.study_name,
        direction="minimize" if study.direction == StudyDirection.MINIMIZE else "maximize",
        spec=spec,
        trials=tuple(trials),
        finalist_trials=tuple(finalist),
        remaining=remaining_of(trials, spec) if spec else 0,
        table=table,
        finalist_table=_table(study, spec, finalist),
        best=None if best is None else best.number,
        default=_default(table),
        attributes=attributes,
        finals=stored_finals(attributes),
    )


def metric_in_words(name: str) -> str:
    """`macro F1` of `eval/f1_macro`."""
    name = name.removeprefix("eval/")
    return METRICS.get(name, name.replace("_", " "))


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """One row a trial by number: state, scores, budget, cost, and a `params.<name>` column a parameter.

    A parameter that a trial did not search is empty; one that it drew as `None` (off) is "none".
    """
    return _table(study, known_spec(study), _started(study))


def _started(study: optuna.Study) -> list[FrozenTrial]:
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    return sorted(trials, key=lambda trial: trial.number)


def _table(study: optuna.Study, spec: StudySpec | None, trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    names = dict.fromkeys([*(spec.search_space if spec else ()), *(key for t in trials for key in t.params)])
    at = list(DTYPES).index("evaluations")
    metrics = dict.fromkeys(metric_columns(spec), "float64")
    dtypes = dict([*list(DTYPES.items())[:at], *metrics.items(), *list(DTYPES.items())[at:]])
    dtypes |= {PARAM + name: "object" for name in names}
    rows = [_row(study, spec, trial) for trial in trials]
    return pd.DataFrame(rows, columns=list(dtypes), dtype="object").astype(dtypes)


def _task_of(spec: StudySpec | None) -> Task:
    return TASKS[spec.task if spec else DEFAULT_TASK]


def metric_columns(spec: StudySpec | None) -> list[str]:
    """The metrics that trials have, as columns; of another tool's study those of the usual task, which stay empty."""
    return [name.removeprefix("eval/") for name in _task_of(spec).metrics]


def _row(study: optuna.Study, spec: StudySpec | None, trial: FrozenTrial) -> dict[str, Any]:
    # Another tool's study may keep something else under these names, and its trial 0 is no default.
    result = trial.user_attrs.get("result", {}) if spec else {}
    score = _score(trial)
    metrics: dict[str, float | None] = {spec.metric: score} if spec else {}
    metrics |= result.get("metrics", {})
    drawn = {name: NONE if value is None else value for name, value in trial.params.items()}
    return {
        "number": trial.number,
        "state": trial.state.name,
        "reason": failure_reason(trial) if spec else None,
        "score": score,
        **{name: metrics.get(f"eval/{name}") for name in metric_columns(spec)},
        "evaluations": result.get("step") or max(trial.intermediate_values, default=0),
        "num_evaluations": spec.training.num_evaluations if spec else None,
        **{name: result.get(name) for name in COSTS},
        "is_default": is_default(study, trial) if spec else False,
        "retried": is_retried(trial) if spec else False,
        "retry_of": trial.user_attrs.get("retry_of") if spec else None,
        **{PARAM + name: value for name, value in drawn.items()},
    }


def _score(trial: FrozenTrial) -> float | None:
    """The value of a complete trial, the last evaluation of any other."""
    if trial.state == TrialState.COMPLETE:
        return trial.value
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None


def leaderboard(table: pd.DataFrame, metric: str, direction: str, n: int | None = None) -> pd.DataFrame:
    """The first `n` rows (default: all), best first.

    Complete trials stand first, by score; then those that were pruned, failed or still run, each by how far
    they came and then by score. Ties go to the lower number.

    Args:
        metric: a metric (`eval/accuracy`), or the column `score`.
        direction: `minimize` or `maximize`.
    """
    score = table[metric.removeprefix("eval/")]
    keys = pd.DataFrame(
        {
            "rank": table["state"].map(RANKS),
            "way": (-table["evaluations"]).where(table["state"] != "COMPLETE", 0),
            "score": score if direction == "minimize" else -score,
            "number": table["number"],
        }
    )
    order = keys.sort_values(list(keys.columns), na_position="last").index
    return table.loc[order].head(len(table) if n is None else n).reset_index(drop=True)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The best complete trial, of equal ones the first, or None while none is complete."""
    return _best(study.get_trials(deepcopy=False), study.direction)


def _best(trials: Sequence[FrozenTrial], direction: StudyDirection) -> FrozenTrial | None:
    return next(iter(best_first(direction, trials)), None)


def _default(table: pd.DataFrame) -> int | None:
    """The untuned default: its complete attempt, or else its last one."""
    attempts = table[table["is_default"]]
    complete = attempts[attempts["state"] == "COMPLETE"]
    chosen = attempts if complete.empty else complete
    return None if chosen.empty else int(chosen["number"].iloc[-1])


def state_counts(table: pd.DataFrame) -> "pd.Series[int]":
    """How many trials are in each state; one that is tried again is no failure."""
    return table["state"].mask(table["retried"], RETRIED).value_counts()


def pruning_savings(table: pd.DataFrame) -> Savings:
    """Steps made and planned over complete and pruned trials; what a failed trial missed is lost, not saved.

    What a complete trial missed was not saved by pruning: it stopped early by itself.

    Time is estimated as each pruned trial's missing share of the mean time of a complete one. A trial's own
    seconds per step would count the loading of the model and the data once more with every step.
    """
    known = table.dropna(subset=["optimizer_steps", "total_steps"])
    ended = known[known["state"].isin(["COMPLETE", "PRUNED"]) & (known["total_steps"] > 0)]
    full_time = ended.loc[ended["state"] == "COMPLETE", "seconds"].mean()
    planned = ended["total_steps"].where(ended["state"] == "PRUNED", ended["optimizer_steps"])
    missing = 1 - (ended["optimizer_steps"] / planned).astype("float64")
    return Savings(
        steps_done=int(ended["optimizer_steps"].sum()),
        steps_planned=int(planned.sum()),
        seconds_saved=None if math.isnan(full_time) else float(missing.sum() * full_time),
    )


@dataclass(frozen=True)
class StepBars:
    """The optimizer steps of ended trials, in bars of some trials each, by the bars' first numbers."""

    last: int
    """The number of the last trial."""
    width: int
    """Trials a bar."""
    made: "pd.Series[float]"
    """By complete and pruned trials."""
    in_vain: "pd.Series[float]"
    """By those that failed, or were interrupted."""
    saved: "pd.Series[float]"
    """By stopping early."""


def step_bars(table: pd.DataFrame, most: int) -> StepBars | None:
    """At most so many bars; None where no step was planned."""
    ended = table[table["state"].isin(["COMPLETE", "PRUNED", "FAIL"])]
    ended = ended.dropna(subset=["optimizer_steps", "total_steps"])
    if ended.empty or not pruning_savings(table).steps_planned:
        return None
    last = int(ended["number"].max())
    width = math.ceil((last + 1) / most)
    done = ended["optimizer_steps"].astype("float64")
    missing = ended["total_steps"].astype("float64") - done
    failed, bars = ended["state"] == "FAIL", ended["number"] // width * width
    kinds = ((done, ~failed), (done, failed), (missing, ~failed))
    return StepBars(last, width, *(steps[rows].groupby(bars[rows]).sum() for steps, rows in kinds))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """The whole table, unrounded, empty where there is no value; half a surrogate pair is spelt out."""
    write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode("utf-8", "backslashreplace"))
