"""The learning rate over the steps of a run, by transformers' schedules with the shapes that `spec.py` documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

if TYPE_CHECKING:  # the GPU benchmark runs where there is no pydantic
    from hpo.training_spec import TrainingSpec

NUM_CYCLES = 2  # upstream's default of one cycle would make cosine_with_restarts the same as cosine
POWER = 2.0  # upstream's default of 1 would make polynomial the same as linear
DECAY_SHARE = 0.2  # of all steps, for warmup_stable_decay


def num_warmup_steps(training: TrainingSpec, num_training_steps: int) -> int:
    """Steps of warm-up, always fewer than all steps."""
    return int(training.warmup_ratio * num_training_steps)


def schedule_arguments(training: TrainingSpec, num_training_steps: int) -> Mapping[str, float]:
    """What upstream's schedules take beside the numbers of steps."""
    warmup = num_warmup_steps(training, num_training_steps)
    arguments: dict[str, dict[str, float]] = {
        "cosine_with_restarts": {"num_cycles": NUM_CYCLES},
        "polynomial": {"power": POWER, "lr_end": 0.0},
        # Upstream's time scale is the warm-up, or 10,000 steps without one: no decay at all in a short run, and with a
        # warm-up of one step hardly anything else.
        "inverse_sqrt": {"timescale": max(warmup, num_training_steps // 10, 1)},
        "warmup_stable_decay": {
            "num_decay_steps": min(max(1, round(DECAY_SHARE * num_training_steps)), num_training_steps - warmup)
        },
    }
    return arguments.get(training.lr_scheduler_type, {})


def learning_rates(training: TrainingSpec, num_training_steps: int) -> list[float]:
    """The learning rate of every optimizer step, by the schedule that `training.lr_scheduler_type` names.

    Known beforehand, so that a device need not be asked for it.
    """
    schedule = get_scheduler(
        training.lr_scheduler_type,
        SGD([torch.zeros(1)], lr=training.learning_rate),  # upstream's schedules need one to work on
        num_warmup_steps=num_warmup_steps(training, num_training_steps),
        num_training_steps=num_training_steps,
        scheduler_specific_kwargs=dict(schedule_arguments(training, num_training_steps)),
    )
    assert isinstance(schedule, LambdaLR)
    (factor,) = schedule.lr_lambdas
    return [training.learning_rate * float(factor(step)) for step in range(num_training_steps)]
