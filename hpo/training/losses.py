"""What is minimized: functions of logits and batch."""

import torch
from torch.nn import functional

from hpo.training.batches import Batch


def cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The mean cross-entropy of `logits` [batch, classes] against `labels` [batch], computed in float32."""
    return functional.cross_entropy(logits.float(), batch["labels"])
