"""Batches by length: no loader processes, next to no padding, every example exactly once an epoch."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from hpo.data.tokens import Tokens

Batch = dict[str, torch.Tensor]
# Batches that are cut from one random draw sorted by length. Larger: less padding, less random.
BATCHES_PER_POOL = 50


def training_order(
    lengths: NDArray[np.int64], batch_size: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """One epoch's batches of example indices: random pools, sorted by length within, batches in random order.

    What is left over for a smaller batch is drawn at random: the end of a sorted pool would be the longest examples,
    and each of them would weigh as much as several others, every epoch.
    """
    order, rest = np.split(generator.permutation(len(lengths)), [len(lengths) // batch_size * batch_size])
    pool_size = batch_size * BATCHES_PER_POOL
    batches = [rest] if len(rest) else []
    for start in range(0, len(order), pool_size):
        pool = order[start : start + pool_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[cut : cut + batch_size] for cut in range(0, len(pool), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def endless_training_order(
    lengths: NDArray[np.int64], batch_size: int, generator: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Epoch after epoch, each shuffled anew."""
    while True:
        yield from training_order(lengths, batch_size, generator)


def evaluation_order(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Every example once, sorted by length."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def collate(tokens: Tokens, indices: NDArray[np.int64], pad_token_id: int, device: str) -> Batch:
    """Pads the examples to the longest of them.

    Returns:
        `input_ids` and `attention_mask` [batch, length] int64, and `labels` [batch] int64, on the device.
    """
    lengths = tokens.lengths[indices]
    positions = np.arange(lengths.max())
    mask = positions[None, :] < lengths[:, None]
    input_ids = np.full(mask.shape, pad_token_id, dtype=np.int64)
    input_ids[mask] = np.concatenate(
        [tokens.input_ids[tokens.offsets[index] : tokens.offsets[index + 1]] for index in indices]
    )
    return {
        "input_ids": torch.from_numpy(input_ids).to(device, non_blocking=True),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(device, non_blocking=True),
        "labels": torch.from_numpy(tokens.labels[indices]).to(device, non_blocking=True),
    }
