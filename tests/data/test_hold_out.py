"""The arithmetic of holding out, against hand-made rows; what it makes of a study's data is in `test_splits.py`."""

from itertools import pairwise

import numpy as np
import pytest

from hpo.data.hold_out import nested_sample, stratified_sample, whole_sentences


def test_whole_sentences_stand_in_no_other_row() -> None:
    rows = [tuple(text.split()) for text in ("a b c", "b c", "twice", "d e", "twice", "c d")]
    assert whole_sentences(rows).tolist() == [0, 3, 5]


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


def test_a_nested_sample_is_contained_in_every_larger_one() -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2])
    drawn = [set(nested_sample(labels, size, np.random.default_rng(3)).tolist()) for size in range(3, 92)]
    assert all(one < other for one, other in pairwise(drawn)) and len(drawn[-1]) == 91
    for size, sample in enumerate(drawn, 3):
        counts = np.bincount(labels[sorted(sample)], minlength=3)
        assert counts[2] == 1 and abs(counts[0] - 2 / 3 * (size - 1)) <= 1
    others = set(nested_sample(labels, 40, np.random.default_rng(4)).tolist())
    assert others != drawn[37]
