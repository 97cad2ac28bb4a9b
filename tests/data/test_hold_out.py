"""The arithmetic of holding out, against hand-made rows; what it makes of a study's data is in `test_splits.py`."""

import numpy as np
import pytest

from hpo.data.hold_out import stratified_sample, whole_sentences


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
