"""What a study file may search, with which sampler, and which pruner stops what falls behind.

Declarations only: `space.py` and `search.py` make Optuna's objects of them.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from hpo.settings import Settings, Value, rule_broken

MAX_STEPS = 10**9
Allowed = Annotated[list[Value], Field(min_length=1)]


class RangeParameter(Settings):
    """A number between two bounds; an integer where the setting it searches is one."""

    low: int | float
    """The smallest value."""
    high: int | float
    """The largest value, itself included."""
    log: bool = False
    """Draw on a logarithmic scale."""
    step: Annotated[int | float, Field(gt=0)] | None = None
    """Draw only `low`, `low + step`, ... Default: any float, every integer."""
    when: dict[str, Allowed] = {}
    """Search this only when another searched parameter has one of these values: `{optimizer: [sgd]}`.
    Otherwise it keeps its value of `training`."""

    @model_validator(mode="after")
    def _bounds(self) -> "RangeParameter":
        if self.low >= self.high:
            swap = "Swap them." if self.low > self.high else "Widen the range, or set the value in `training`."
            raise rule_broken(f"low must be below high, but got low={self.low}, high={self.high}", swap)
        if self.log and self.low <= 0:
            raise rule_broken(
                f"a logarithmic range must start above 0, but got low={self.low}",
                "Raise `low`, or remove `log: true`.",
            )
        if self.log and self.step is not None:
            raise rule_broken(
                f"`log` and `step` exclude each other, but got log=true, step={self.step}",
                "Remove one of them.",
            )
        if self.step is not None:
            low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
            if (high - low) / step > MAX_STEPS:  # more digits than Optuna's arithmetic has
                raise rule_broken(
                    f"a range must have at most {MAX_STEPS:,} steps, but got low={low}, high={high}, step={step}",
                    "Raise `step`, or remove it.",
                )
            steps = int((high - low) / step)
            if low + steps * step != high:  # Optuna would lower `high` without being asked
                raise rule_broken(
                    f"high must be low plus whole steps, but got low={low}, high={high}, step={step}",
                    f"Set high to {low + max(steps, 1) * step}, or another step.",
                )
        return self


class ChoiceParameter(Settings):
    """One of a list of values, `null` among them where the setting may be off."""

    choices: Annotated[list[Value], Field(min_length=2)]
    """The values to choose from."""
    when: dict[str, Allowed] = {}
    """Search this only when another searched parameter has one of these values: `{optimizer: [sgd]}`.
    Otherwise it keeps its value of `training`."""

    @model_validator(mode="after")
    def _distinct(self) -> "ChoiceParameter":
        keys = [(isinstance(choice, bool), choice) for choice in self.choices]  # 1 is 1.0, but not True
        if len(set(keys)) < len(keys):
            raise rule_broken(f"choices must differ, but got {self.choices}", "Remove the repeated one.")
        return self


def _parameter_kind(value: Any) -> str:
    has_choices = "choices" in value if isinstance(value, dict) else isinstance(value, ChoiceParameter)
    return "choice" if has_choices else "range"


Parameter = Annotated[
    Annotated[RangeParameter, Tag("range")] | Annotated[ChoiceParameter, Tag("choice")],
    Discriminator(_parameter_kind),
]


class TpeSampler(Settings):
    """Tree-structured Parzen estimator: the default."""

    name: Literal["tpe"] = "tpe"
    n_startup_trials: Annotated[int, Field(ge=1)] = 5
    """Trials drawn at random before the model of good and bad regions is used."""


class RandomSampler(Settings):
    """Independent uniform draws: the baseline every sampler has to beat."""

    name: Literal["random"]


class GpSampler(Settings):
    """Gaussian process with expected improvement: few, expensive trials."""

    name: Literal["gp"]
    n_startup_trials: Annotated[int, Field(ge=1)] = 5
    """Trials drawn at random before the process is fitted."""


class CmaEsSampler(Settings):
    """Covariance matrix adaptation: many trials over numbers; categorical parameters are drawn at random."""

    name: Literal["cmaes"]
    n_startup_trials: Annotated[int, Field(ge=1)] = 5
    """Trials drawn at random before the evolution starts."""


class QmcSampler(Settings):
    """Scrambled Sobol points: an even cover of the space."""

    name: Literal["qmc"]


class GridSampler(Settings):
    """Every combination once, in random order. Every parameter needs `choices`, a `step`, or to be an integer."""

    name: Literal["grid"]


Sampler = Annotated[
    TpeSampler | RandomSampler | GpSampler | CmaEsSampler | QmcSampler | GridSampler,
    Field(discriminator="name"),
]


class NoPruner(Settings):
    """Every trial runs to its end."""

    name: Literal["none"]


class MedianPruner(Settings):
    """Stop a trial whose best score so far is worse than the median of the others at the same evaluation."""

    name: Literal["median"] = "median"
    n_startup_trials: Annotated[int, Field(ge=0)] = 5
    """Trials that must have finished before any is pruned."""
    n_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Evaluations of each trial at which it is not pruned yet."""
    interval_steps: Annotated[int, Field(ge=1)] = 1
    """Evaluations between two looks."""
    n_min_trials: Annotated[int, Field(ge=1)] = 1
    """Scores of other trials that must stand at an evaluation to prune there."""


