"""What a training minimizes: a number that is made of one or more forward passes through the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from transformers import PreTrainedModel

from hpo.training.batches import Batch
from hpo.training.losses import Loss

if TYPE_CHECKING:  # the GPU benchmark runs where there is no pydantic
    from hpo.training_spec import TrainingSpec

# The logits of a batch, or of what an objective makes of it.
Forward = Callable[[Batch], torch.Tensor]


class Objective(Protocol):
    """One thing to minimize. Each member that can be had beside others wraps another one, and calls it."""

    @property
    def capturable(self) -> bool:
        """Whether it asks nothing of the device, so that a CUDA graph can hold it."""
        ...

    def prepare(self, whole: Batch) -> Batch:
        """A whole batch, with what is drawn for it once, and goes with its examples where it is taken in parts."""
        ...

    def __call__(self, forward: Forward, part: Batch, whole: Batch) -> torch.Tensor:
        """What `part` adds to the loss of the `whole` batch: that of all parts is the sum of theirs."""
        ...


@dataclass(frozen=True)
class Around:
    """An objective that stands around another one; what it does not say itself, that one says."""

    inner: Objective

    @property
    def capturable(self) -> bool:
        return self.inner.capturable

    def prepare(self, whole: Batch) -> Batch:
        return self.inner.prepare(whole)


def noting(forward: Forward) -> tuple[Forward, list[torch.Tensor]]:
    """The same forward pass, and a list of what it has given, pass by pass."""
    given: list[torch.Tensor] = []

    def noted(batch: Batch) -> torch.Tensor:
        given.append(forward(batch))
        return given[-1]

    return noted, given


@dataclass(frozen=True)
class Context:
    """What objectives are made from."""

    loss: Loss
    training: TrainingSpec
    model: PreTrainedModel
    name: str
    """The model's, for what is said of it."""
