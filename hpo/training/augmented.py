"""The train split with its words augmented anew for every epoch, in the place of the tokens as they are.

Nothing else knows of it: it gives the same batches as `DeviceTokens`, from the same memory, so that a captured step
reads what is there now. All that an epoch draws follows from the trial's seed, also where a trial is gone on with.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from hpo.data.augment import AUGMENTATIONS
from hpo.data.augment.base import Augmentation, Candidates, Indices, Request, Words
from hpo.data.inputs import encode
from hpo.data.splits import Split
from hpo.data.tokens import Tokens
from hpo.errors import DataError
from hpo.spec import ModelSpec
from hpo.training.batches import DeviceTokens, Rows, labels_of_tokens, training_order
from hpo.training.masked_words import predicted_words
from hpo.training.model import read_masked_language_model


class AugmentedTokens(DeviceTokens):
    """Tokens on the device that every epoch writes over."""

    def __init__(
        self,
        tokens: Tokens,
        augmentation: Augmentation,
        probability: float,
        pad_token_id: int,
        device: str,
        most_lengths: int,
        multiple_of: int = 1,
    ) -> None:
        """As `DeviceTokens`; the lengths that are padded to are those of the tokens as they are, the longest."""
        super().__init__(_copied(tokens), pad_token_id, device, most_lengths, multiple_of)
        self._augmentation, self._probability = augmentation, probability
        self._pad_to = np.unique(self.padded)
        self.token_ids = np.union1d(self.token_ids, augmentation.token_ids)

    def training_rows(self, batch_size: int, generator: np.random.Generator) -> Iterator[Rows]:
        """Epoch after epoch, each augmented and shuffled anew. The rows of one are gathered before those of the next.

        The order is drawn as it is without: augmentation has a stream of its own.
        """
        (draw,) = generator.spawn(1)
        while True:
            self._put(self._augmentation(self._probability, draw))
            yield from self.rows(training_order(self.lengths, batch_size, generator))

    def _put(self, tokens: Tokens) -> None:
        """There is room: no row is longer than it was."""
        self.lengths = tokens.lengths
        self.padded = self._pad_to[np.searchsorted(self._pad_to, tokens.lengths)]
        written: list[tuple[torch.Tensor | None, NDArray[Any] | None]] = [
            (self._input_ids, tokens.input_ids),
            (self._starts, tokens.offsets[:-1]),
            (self._lengths, tokens.lengths),
            (self._types, tokens.token_type_ids),
            (self._read, tokens.word_of),
            (self._labels, None if tokens.word_of is None else labels_of_tokens(tokens)),
        ]
        for kept, now in written:
            if kept is not None and now is not None:
                kept[: len(now)].copy_(torch.from_numpy(now))


def _copied(tokens: Tokens) -> Tokens:
    """On a CPU a tensor is the array that it is made from."""
    types, words = tokens.token_type_ids, tokens.word_of
    return replace(
        tokens,
        input_ids=tokens.input_ids.copy(),
        offsets=tokens.offsets.copy(),
        token_type_ids=None if types is None else types.copy(),
        word_of=None if words is None else words.copy(),
    )


@dataclass(frozen=True)
class Source:
    """The checkpoint that an augmentation may ask."""

    model: ModelSpec
    fingerprint: str
    device: str
    embeddings: torch.Tensor = field(compare=False)
    """[vocabulary, hidden]"""


@lru_cache(maxsize=4)
def build_augmentation(
    name: str, split: Split, tokens: Tokens, tokenizer: PreTrainedTokenizerBase, max_length: int, source: Source
) -> Augmentation:
    """The augmentation of that name, kept in the process for the trials to come.

    Args:
        tokens: of the split, as `max_length` cuts them.

    Raises:
        DataError: the texts have no words to augment, or the model is not one that can say others.
    """
    encoded = encode(tokenizer, split.inputs, split.form, max_length)
    rows = range(len(tokens))
    words = Words.of(tokens, map(encoded.word_ids, rows), map(encoded.sequence_ids, rows))
    if np.bincount(words.texts[words.texts >= 0], minlength=1).max() < 2:
        raise DataError(
            "training.augment_method changes single words, but the model's tokenizer takes each text for one. Choose "
            "another model, or augment_method: none or mixup."
        )
    known = len(source.embeddings)
    request = Request(
        tokens=tokens,
        words=words,
        vocabulary={token: index for token, index in tokenizer.get_vocab().items() if index < known},
        embeddings=lambda: _as_array(source.embeddings),
        predicted=partial(_predicted, tokens, words, tokenizer, source),
    )
    return AUGMENTATIONS[name].build(request)


def _as_array(embeddings: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = embeddings.numpy()
    return array


def _predicted(
    tokens: Tokens, words: Words, tokenizer: PreTrainedTokenizerBase, source: Source, among: Indices, count: int
) -> Candidates:
    model = read_masked_language_model(source.model)
    if tokenizer.mask_token_id is None:
        raise DataError(
            f"augment_method masked_model needs a tokenizer with a mask token, but that of `{source.model.name}` has "
            "none. Choose augment_method: neighbour, or another model."
        )
    model.requires_grad_(False).to(torch.device(source.device))  # type: ignore[arg-type]
    mask, pad = tokenizer.mask_token_id, tokenizer.pad_token_id
    return predicted_words(model, tokens, words, mask, pad, among, count)
