"""Batches by length: tokens once on the device, next to no padding, every example exactly once an epoch.

No loader processes and no copies: a batch is gathered where it is needed from an order that is sent once an epoch.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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


def evaluation_order(lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Every example once, sorted by length."""
    order = np.argsort(lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@dataclass(frozen=True)
class Rows:
    """Which examples a batch is made of, known to the host without asking the device."""

    indices: torch.Tensor
    """[batch] int64, on the device."""
    length: int
    """To which they are padded, in tokens."""

    def __len__(self) -> int:
        return len(self.indices)

    def split(self, size: int) -> "list[Rows]":
        """In parts of at most `size` examples."""
        return [Rows(part, self.length) for part in self.indices.split(size)]


class DeviceTokens:
    """A tokenized split on the device, flat with offsets, from which batches are gathered."""

    def __init__(self, tokens: Tokens, pad_token_id: int, device: str, pad_to_multiple_of: int = 1) -> None:
        """Copies the tokens there.

        Args:
            pad_to_multiple_of: 1 pads a batch to its longest example; more makes fewer shapes.
        """
        self.lengths = tokens.lengths
        self.labels = tokens.labels
        self.n_truncated = tokens.n_truncated
        self.token_ids = np.unique(tokens.input_ids)
        """The distinct ones, sorted."""
        self._pad, self._multiple = pad_token_id, pad_to_multiple_of
        self._input_ids = torch.from_numpy(tokens.input_ids).to(device)
        self._starts = torch.from_numpy(tokens.offsets[:-1]).to(device)
        self._lengths = torch.from_numpy(self.lengths).to(device)
        self._labels = torch.tensor(self.labels, device=device)
        self._positions = torch.arange(self._padded(int(self.lengths.max())), device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, order: Iterable[NDArray[np.int64]]) -> Iterator[Rows]:
        """The batches of an order, which is sent to the device as one."""
        batches = list(order)
        sent = torch.from_numpy(np.concatenate(batches)).to(self._starts.device)
        for indices, part in zip(sent.split([len(batch) for batch in batches]), batches, strict=True):
            yield Rows(indices, self._padded(int(self.lengths[part].max())))

    def training_rows(self, batch_size: int, generator: np.random.Generator) -> Iterator[Rows]:
        """Epoch after epoch, each shuffled anew."""
        while True:
            yield from self.rows(training_order(self.lengths, batch_size, generator))

    def gather(self, rows: Rows) -> Batch:
        """Pads the examples to the longest of them.

        Returns:
            `input_ids` and `attention_mask` [batch, length] int64, and `labels` [batch] int64, on the device.
        """
        positions = self._positions[: rows.length]
        mask = positions < self._lengths[rows.indices][:, None]
        # Beyond its end a row would reach into the next one, and the last one out of the tokens.
        at = torch.where(mask, self._starts[rows.indices][:, None] + positions, 0)
        return {
            "input_ids": torch.where(mask, self._input_ids[at], self._pad).long(),
            "attention_mask": mask.long(),
            "labels": self._labels[rows.indices],
        }

    def _padded(self, length: int) -> int:
        return -(-length // self._multiple) * self._multiple
