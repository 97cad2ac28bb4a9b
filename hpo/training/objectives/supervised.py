"""The task's loss of one forward pass: what is inside every other objective."""

from dataclasses import dataclass

import torch

from hpo.training.batches import Batch
from hpo.training.losses import Loss
from hpo.training.objectives.base import Forward


@dataclass(frozen=True)
class Supervised:
    """Learns the labels."""

    loss: Loss
    capturable: bool = True

    def prepare(self, whole: Batch) -> Batch:
        return whole

    def __call__(self, forward: Forward, part: Batch, whole: Batch) -> torch.Tensor:
        return self.loss(forward(part), part, whole)
