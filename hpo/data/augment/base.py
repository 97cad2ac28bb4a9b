"""What an augmentation is: other words for the train split's, anew for every epoch, under the labels that it has.

All of it works on token ids, word by word: what tokens may come up is known before the training, and a whole split
takes some milliseconds. Arrays only, so that a study file is checked without torch.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpo.data.tokens import Tokens

Indices = NDArray[np.int64]
# Of token ids, in which rank they are likely or near: [tokens, candidates].
Candidates = NDArray[np.int32]
# The class of a word that is part of nothing: every task that labels words has it first (`tasks.token_classification`).
OUTSIDE = 0


@dataclass(frozen=True, eq=False)
class Words:
    """The tokens of a split as units, one after another: words of one token or more, and special tokens."""

    starts: Indices
    """[units] The first token of each."""
    lengths: Indices
    """[units] In tokens."""
    rows: Indices
    """[units] The row that each is of."""
    texts: Indices
    """[units] The text that each is of, of which a pair has two, numbered through the split; of special tokens -1."""
    free: NDArray[np.bool_]
    """[units] Whether it is a word that may be another one, or go: no special token, and of labelled words only `O`."""

    @classmethod
    def of(
        cls, tokens: Tokens, word_ids: Iterable[list[int | None]], sequence_ids: Iterable[list[int | None]]
    ) -> "Words":
        """
        Args:
            word_ids: by row, the tokenizer's word of each token, counted in each text; None of special tokens.
            sequence_ids: by row, which text of the row each token is of.
        """
        number = np.array([-1 if word is None else word for row in word_ids for word in row], dtype=np.int64)
        part = np.array([0 if text is None else text for row in sequence_ids for text in row], dtype=np.int64)
        assert len(number) == len(tokens.input_ids)
        row = np.repeat(np.arange(len(tokens)), tokens.lengths)
        text = np.where(number < 0, -1, 2 * row + part)
        goes_on = (number[1:] == number[:-1]) & (text[1:] == text[:-1]) & (number[1:] >= 0)
        starts = np.flatnonzero(np.concatenate([[True], ~goes_on]))
        free = number[starts] >= 0
        if tokens.word_of is not None:
            first = np.cumsum([0, *map(len, tokens.labels)])[row[starts]]
            labels: NDArray[Any] = np.concatenate(tokens.labels)[first + np.maximum(number[starts], 0)]
            free &= labels == OUTSIDE
        return cls(starts, np.diff(np.append(starts, len(number))), row[starts], text[starts], free)

    @cached_property
    def choice(self) -> Indices:
        """The units that are free."""
        return np.flatnonzero(self.free)

    @cached_property
    def single(self) -> NDArray[np.bool_]:
        """[tokens] Whether it is all of a free word."""
        found = np.zeros(int(self.lengths.sum()), dtype=bool)
        found[self.starts[self.free & (self.lengths == 1)]] = True
        return found

    def arranged(self, tokens: Tokens, units: Indices) -> Tokens:
        """The tokens of these units, in this order; rows stay in theirs, and each keeps its labels."""
        lengths = self.lengths[units]
        ends = np.cumsum(lengths)
        at = np.arange(ends[-1]) + np.repeat(self.starts[units] - ends + lengths, lengths)
        by_row = np.bincount(self.rows[units], weights=lengths, minlength=len(tokens)).astype(np.int64)
        return replace(
            tokens,
            input_ids=tokens.input_ids[at],
            offsets=np.concatenate([[0], np.cumsum(by_row)]),
            token_type_ids=None if tokens.token_type_ids is None else tokens.token_type_ids[at],
            word_of=None if tokens.word_of is None else tokens.word_of[at],
        )


@dataclass(frozen=True)
class Request:
    """What an augmentation is made from."""

    tokens: Tokens
    """Of the train split."""
    words: Words
    vocabulary: Mapping[str, int]
    """The tokenizer's."""
    embeddings: Callable[[], NDArray[np.float32]]
    """[vocabulary, hidden] The model's own, of words."""
    predicted: Callable[[Indices, int], Candidates]
    """Of the model's masked-language-model head: [tokens] of each single token the likeliest others among these ids, so
    many. Raises `DataError` where the checkpoint has no such head."""


class Augmentation(Protocol):
    """Makes an epoch's tokens of those of the train split. Made once for all trials, whatever their probability."""

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """Those that it may bring in and no row has: as a rule none."""
        return np.array([], dtype=np.int32)

    def __call__(self, probability: float, draw: np.random.Generator) -> Tokens:
        """As many rows, in their order, none longer than it was and none without a word.

        Args:
            probability: of each free word.
        """
        ...


@dataclass(frozen=True)
class AugmentationKind:
    """One of the registry."""

    build: Callable[[Request], Augmentation]
    keeps_words: bool
    """Whether a label of a word stays with it, so that it suits a task that labels words."""
