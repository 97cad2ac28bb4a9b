"""Optuna's samplers and pruners, as a study file names them, and every seed that a study gives away."""

import hashlib
import math
import warnings
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning

from hpo import search_spec as declared
from hpo import space
from hpo.spec import StudySpec


def derive_seed(seed: int, *position: int | str) -> int:
    """An independent seed for each position in a study, the same in every process."""
    digest = hashlib.sha256(":".join(map(str, (seed, *position))).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def build_sampler(spec: StudySpec, position: int) -> optuna.samplers.BaseSampler:
    """The sampler for the trial at this position.

    A sampler rebuilt with one seed draws the same points again, so its seed moves with the number of trials in
    storage; quasi-random and grid sequences, on the contrary, go on from storage and need one shared seed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the quasi-random one and TPE's groups, for years now
        return _sampler(spec, position)


def _sampler(spec: StudySpec, position: int) -> optuna.samplers.BaseSampler:
    shared = derive_seed(spec.seed, "sampler")
    moving = derive_seed(spec.seed, "sampler", position)
    match spec.sampler:
        case declared.TpeSampler(n_startup_trials=startup):
            # Multivariate TPE does not model parameters that are there only sometimes, unless they are grouped.
            conditional = any(parameter.when for parameter in spec.search_space.values())
            return optuna.samplers.TPESampler(
                n_startup_trials=startup, seed=moving, multivariate=True, group=conditional
            )
        case declared.RandomSampler():
            return optuna.samplers.RandomSampler(seed=moving)
        case declared.GpSampler(n_startup_trials=startup):
            return optuna.samplers.GPSampler(n_startup_trials=startup, seed=moving, warn_independent_sampling=False)
        case declared.CmaEsSampler(n_startup_trials=startup):
            return optuna.samplers.CmaEsSampler(n_startup_trials=startup, seed=moving, warn_independent_sampling=False)
        case declared.QmcSampler():
            return optuna.samplers.QMCSampler(
                scramble=True,
                seed=shared,
                # What Sobol points cannot place (categories) is drawn at random, with a seed that moves.
                independent_sampler=optuna.samplers.RandomSampler(seed=moving),
                warn_independent_sampling=False,
            )
        case declared.GridSampler():
            return _Grid(space.grid(spec), seed=shared)


class _Grid(optuna.samplers.GridSampler):
    """Stops no study, which it may only within `Study.optimize`: a study's budget knows how many points there are."""

    def after_trial(self, *args: Any, **kwargs: Any) -> None:
        pass


def build_pruner(spec: StudySpec) -> optuna.pruners.BasePruner:
    """The pruner; its steps are evaluations, k-ths of the training budget."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the patient one, for years now
        return _pruner(spec.pruner, max_resource=spec.training.num_evaluations)


def first_pruning(pruner: declared.Pruner) -> float:
    """The evaluation at which a pruner may stop a trial for the first time; infinite where it never does."""
    match pruner:
        case declared.NoPruner():
            return math.inf
        case declared.MedianPruner() | declared.PercentilePruner():
            return pruner.n_warmup_steps + 1
        case declared.SuccessiveHalvingPruner():
            return float(pruner.min_resource * pruner.reduction_factor**pruner.min_early_stopping_rate)
        case declared.HyperbandPruner():
            return pruner.min_resource
        case declared.PatientPruner(wrapped=declared.NoPruner()):
            return pruner.patience + 2  # the best one, and more than `patience` below it
        case declared.PatientPruner():
            return max(pruner.patience + 2, first_pruning(pruner.wrapped))


def _pruner(chosen: declared.Pruner, max_resource: int) -> optuna.pruners.BasePruner:
    match chosen:
        case declared.NoPruner():
            return optuna.pruners.NopPruner()
        case declared.MedianPruner() | declared.PercentilePruner():
            arguments = chosen.model_dump(exclude={"name", "percentile"})
            arguments["n_warmup_steps"] += 1  # Optuna's counts from step 0, our first evaluation is step 1
            percentile = chosen.percentile if isinstance(chosen, declared.PercentilePruner) else 50.0
            return optuna.pruners.PercentilePruner(percentile, **arguments)
        case declared.SuccessiveHalvingPruner():
            return optuna.pruners.SuccessiveHalvingPruner(**chosen.model_dump(exclude={"name"}))
        case declared.HyperbandPruner():
            return optuna.pruners.HyperbandPruner(**chosen.model_dump(exclude={"name"}), max_resource=max_resource)
        case declared.PatientPruner(wrapped=declared.NoPruner()):
            return optuna.pruners.PatientPruner(None, patience=chosen.patience, min_delta=chosen.min_delta)
        case declared.PatientPruner():
            return optuna.pruners.PatientPruner(
                _pruner(chosen.wrapped, max_resource), patience=chosen.patience, min_delta=chosen.min_delta
            )
