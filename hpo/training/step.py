"""One optimizer step: forward, backward, clip, update; on as many examples at once as the memory holds."""

import functools
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim import Optimizer

from hpo.training.batches import Batch, DeviceTokens, Rows, inputs_of
from hpo.training.device import Device
from hpo.training.objectives.base import Objective
from hpo.training.optimizer import clip_gradients, set_learning_rate


class Step:
    """The plain step, whose results every other way to compute it must give."""

    def __init__(
        self,
        model: nn.Module,
        tokens: DeviceTokens,
        objective: Objective,
        optimizer: Optimizer,
        max_grad_norm: float | None,
        device: Device,
    ) -> None:
        self.model, self.tokens, self.objective, self.device = model, tokens, objective, device
        self.optimizer, self.max_grad_norm = optimizer, max_grad_norm
        self.micro_batch_size: int | None = None
        """Examples that go through the model at once, after an out-of-memory error; None: the whole batch."""
        self.taken = 0
        """Optimizer steps, those before a checkpoint included."""

    def __call__(self, rows: Rows, learning_rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Trains on these examples. Returns their mean loss and the gradient's norm before clipping, on the device.

        An out-of-memory error halves the micro-batch and tries again: gradients add up to those of the whole batch, so
        the effective batch size and the result stay.

        Raises:
            torch.OutOfMemoryError: not even one example fits.
        """
        set_learning_rate(self.optimizer, learning_rate)
        wanted = min(self.micro_batch_size or len(rows), len(rows))
        loss, size = self.device.largest_that_fits(wanted, functools.partial(self._backward, rows))
        if size < wanted:
            self.micro_batch_size = size
        self.taken += 1
        return loss, self._update()

    def compute(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """The step as the device sees it: nothing is asked of it, so that it can be captured."""
        loss = self._backward(rows, len(rows))
        return loss, self._update()

    def _update(self) -> torch.Tensor:
        grad_norm = clip_gradients(self.optimizer, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # here, so that evaluation has the memory
        return grad_norm

    def _backward(self, rows: Rows, micro_batch_size: int) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)  # what a larger micro-batch may have left
        total: torch.Tensor | None = None
        whole = self.objective.prepare(self.tokens.gather(rows))
        for part in in_parts(whole, len(rows), micro_batch_size):
            loss = self.objective(self._forward, part, whole)
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _forward(self, batch: Batch) -> torch.Tensor:
        with self.device.autocast():
            logits: torch.Tensor = self.model(**inputs_of(batch)).logits
        return logits


def in_parts(whole: Batch, size: int, at_once: int) -> Iterator[Batch]:
    """A batch of `size` examples in parts of at most `at_once`; whole where all of it goes at once."""
    if at_once >= size:
        yield whole
        return
    for start in range(0, size, at_once):
        yield {name: tensor[start : start + at_once] for name, tensor in whole.items()}
