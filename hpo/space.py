"""The declared search space as Optuna's distributions, and what a trial drew as its frozen configuration."""

from collections.abc import Mapping

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpo.search_spec import ChoiceParameter, Parameter, setting_of
from hpo.settings import Value
from hpo.space_checks import MODEL, grid_values, is_active, is_integer
from hpo.spec import StudySpec, TrialConfig


def distribution(name: str, parameter: Parameter) -> BaseDistribution:
    """Optuna's distribution of one declared parameter."""
    if isinstance(parameter, ChoiceParameter):
        return CategoricalDistribution(parameter.choices)
    if is_integer(name):
        return IntDistribution(
            int(parameter.low), int(parameter.high), log=parameter.log, step=int(parameter.step or 1)
        )
    return FloatDistribution(
        float(parameter.low), float(parameter.high), log=parameter.log, step=_float(parameter.step)
    )


def suggest(trial: optuna.Trial, spec: StudySpec) -> dict[str, Value]:
    """Draws every active parameter, in the declared order, so that `when` sees what was drawn before it."""
    drawn: dict[str, Value] = {}
    for name, parameter in spec.search_space.items():
        if is_active(parameter, drawn):
            drawn[name] = _suggest(trial, name, distribution(name, parameter))
    return drawn


def _suggest(trial: optuna.Trial, name: str, among: BaseDistribution) -> Value:
    match among:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, among.choices)
        case IntDistribution():
            return trial.suggest_int(name, among.low, among.high, step=among.step, log=among.log)
        case FloatDistribution():
            return trial.suggest_float(name, among.low, among.high, step=among.step, log=among.log)
    raise AssertionError(f"an unknown distribution: {among}")


def default_params(spec: StudySpec) -> dict[str, Value]:
    """The untuned default as a point of the space: trial 0."""
    drawn: dict[str, Value] = {}
    for name, parameter in spec.search_space.items():
        if is_active(parameter, drawn):
            section = spec.model if name.startswith(MODEL) else spec.training
            drawn[name] = getattr(section, setting_of(name).removeprefix(MODEL))
    return drawn


def trial_config(spec: StudySpec, params: Mapping[str, Value], seed: int) -> TrialConfig:
    """The whole configuration of a trial: the study's defaults with `params` set over them."""
    training = {setting_of(name): value for name, value in params.items() if not name.startswith(MODEL)}
    model = {name.removeprefix(MODEL): value for name, value in params.items() if name.startswith(MODEL)}
    return TrialConfig(
        task=spec.task,
        metric=spec.metric,
        data=spec.data,
        model=type(spec.model).model_validate({**spec.model.model_dump(), **model}),
        teachers=spec.teachers,
        training=type(spec.training).model_validate({**spec.training.model_dump(), **training}),
        seed=seed,
        data_seed=spec.seed,
    )


def grid(spec: StudySpec) -> dict[str, list[Value]]:
    """Every value of every parameter, for the grid sampler; the spec has been checked to have them."""
    return {name: grid_values(name, parameter) or [] for name, parameter in spec.search_space.items()}


def _float(step: int | float | None) -> float | None:
    return None if step is None else float(step)
