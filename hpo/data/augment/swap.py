"""Random swap (EDA: Wei and Zou 2019): each word changes places with another one of its text, with a probability."""

from dataclasses import dataclass

import numpy as np

from hpo.data.augment.base import Augmentation, AugmentationKind, Request
from hpo.data.tokens import Tokens


@dataclass(frozen=True)
class Swap(Augmentation):
    """Swaps words, one pair after the other."""

    request: Request

    def __call__(self, probability: float, draw: np.random.Generator) -> Tokens:
        words = self.request.words
        chosen = words.choice[draw.random(len(words.choice)) < probability]
        texts = words.texts[words.choice]  # the words of a text stand together
        first = np.searchsorted(texts, words.texts[chosen])
        count = np.searchsorted(texts, words.texts[chosen], side="right") - first
        others = words.choice[first + draw.integers(count)]
        order = list(range(len(words.free)))
        for one, other in zip(chosen.tolist(), others.tolist(), strict=True):
            order[one], order[other] = order[other], order[one]
        return words.arranged(self.request.tokens, np.array(order))


SWAP = AugmentationKind(Swap, keeps_words=False)
