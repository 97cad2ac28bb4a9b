"""Replacement by a neighbour: the words whose embeddings in the model point most nearly the same way.

What others take from a thesaurus. Neighbours are words that stand in like places, not synonyms: opposites are among
them (`good`, `bad`), and a high probability may turn a label round.
"""

import numpy as np
from numpy.typing import NDArray

from hpo.data.augment.base import AugmentationKind, Candidates, Indices, Request
from hpo.data.augment.replacement import CANDIDATES, Replacement, replaceable, whole_words

# Words of which the similarities to all others are held at once.
AT_ONCE = 512


def neighbours(embeddings: NDArray[np.float32], of: Indices, among: Indices, count: int) -> Candidates:
    """[of, count] Of each id the nearest others among `among`, which has it too, by the cosine."""
    directions = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    found = np.empty((len(of), count), dtype=np.int32)
    for start in range(0, len(of), AT_ONCE):
        ids = of[start : start + AT_ONCE]
        similarity = directions[ids] @ directions[among].T
        similarity[np.arange(len(ids)), np.searchsorted(among, ids)] = -np.inf
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        first = np.argsort(-np.take_along_axis(similarity, nearest, axis=1), axis=1, kind="stable")
        found[start : start + AT_ONCE] = among[np.take_along_axis(nearest, first, axis=1)]
    return found


def build(request: Request) -> Replacement:
    among = whole_words(request.vocabulary)
    places = replaceable(request, among)
    ids, which = np.unique(request.tokens.input_ids[places], return_inverse=True)
    count = min(CANDIDATES, len(among) - 1)
    found = neighbours(request.embeddings(), ids.astype(np.int64), among, count)
    return Replacement(request, places, found[which])


NEIGHBOUR = AugmentationKind(build, keeps_words=True)
