"""The arithmetic of holding out, against hand-made rows; what it makes of a study's data is in `test_splits.py`."""

import random

import numpy as np
import pytest

from hpo.data.hold_out import contained_phrases, stratified_sample, whole_sentences


def phrases(*texts: str) -> list[tuple[str, ...]]:
    return [tuple(text.split()) for text in texts]


def test_contained_phrases() -> None:
    rows = phrases("a b c d", "b c", "a c", "d", "c d e", "a b c d", "b c d", "x")
    assert contained_phrases(rows, rows) == set(phrases("b c", "d", "b c d"))


def test_words_are_whole_and_contiguous() -> None:
    assert contained_phrases(phrases("good", "not good", "a film"), phrases("goods not so good a filmed")) == {
        ("good",)
    }


def test_a_phrase_is_not_contained_in_itself() -> None:
    assert contained_phrases(phrases("a b"), phrases("a b")) == set()


def test_whole_sentences_stand_in_no_other_row() -> None:
    rows = phrases("a b c", "b c", "twice", "d e", "twice", "c d")
    assert whole_sentences(rows).tolist() == [0, 3, 5]


def test_containment_against_the_plain_definition() -> None:
    draw = random.Random(0)
    rows = [tuple(draw.choices("abc", k=draw.randint(1, 7))) for _ in range(300)]
    spaced = {row: f" {' '.join(row)} " for row in rows}
    plain = {row for row in rows if any(other != row and spaced[row] in spaced[other] for other in rows)}
    assert contained_phrases(rows, rows) == plain


@pytest.mark.parametrize(
    ("labels", "size", "expected"),
    [
        ([0] * 6 + [1] * 4, 5, [3, 2]),
        ([0] * 5 + [1] * 5, 5, [3, 2]),  # a tie goes to the lower class
        ([0] * 7 + [1] * 2 + [2], 4, [2, 1, 1]),  # quotas 2.8, 0.8, 0.4: the rare class takes one from the largest
        ([0] * 98 + [1] * 2, 10, [9, 1]),
        ([0] * 3 + [1] * 2, 5, [3, 2]),
        ([0, 1, 2], 2, [1, 1, 0]),
    ],
)
def test_stratified_sample(labels: list[int], size: int, expected: list[int]) -> None:
    drawn = stratified_sample(np.array(labels), size, np.random.default_rng(0))
    assert np.bincount(np.array(labels)[drawn], minlength=len(expected)).tolist() == expected
    assert drawn.tolist() == sorted(set(drawn.tolist()))
