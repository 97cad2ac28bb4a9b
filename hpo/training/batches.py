"""Batches by length: tokens once on the device, next to no padding, every example exactly once an epoch.

No loader processes and no copies: a batch is gathered where it is needed from an order that is sent once an epoch.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hpo.data.tokens import Tokens

Batch = dict[str, torch.Tensor]
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# What else is of each example: it goes where its example goes.
TARGETS = ("labels", "teacher_logits")
# The label of what is no word's first piece: losses leave it out.
IGNORED = -100
# Batches that are cut from one random draw sorted by length. Larger: less padding, less random.
BATCHES_PER_POOL = 50
# Lengths that batches are padded to. More: less padding, and more shapes, each of which takes memory and, once, time.
MOST_LENGTHS = 16
# Of an evaluation, whose batches have one length each: more would make them smaller than pays.
MOST_EVALUATION_LENGTHS = 8


def training_order(
    lengths: NDArray[np.int64], batch_size: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """One epoch's batches of example indices: random pools, sorted by length within, batches in random order.

    What is left over for a smaller batch comes from a random place in the last pool, round its end: were it always the
    end of it, the longest examples would weigh as much as several others, every epoch.
    """
    order, pool_size = generator.permutation(len(lengths)), batch_size * BATCHES_PER_POOL
    batches = []
    for start in range(0, len(order), pool_size):
        pool = order[start : start + pool_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        if rest := len(pool) % batch_size:
            left_over = (generator.integers(len(pool)) + np.arange(rest)) % len(pool)
            batches.append(pool[left_over])
            pool = np.delete(pool, left_over)
        batches += [pool[cut : cut + batch_size] for cut in range(0, len(pool), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def evaluation_order(padded: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Every example once, sorted by the length that it is padded to, which is one for a batch."""
    order = np.argsort(padded, kind="stable")
    same = np.split(order, np.flatnonzero(np.diff(padded[order])) + 1)
    return [part[start : start + batch_size] for part in same for start in range(0, len(part), batch_size)]


