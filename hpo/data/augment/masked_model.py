"""Replacement by what the model itself would say there: its masked-language-model head's likeliest other words.

Each word is masked once, among a few of its row, before the training begins (Kobayashi 2018, Kumar et al. 2020, though
without the label: a word that carries it may be replaced by its opposite). Only a checkpoint that was saved with the
head can do it.
"""

from hpo.data.augment.base import AugmentationKind, Request
from hpo.data.augment.replacement import CANDIDATES, Replacement, replaceable, whole_words


def build(request: Request) -> Replacement:
    among = whole_words(request.vocabulary)
    places = replaceable(request, among)
    count = min(CANDIDATES, len(among) - 1)
    return Replacement(request, places, request.predicted(among, count)[places])


MASKED_MODEL = AugmentationKind(build, keeps_words=True)
