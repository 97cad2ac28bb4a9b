"""Random deletion (EDA: Wei and Zou 2019): each word goes with the same probability."""

from dataclasses import dataclass

import numpy as np

from hpo.data.augment.base import Augmentation, AugmentationKind, Request
from hpo.data.tokens import Tokens


@dataclass(frozen=True)
class Deletion(Augmentation):
    """Leaves words out. A text of which none would be left stays as it is."""

    request: Request

    def __call__(self, probability: float, draw: np.random.Generator) -> Tokens:
        words = self.request.words
        goes = np.zeros(len(words.free), dtype=bool)
        goes[words.choice] = draw.random(len(words.choice)) < probability
        is_word = words.texts >= 0
        left = np.bincount(words.texts[is_word & ~goes], minlength=2 * len(self.request.tokens))
        goes &= left[np.maximum(words.texts, 0)] > 0
        return words.arranged(self.request.tokens, np.flatnonzero(~goes))


DELETION = AugmentationKind(Deletion, keeps_words=True)