class PercentilePruner(Settings):
    """As `median`, with another percentile: 25 keeps the best quarter."""

    name: Literal["percentile"]
    percentile: Annotated[float, Field(ge=0, le=100)] = 25.0
    """Trials below the best `percentile` percent are stopped."""
    n_startup_trials: Annotated[int, Field(ge=0)] = 5
    """Trials that must have finished before any is pruned."""
    n_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Evaluations of each trial at which it is not pruned yet."""
    interval_steps: Annotated[int, Field(ge=1)] = 1
    """Evaluations between two looks."""
    n_min_trials: Annotated[int, Field(ge=1)] = 1
    """Scores of other trials that must stand at an evaluation to prune there."""


class SuccessiveHalvingPruner(Settings):
    """Asynchronous successive halving (ASHA): at each rung only the best `1 / reduction_factor` go on."""

    name: Literal["successive_halving"]
    min_resource: Annotated[int, Field(ge=1)] = 1
    """Evaluations before the first rung."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Of every so many trials at a rung, one goes on."""
    min_early_stopping_rate: Annotated[int, Field(ge=0)] = 0
    """Rungs to leave out at the start."""


class HyperbandPruner(Settings):
    """Several brackets of successive halving with different first rungs."""

    name: Literal["hyperband"]
    min_resource: Annotated[int, Field(ge=1)] = 1
    """Evaluations before the first rung of the most eager bracket."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Of every so many trials at a rung, one goes on."""


class PatientPruner(Settings):
    """Prune as `wrapped` says, but only a trial that has been below its own best for longer than `patience`."""

    name: Literal["patient"]
    patience: Annotated[int, Field(ge=0)] = 2
    """Evaluations in a row below its own best that are tolerated. A plateau is not below."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """How far below its own best still counts as level."""
    wrapped: Annotated[
        NoPruner | MedianPruner | PercentilePruner | SuccessiveHalvingPruner | HyperbandPruner,
        Field(discriminator="name"),
    ] = MedianPruner()
    """The pruner that decides once patience is over; `none` stops at once then."""


Pruner = Annotated[
    NoPruner | MedianPruner | PercentilePruner | SuccessiveHalvingPruner | HyperbandPruner | PatientPruner,
    Field(discriminator="name"),
]
SearchSpace = dict[str, Parameter]


def setting_of(name: str) -> str:
    """What a parameter of the search space sets: `learning_rate` of `learning_rate@lora`.

    A setting may have several ranges, each under a label of its own, that exclude each other by their `when`.
    """
    return name.partition("@")[0]
