"""Texts that two lists share nearly or in part: equal but for spelling, near duplicates, and one within the other.

A text is its words here: case, punctuation and white space do not count. Every function is exact, not approximate, and
takes each text once, however often it stands there.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Words = tuple[str, ...]
Kind = Literal["equal", "near", "contained", "containing"]
KINDS: dict[Kind, str] = {
    "equal": "equal but for case and punctuation",
    "near": "near duplicates",
    "contained": "contained in one",
    "containing": "containing one",
}
"""In words, the closest first."""
JACCARD = 0.8
"""Of the sets of words, from there on two texts are near duplicates. With one word of ten replaced it is 0.82."""
CONTAINED_WORDS = 5
"""A shorter text may stand within another by chance: of SST-2's phrases of 3 words and more 2.1 % stand in 5,000
unrelated reviews, from 4 words on 0.7 %, from 5 on 0.2 %."""
# Japanese and Chinese put no space between words: there a character is one.
_APOSTROPHES = str.maketrans("", "", "'’`´")  # `can't` is one word
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_CELLS = 20_000_000  # of the product of a block of rows with the others, so that it fits into memory
_PAIRS = 200_000  # compared at once


@dataclass(frozen=True)
class Related:
    """Those of two lists of texts that have a relative in the other."""

    rows: dict[Words, tuple[Words, float]]
    """Of the first list: each with its most similar relative, and their Jaccard similarity."""
    others: set[Words]
    """Of the second list."""


def words_of(text: str) -> Words:
    """The words of a text, in lower case and without punctuation; a text of punctuation only is one word."""
    return tuple(_WORD.findall(text.casefold().translate(_APOSTROPHES))) or (" ".join(text.split()),)


def relations(rows: Sequence[Words], others: Sequence[Words]) -> dict[Kind, Related]:
    """The relatives of each kind, the closest kind first; a text that has several kinds is in each of them."""
    first, second = dict.fromkeys(rows), dict.fromkeys(others)  # each once, in a fixed order
    equal = [words for words in first if words in second]
    contained, containing = contained_in(first, second, CONTAINED_WORDS), contained_in(second, first, CONTAINED_WORDS)
    return {
        "equal": Related({words: (words, 1.0) for words in equal}, set(equal)),
        "near": near_duplicates(list(first), list(second)),
        "contained": _related(contained),
        "containing": _related((long, short) for short, long in containing),
    }


def kinds(rows: Sequence[Words], related: dict[Kind, Related]) -> list[Kind | None]:
    """Of each row the closest kind that it has a relative of."""
    return [next((kind for kind, found in related.items() if words in found.rows), None) for words in rows]


def jaccard(one: Words, other: Words) -> float:
    """The share of words that two texts have in common, of those that either has."""
    return len({*one} & {*other}) / len({*one} | {*other})


def near_duplicates(rows: Sequence[Words], others: Sequence[Words]) -> Related:
    """Pairs whose sets of words have a Jaccard similarity of `JACCARD` or more.

    Two such sets share one of the rarest words of each: of n words, one of the n - ceil(JACCARD * n) + 1 rarest (prefix
    filtering; Chaudhuri et al. 2006). So only pairs that share one of these are compared.
    """
    if not rows or not others:
        return Related({}, set())
    sets = _by_rarity([*rows, *others])
    size = np.diff(sets.indptr)
    rarest = _first_words(sets, size - np.ceil(JACCARD * size - 1e-9).astype(np.int64) + 1)
    best: dict[int, tuple[int, float]] = {}
    touched: set[int] = set()
    for row, other in _candidates(rarest[: len(rows)], rarest[len(rows) :]):
        second = other + len(rows)
        similar_size = np.minimum(size[row], size[second]) >= JACCARD * np.maximum(size[row], size[second]) - 1e-9
        row, other, second = row[similar_size], other[similar_size], second[similar_size]
        common = np.asarray(sets[row].multiply(sets[second]).sum(axis=1)).ravel()
        similarity = common / (size[row] + size[second] - common)
        for at in np.flatnonzero(similarity >= JACCARD - 1e-9):
            touched.add(int(other[at]))
            if similarity[at] > best.get(int(row[at]), (0, 0.0))[1]:
                best[int(row[at])] = int(other[at]), float(similarity[at])
    return Related(
        {rows[row]: (others[of], found) for row, (of, found) in best.items()}, {others[of] for of in touched}
    )


def _by_rarity(texts: Sequence[Words]) -> Any:
    """A sparse matrix of ones, a row a text and a column a word, the rarest word first."""
    from sklearn.feature_extraction.text import CountVectorizer  # a second: who compares nothing does without it

    sets = CountVectorizer(analyzer=tuple, binary=True, dtype=np.int32).fit_transform(texts)
    order = np.argsort(np.asarray(sets.sum(axis=0)).ravel(), kind="stable")
    sets = sets[:, order].tocsr()
    sets.sort_indices()
    return sets


def _first_words(sets: Any, count: Any) -> Any:
    """The same matrix with the first so many words of each row only."""
    from scipy.sparse import csr_matrix

    size = np.diff(sets.indptr)
    place = np.arange(sets.nnz) - np.repeat(sets.indptr[:-1], size)
    kept = place < np.repeat(count, size)
    starts = np.concatenate([[0], np.cumsum(count)])
    return csr_matrix((sets.data[kept], sets.indices[kept], starts), shape=sets.shape)


def _candidates(rows: Any, others: Any) -> Iterator[tuple[Any, Any]]:
    """The numbers of rows and others that have a word in common, some at a time."""
    by_word = others.T.tocsr()
    step = max(1, _CELLS // others.shape[0])
    for start in range(0, rows.shape[0], step):
        shared = (rows[start : start + step] @ by_word).tocoo()
        for at in range(0, shared.nnz, _PAIRS):
            yield shared.row[at : at + _PAIRS] + start, shared.col[at : at + _PAIRS]


def _related(pairs: Iterable[tuple[Words, Words]]) -> Related:
    best: dict[Words, tuple[Words, float]] = {}
    others = set()
    for row, other in pairs:
        others.add(other)
        if (similarity := jaccard(row, other)) > best.get(row, (row, 0.0))[1]:
            best[row] = other, similarity
    return Related(best, others)


def contained_in(phrases: Iterable[Words], rows: Iterable[Words], fewest: int = 1) -> Iterator[tuple[Words, Words]]:
    """Each of `phrases` with so many words or more, with a longer one of `rows`, wherever it stands there unbroken.

    Phrases that the rest of a row begins with are all in one place of the sorted ones: the last that is not behind the
    rest, or what that itself begins with. So it costs little where many begin alike, as with one prompt before each.
    """
    known = sorted({phrase for phrase in phrases if len(phrase) >= fewest})
    heads = {phrase[:fewest] for phrase in known}
    beginning = _beginnings(known)
    for row in rows:
        for start in range(len(row) - fewest + 1):
            if row[start : start + fewest] not in heads:
                continue
            rest = row[start:]
            before = bisect_right(known, rest)
            phrase = known[before - 1] if before else None
            while phrase is not None:
                if len(phrase) < len(row) and rest[: len(phrase)] == phrase:
                    yield phrase, row
                phrase = beginning[phrase]


def _beginnings(known: Sequence[Words]) -> dict[Words, Words | None]:
    """For each of the sorted phrases the longest other one that it begins with."""
    found: dict[Words, Words | None] = {}
    open_ones: list[Words] = []  # each begins with the one before it
    for phrase in known:
        while open_ones and phrase[: len(open_ones[-1])] != open_ones[-1]:
            open_ones.pop()
        found[phrase] = open_ones[-1] if open_ones else None
        open_ones.append(phrase)
    return found
