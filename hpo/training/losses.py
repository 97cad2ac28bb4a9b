"""What is minimized: functions of logits and batch."""

from collections.abc import Callable

import torch
from torch.nn import functional

from hpo.training.batches import Batch


def cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The mean cross-entropy of `logits` [batch, classes] against `labels` [batch], computed in float32.

    Of words, [batch, length, classes] against [batch, length], where -100 is left out.
    """
    return functional.cross_entropy(logits.float().flatten(0, -2), batch["labels"].flatten())


def binary_cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The mean over rows and classes of `logits` against `labels`, both [batch, classes], labels 0 or 1."""
    return functional.binary_cross_entropy_with_logits(logits.float(), batch["labels"].float())


def mean_squared_error(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Of `logits` [batch, 1] against `labels` [batch]."""
    return functional.mse_loss(logits.float().squeeze(-1), batch["labels"].float())


LOSSES: dict[str, Callable[[torch.Tensor, Batch], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "mean_squared_error": mean_squared_error,
}
