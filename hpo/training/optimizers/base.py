"""What an optimizer must give the training."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

if TYPE_CHECKING:  # the GPU benchmark runs where there is no pydantic
    from hpo.training_spec import TrainingSpec

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Request:
    """What an optimizer is built from."""

    groups: Groups
    """Parameters with their `weight_decay`; an optimizer keeps whatever else a group says."""
    training: TrainingSpec
    lr: float | torch.Tensor
    """On a GPU, for an optimizer that is capturable, a tensor there: one captured step serves all learning rates."""
    hidden: Collection[nn.Parameter] = ()
    """Those of the groups' parameters that are matrices between the embeddings and the head."""

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph will hold the step, so that the number of steps must stand on the device too."""
        return isinstance(self.lr, torch.Tensor)


@dataclass(frozen=True)
class OptimizerKind:
    """One way to follow the gradient. Each member is a file of this folder."""

    build: Callable[[Request], Optimizer]
    capturable: bool
    """Its step asks nothing of the device, so that a CUDA graph can hold it."""
    decays_in_proportion: Callable[[TrainingSpec], bool]
    """Whether a row of a matrix that never has a gradient shrinks by a factor that is the same for all such rows, and
    changes nothing for the others. Then rows that no text needs are left out, exactly."""


def always(training: TrainingSpec) -> bool:
    """In proportion, whatever the settings are."""
    return True


def adam_arguments(training: TrainingSpec) -> dict[str, Any]:
    """What Adam and its kin take of the settings, as torch names it."""
    return {"betas": (training.adam_beta1, training.adam_beta2), "eps": training.adam_epsilon}
