"""Words of one token, each replaced with a probability by one of a few others: what finds these is the difference."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hpo.data.augment.base import Candidates, Indices, Request
from hpo.data.tokens import Tokens
from hpo.errors import DataError

# Others for a word, of which each is as likely.
CANDIDATES = 5
# What begins a word in the vocabulary of a byte-level or a SentencePiece tokenizer; WordPiece marks what goes on.
BEGINS = ("Ġ", "▁")
GOES_ON = "##"


@dataclass(frozen=True)
class Replacement:
    """Puts other words in the place of some."""

    request: Request
    places: Indices
    """Tokens that have others."""
    others: Candidates
    """[places, candidates]"""

    @property
    def token_ids(self) -> NDArray[np.int32]:
        return np.unique(self.others)

    def __call__(self, probability: float, draw: np.random.Generator) -> Tokens:
        chosen = np.flatnonzero(draw.random(len(self.places)) < probability)
        ids = self.request.tokens.input_ids.copy()
        ids[self.places[chosen]] = self.others[chosen, draw.integers(self.others.shape[1], size=len(chosen))]
        return replace(self.request.tokens, input_ids=ids)


def replaceable(request: Request, whole: Indices) -> Indices:
    """The tokens of the split that are a free word each, and one of these ids.

    Raises:
        DataError: there is none, or no other for it.
    """
    found = np.flatnonzero(request.words.single & np.isin(request.tokens.input_ids, whole))
    if len(found) == 0 or len(whole) < 2:
        raise DataError(
            "augment_method neighbour and masked_model replace words that are one token each, but the tokenizer has "
            "no such words for the train split. Choose another model, or deletion or swap."
        )
    return found


def whole_words(vocabulary: Mapping[str, int]) -> Indices:
    """The ids that are a word of letters by themselves, not a part of one, sorted."""
    marked = any(token.startswith(BEGINS) for token in vocabulary)
    found = []
    for token, index in vocabulary.items():
        word = token.removeprefix(BEGINS[0]).removeprefix(BEGINS[1])
        begins = word != token if marked else not token.startswith(GOES_ON)
        if begins and word.isalpha():
            found.append(index)
    return np.array(sorted(found), dtype=np.int64)
