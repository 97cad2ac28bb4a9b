"""Spaces to search and studies that search them without training: what the tests of `search` and `study` share."""

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from hpo import space
from hpo.search import build_sampler
from hpo.spec import StudySpec
from hpo.study import next_position

MakeSpec = Callable[..., StudySpec]
TRAINING: dict[str, Any] = {"dropout": 0.1, "learning_rate": 1e-3, "num_evaluations": 9}
NUMBERS: dict[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
    "weight_decay": {"low": 0.0, "high": 0.1},
    "warmup_ratio": {"low": 0.0, "high": 0.5},
}
MIXED: dict[str, Any] = NUMBERS | {
    "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
    "train_batch_size": {"choices": [16, 32, 64]},
    "max_grad_norm": {"choices": [None, 0.5, 1.0]},
    "max_length": {"low": 16, "high": 256, "log": True},
}
CONDITIONAL: dict[str, Any] = MIXED | {
    "optimizer": {"choices": ["adamw", "sgd"]},
    "momentum": {"low": 0.0, "high": 0.95, "when": {"optimizer": ["sgd"]}},
    "adam_beta2": {"low": 0.9, "high": 0.9999, "when": {"optimizer": ["adamw"]}},
}
FINITE: dict[str, Any] = {name: MIXED[name] for name in ("dropout", "train_batch_size", "max_grad_norm")}


def score(spec: StudySpec, trial: optuna.Trial) -> float:
    """A smooth function of what was drawn, so that a sampler has something to learn."""
    config = space.trial_config(spec, space.suggest(trial, spec), seed=0).training
    clip = config.max_grad_norm or 0.0
    return config.learning_rate - config.weight_decay + (config.dropout or 0.0) - clip * config.warmup_ratio


def run(study: optuna.Study, spec: StudySpec, n: int) -> None:
    """`n` trials as the driver runs them: a sampler of its own for each, at the position in storage."""
    for _ in range(n):
        study.sampler = build_sampler(spec, next_position(study))
        study.optimize(lambda trial: score(spec, trial), n_trials=1)


def in_memory(spec: StudySpec) -> optuna.Study:
    study = optuna.create_study(direction=spec.direction, study_name=spec.name)
    study.enqueue_trial(space.default_params(spec))
    return study


def points(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def after(looks: int, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Has another process do something once a study has been looked at so many times."""
    left = [looks]
    get_trials = optuna.Study.get_trials

    def look(study: optuna.Study, *arguments: Any, **keywords: Any) -> list[FrozenTrial]:
        left[0] -= 1
        if left[0] == -1:
            do()
        return get_trials(study, *arguments, **keywords)

    monkeypatch.setattr(optuna.Study, "get_trials", look)
