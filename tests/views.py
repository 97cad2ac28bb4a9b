"""Views of made-up studies: of trials drawn at random, and of trials as they are told."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.report.tables import View, view_of
from hpo.results import Finalist, Finals
from hpo.space import distribution
from hpo.space_checks import is_active
from hpo.spec import StudySpec

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
    "max_grad_norm": {"choices": [None, 0.5, 1.0]},
    "weight_decay": {"low": 0.0, "high": 0.1},
    "optimizer": {"choices": ["adamw", "sgd"]},
    "momentum": {"low": 0.5, "high": 0.95, "when": {"optimizer": ["sgd"]}},
}
Params = dict[str, Any]


def spec_of(space: Mapping[str, Any], training: Mapping[str, Any] | None = None) -> StudySpec:
    settings = {"name": "films", "data": {"train": "films.csv"}, "model": {"name": "tiny"}, "training": training or {}}
    return StudySpec.model_validate(settings | {"search_space": space})


def random_view(
    n: int,
    score: Callable[[Params], float],
    *,
    space: Mapping[str, Any] = SPACE,
    training: Mapping[str, Any] | None = None,
    noise: float = 0.0,
    spec: bool = True,
    seed: int = 0,
) -> View:
    """`n` random trials of a space; of a worse score than -1, pruned."""
    declared, generator = spec_of(space, training), np.random.default_rng(seed)
    kinds = {name: distribution(name, parameter) for name, parameter in declared.search_space.items()}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    source = optuna.create_study(sampler=study.sampler)
    if spec:
        study.set_user_attr("spec", declared.model_dump(mode="json"))
    for _ in range(n):
        drawn = active(source.ask(kinds).params, declared)
        value = score(drawn) + noise * generator.standard_normal()
        pruned = value < -1
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                value=None if pruned else value,
                params=drawn,
                distributions={name: kinds[name] for name in drawn},
                intermediate_values={1: value},
            )
        )
    return view_of(study)


def active(values: Params, declared: StudySpec) -> Params:
    """The values of those parameters whose `when` holds."""
    drawn: Params = {}
    for name, parameter in declared.search_space.items():
        if is_active(parameter, drawn):
            drawn[name] = values[name]
    return drawn


def rate(params: Params) -> float:
    """From 0 to 1 over the range's logarithmic scale."""
    return (math.log10(params["learning_rate"]) + 5) / 2


Draw = Callable[[np.random.Generator, tuple[int, ...]], Any]
# Ways in which scores may be distributed.
SCORES: dict[str, Draw] = {
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "skewed": lambda generator, shape: generator.beta(5, 2, shape),
    "exponential": lambda generator, shape: generator.exponential(size=shape),
}
SETTINGS: dict[str, Any] = {
    "name": "films",
    "data": {"train": "films.csv"},
    "model": {"name": "tiny"},
    "search_space": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}},
}
START = datetime(2026, 1, 1)
Trial = tuple[str, float | None]


def told_view(
    trials: Sequence[Trial],
    *,
    direction: Literal["minimize", "maximize"] = "maximize",
    seconds: float = 60.0,
    workers: int = 1,
    starts: Sequence[float] | None = None,
    attributes: dict[int, dict[str, Any]] | None = None,
    spec: bool = True,
    **settings: Any,
) -> View:
    """Trials of equal length, `workers` at a time, by state and score; of a spec's study the first is the default."""
    study = optuna.create_study(direction=direction)
    if spec:
        metric = "eval/accuracy" if direction == "maximize" else "eval/loss"
        given = StudySpec.model_validate(SETTINGS | {"metric": metric} | settings)
        study.set_user_attr("spec", given.model_dump(mode="json"))
    for number, (state, score) in enumerate(trials):
        start = START + timedelta(seconds=number // workers * seconds if starts is None else starts[number])
        study.add_trial(
            FrozenTrial(
                number=number,
                trial_id=number,
                state=TrialState[state],
                value=score if state == "COMPLETE" else None,
                datetime_start=start,
                datetime_complete=None if state == "RUNNING" else start + timedelta(seconds=seconds),
                params={"learning_rate": 1e-4},
                distributions={"learning_rate": FloatDistribution(1e-5, 1e-3, log=True)},
                user_attrs=(attributes or {}).get(number, {}),
                system_attrs={},
                intermediate_values={} if score is None else {1: score},
            )
        )
    return view_of(study)


def complete(*scores: float) -> list[Trial]:
    return [("COMPLETE", score) for score in scores]


def finals(*scores: list[float]) -> Finals:
    of_one: dict[str, Any] = {"is_default": False, "searched": 0.8, "mean": 0.8, "runs": []}
    finalists = [Finalist(trial=number, scores=given, **of_one) for number, given in enumerate(scores, start=1)]
    asked: dict[str, Any] = {"ended_trials": 9, "asked_trials": 3, "asked_seeds": 3}
    return Finals(**asked, seeds=[1, 2, 3], finalists=finalists, winner=1, exported=0)
