"""Averaged weights: what is evaluated and exported may be the exponential moving average of what is trained.

The decay rises to its value over the first steps, or a short training would end with much of where it began.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


class Averages:
    """Of what a model trains; of nothing where there is no decay, at no cost."""

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self._decay = decay
        trained = model.parameters() if decay is not None else ()
        self._parameters = [parameter for parameter in trained if parameter.requires_grad]
        self._trained = [parameter.data for parameter in self._parameters]
        self.tensors = [tensor.clone() for tensor in self._trained]
        """In the order of the model's trained parameters. A checkpoint keeps them beside what is trained."""

    def update(self, step: int) -> None:
        """After the `step`-th optimizer step. Nothing waits for a GPU."""
        if self._decay is not None and self.tensors:
            torch._foreach_lerp_(self.tensors, self._trained, 1.0 - decay_at(step, self._decay))

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """The model computes with the averages within; what is trained stays where it is, and comes back."""
        try:
            for parameter, average in zip(self._parameters, self.tensors, strict=True):
                parameter.data = average
            yield
        finally:
            for parameter, trained in zip(self._parameters, self._trained, strict=True):
                parameter.data = trained

    def restore(self, tensors: Iterable[torch.Tensor]) -> None:
        """Puts back what a checkpoint kept."""
        for tensor, kept in zip(self.tensors, tensors, strict=True):
            tensor.copy_(kept)

    def settle(self) -> None:
        """Leaves the model with the averages for good. Ends the training."""
        for tensor, average in zip(self._trained, self.tensors, strict=True):
            tensor.copy_(average)
        self._parameters, self._trained, self.tensors = [], [], []


def decay_at(step: int, decay: float) -> float:
    """Of the `step`-th update, from 1: TensorFlow's `num_updates` rule, that of many others since."""
    return min(decay, (1 + step) / (10 + step))


def average_of(values: Sequence[float], decay: float | None) -> float:
    """What becomes of a weight that has these values, before the first step and after each; without decay the last."""
    if decay is None:
        return values[-1]
    average = values[0]
    for step, value in enumerate(values[1:], start=1):
        average += (1.0 - decay_at(step, decay)) * (value - average)
    return average