def padded_lengths(lengths: NDArray[np.int64], most: int, multiple_of: int = 1) -> NDArray[np.int64]:
    """The lengths to pad to, sorted: at most so many, chosen so that the least padding is needed.

    Every other shape of a batch costs memory and time once: the compiled products of a CPU, the captured step of a GPU.
    Each length goes to the next one of these. By dynamic programming over the distinct lengths.

    Args:
        lengths: of all examples.
        multiple_of: what the lengths to pad to must be multiples of.
    """
    rounded = -(-lengths // multiple_of) * multiple_of
    distinct, counts = np.unique(rounded, return_counts=True)
    if len(distinct) <= most:
        return distinct
    examples = np.concatenate([[0], np.cumsum(counts)])
    # padding[i, j]: of the distinct lengths from i on up to j, all padded to the j-th.
    padding = distinct[None, :] * (examples[1:][None, :] - examples[:-1][:, None])
    padding = np.where(np.tri(len(distinct), k=-1, dtype=bool), np.inf, padding)
    least, starts = padding[0], []  # of padding the lengths up to j with one, two, ... lengths to pad to
    for _ in range(most - 1):
        extended = np.concatenate([[np.inf], least[:-1]])[:, None] + padding
        starts.append(extended.argmin(axis=0))
        least = extended.min(axis=0)
    chosen = [len(distinct) - 1]
    for start in reversed(starts):
        chosen.append(int(start[chosen[-1]]) - 1)
    return distinct[chosen[::-1]]


@dataclass(frozen=True)
class Rows:
    """Which examples a batch is made of, known to the host without asking the device."""

    indices: torch.Tensor
    """[batch] int64, on the device."""
    length: int
    """To which they are padded, in tokens."""

    def __len__(self) -> int:
        return len(self.indices)


class DeviceTokens:
    """A tokenized split on the device, flat with offsets, from which batches are gathered."""

    def __init__(self, tokens: Tokens, pad_token_id: int, device: str, most_lengths: int, multiple_of: int = 1) -> None:
        """Copies the tokens there.

        Args:
            most_lengths: how many different lengths batches may be padded to.
            multiple_of: what they must be multiples of.
        """
        self.lengths = tokens.lengths
        """[examples] In tokens."""
        self.labels = tokens.labels
        """[examples], each as the task encodes it."""
        self.n_truncated = tokens.n_truncated
        self.token_ids = np.unique(tokens.input_ids)
        """The distinct ones, sorted."""
        self._pad = pad_token_id
        pad_to = padded_lengths(tokens.lengths, most_lengths, multiple_of)
        self.padded = pad_to[np.searchsorted(pad_to, tokens.lengths)]
        """[examples] The length that each is padded to, alone."""
        self._input_ids = torch.from_numpy(tokens.input_ids).to(device)
        self._starts = torch.from_numpy(tokens.offsets[:-1]).to(device)
        self._lengths = torch.from_numpy(self.lengths).to(device)
        self._positions = torch.arange(pad_to[-1], device=device)
        self._types = None if tokens.token_type_ids is None else torch.from_numpy(tokens.token_type_ids).to(device)
        self._read = None if tokens.word_of is None else torch.from_numpy(tokens.word_of).to(device)
        """Where a word is read, by token: its number in the example; else -1."""
        self.outputs_of = np.ones(len(self.lengths), dtype=np.int64)
        """[examples] How many outputs each has: one, or one for each of its words."""
        if tokens.word_of is None:
            self._labels = torch.tensor(self.labels, device=device)
        else:
            self.outputs_of = np.array([len(words) for words in self.labels], dtype=np.int64)
            self._labels = torch.from_numpy(labels_of_tokens(tokens)).to(device)
        self._taught: tuple[torch.Tensor, torch.Tensor] | None = None
        """[outputs, classes] What teachers say, and [examples] where that of each begins."""

    def taught_by(self, outputs: NDArray[np.float32]) -> "DeviceTokens":
        """The same, with what teachers say [examples, classes], or of words, in the order of the examples."""
        taught = copy.copy(self)
        first, device = torch.from_numpy(np.cumsum(self.outputs_of) - self.outputs_of), self._starts.device
        taught._taught = torch.from_numpy(outputs).to(device), first.to(device)
        return taught

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def learned_labels(self) -> NDArray[Any]:
        """[examples, ...], or [words of all examples]: what the loss is held against, cut off or not."""
        return self.labels if self._read is None else np.concatenate(self.labels)

    def rows(self, order: Iterable[NDArray[np.int64]]) -> Iterator[Rows]:
        """The batches of an order, which is sent to the device as one."""
        batches = list(order)
        sent = torch.from_numpy(np.concatenate(batches)).to(self._starts.device)
        for indices, part in zip(sent.split([len(batch) for batch in batches]), batches, strict=True):
            yield Rows(indices, int(self.padded[part].max()))

    def training_rows(self, batch_size: int, generator: np.random.Generator) -> Iterator[Rows]:
        """Epoch after epoch, each shuffled anew."""
        while True:
            yield from self.rows(training_order(self.lengths, batch_size, generator))

    def gather(self, rows: Rows) -> Batch:
        """Pads the examples to the longest of them.

        Returns:
            `input_ids` and `attention_mask` [batch, length] int64, of pairs also `token_type_ids`, and `labels`, on the
            device: [batch, ...], or [batch, length] where words are read and -100 elsewhere. With teachers also
            `teacher_logits`, with classes behind that, and NaN in the place of -100.
        """
        mask, at = self._places(rows)
        labels = self._labels[rows.indices] if self._read is None else torch.where(mask, self._labels[at], IGNORED)
        batch = {
            "input_ids": torch.where(mask, self._input_ids[at], self._pad).long(),
            "attention_mask": mask.long(),
            "labels": labels,
        }
        if self._types is not None:
            batch["token_type_ids"] = torch.where(mask, self._types[at], 0).long()
        if self._taught is not None:
            batch["teacher_logits"] = self._told(*self._taught, rows, mask, at)
        return batch

    def _told(
        self, taught: torch.Tensor, firsts: torch.Tensor, rows: Rows, mask: torch.Tensor, at: torch.Tensor
    ) -> torch.Tensor:
        """[batch, classes], or [batch, length, classes] where words are read."""
        first = firsts[rows.indices]
        if self._read is None:
            return taught[first]
        words = torch.where(mask, self._read[at], -1)
        return torch.where((words >= 0)[..., None], taught[first[:, None] + words.clamp(min=0)], torch.nan)

    def outputs(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """What a head says of these rows: its logits [batch, classes], or those of words, one row after another.

        A word that truncation cut off has logits of 0, the first class's by a hair: nothing is known of it.

        Args:
            logits: [batch, classes], or [batch, length, classes] where words are read.
        """
        if self._read is None:
            return logits
        mask, at = self._places(rows)
        words = torch.where(mask, self._read[at], -1)
        counts = torch.from_numpy(self.outputs_of[rows.indices.cpu().numpy()]).to(logits.device)
        starts = (counts.cumsum(0) - counts)[:, None]
        found = logits.new_zeros(int(counts.sum()), logits.shape[-1])
        found[(starts + words)[words >= 0]] = logits[words >= 0]
        return found

    def in_order(self, outputs: NDArray[np.float32], seen: NDArray[np.int64]) -> NDArray[np.float32]:
        """Outputs of the examples `seen`, one after another, in the order of the examples."""
        starts = np.cumsum(self.outputs_of) - self.outputs_of
        counts = self.outputs_of[seen]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        ordered = np.empty_like(outputs)
        ordered[np.repeat(starts[seen], counts) + within] = outputs
        return ordered

    def _places(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, length] Where a token stands, and which of all it is."""
        positions = self._positions[: rows.length]
        mask = positions < self._lengths[rows.indices][:, None]
        # Beyond its end a row would reach into the next one, and the last one out of the tokens.
        return mask, torch.where(mask, self._starts[rows.indices][:, None] + positions, 0)


def inputs_of(batch: Batch) -> Batch:
    """What of a batch a model takes."""
    return {name: tensor for name, tensor in batch.items() if name in MODEL_INPUTS}


def labels_of_tokens(tokens: Tokens) -> NDArray[np.int64]:
    """By token: the label of the word that is read there, or what the loss leaves out."""
    assert tokens.word_of is not None
    lengths = [len(words) for words in tokens.labels]
    starts = np.repeat(np.cumsum(lengths) - lengths, tokens.lengths)
    flat = np.concatenate(tokens.labels)
    return np.where(tokens.word_of >= 0, flat[starts + np.maximum(tokens.word_of, 0)], IGNORED)
