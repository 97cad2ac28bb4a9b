"""Whether a trial fits into the memory that its device has free: several workers may share a GPU.

What a trial takes is known from those before it. It reserves that in an attribute before it takes any, and says there
what it took once it has: nobody holds a lock while a model is loaded, and a dead trial reserves nothing.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial

from hpo.spec import TrialConfig
from hpo.training_spec import TrainingSpec

MEMORY = "memory"
# What an allocator has to fetch depends on what was freed before, and a process holds more of a GPU than its tensors.
HEADROOM = 1.2
# What a trial's memory depends on, beside the size of its batches.
KIND = ("optimizer", "precision", "activation_checkpointing", "eval_batch_size", "method", "num_trained_layers")
# And on whether these are on: a second pass that is held beside the first one, a second copy of the weights.
TWICE = ("r_drop_alpha", "ema_decay")


def reserved(place: str, mib: float | None) -> dict[str, Any]:
    """The attribute of a trial that is about to take so many MiB of a place; None: nobody knows how many."""
    return {"place": place, "expected_mib": mib}


def taken(place: str, mib: float) -> dict[str, Any]:
    """The attribute of a trial that has trained and been evaluated for the first time, and took so many MiB for it."""
    return {"place": place, "peak_mib": mib}


def expected_mib(trials: Iterable[FrozenTrial], config: TrialConfig) -> float | None:
    """MiB that a trial should find free, by what those of its kind took at their peaks; None if there are none.

    A larger batch is taken to need as much more as it is larger, and longer texts the square of that. Weights do not
    grow with either: it is too much rather than too little, until a trial of that size has shown what it takes.
    """
    wanted = config.model_dump(mode="json")
    peaks: dict[tuple[int, int], float] = {}
    for trial in trials:
        peak = trial.user_attrs.get(MEMORY, {}).get("peak_mib")
        if peak is not None and _kind(settings := trial.user_attrs["config"]) == _kind(wanted):
            size = _size(settings)
            peaks[size] = max(peak, peaks.get(size, 0.0))
    return min((HEADROOM * peak * _growth(size, _size(wanted)) for size, peak in peaks.items()), default=None)


def fits(running: Iterable[FrozenTrial], place: str, need_mib: float | None, available_mib: float) -> bool:
    """Whether a trial may start now, beside those that run at the same place.

    Args:
        running: the other trials of the study that run, wherever they do.
        need_mib: what it will take. If nobody knows, it waits until all others have taken what they need.
        available_mib: what it could hold now.
    """
    others = [held for trial in running if (held := trial.user_attrs.get(MEMORY, {})).get("place") == place]
    starting = [_mib(held["expected_mib"]) for held in others if "peak_mib" not in held]
    if not others or (need_mib is None and not starting):
        return True  # there will not be more, or nobody knows that it is too little
    # Those that start may have taken a part of it already, which counts twice then, but not for long.
    return _mib(need_mib) + sum(starting) <= available_mib


def _mib(expected: float | None) -> float:
    return math.inf if expected is None else expected


def _growth(size: tuple[int, int], wanted: tuple[int, int]) -> float:
    (batch, length), (wanted_batch, wanted_length) = size, wanted
    return max(1.0, wanted_batch / batch) * max(1.0, wanted_length / length) ** 2


def _kind(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    training = settings["training"]  # of a trial of an earlier version, perhaps, which had but the default
    given = {name: training.get(name, TrainingSpec.model_fields[name].default) for name in (*KIND, *TWICE)}
    return settings["model"], *(given[name] for name in KIND), *(bool(given[name]) for name in TWICE)


def _size(settings: Mapping[str, Any]) -> tuple[int, int]:
    return settings["training"]["train_batch_size"], settings["training"]["max_length"]
