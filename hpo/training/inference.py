"""What a model says of rows: the one loop without gradients, of an evaluation as of new rows."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from hpo.training.batches import Batch, DeviceTokens, evaluation_order, inputs_of
from hpo.training.device import Device


@torch.inference_mode()
def outputs_of(
    forward: Callable[[Batch], torch.Tensor],
    tokens: DeviceTokens,
    batch_size: int,
    device: Device,
    between_batches: Callable[[], None] = lambda: None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The outputs in the order in which they were computed, and of which rows they are.

    Args:
        forward: the logits [batch, ...] of what a model takes.
        batch_size: examples at once, at most; fewer where memory does not hold them.
    """

    def compute(size: int) -> tuple[torch.Tensor, NDArray[np.int64]]:
        logits, order = [], evaluation_order(tokens.padded, size)
        for rows in tokens.rows(order):
            between_batches()
            output = forward(inputs_of(tokens.gather(rows)))
            logits.append(tokens.outputs(output.float(), rows))
        return torch.cat(logits).cpu(), np.concatenate(order)

    (logits, seen), _ = device.largest_that_fits(batch_size, compute)
    assert len(seen) == len(tokens)
    return logits.numpy(), seen
