"""Adam (Kingma and Ba 2015), whose weight decay is part of the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.optim import Adam, Optimizer

from hpo.training.optimizers.base import OptimizerKind, Request, adam_arguments

if TYPE_CHECKING:  # the GPU benchmark runs where there is no pydantic
    from hpo.training_spec import TrainingSpec


def build(request: Request) -> Optimizer:
    arguments = adam_arguments(request.training)
    return Adam(request.groups, lr=request.lr, fused=True, capturable=request.capturable, **arguments)


def decays_in_proportion(training: TrainingSpec) -> bool:
    """The decay is normalized as a gradient is, so that small and large weights shrink alike."""
    return training.weight_decay == 0.0


ADAM = OptimizerKind(build, capturable=True, decays_in_proportion=decays_in_proportion)
