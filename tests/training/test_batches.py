"""Which examples stand in which batch, and how they are padded."""

from itertools import chain, combinations, islice, pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hpo.data.tokens import Tokens
from hpo.training.batches import BATCHES_PER_POOL, DeviceTokens, evaluation_order, padded_lengths, training_order

LENGTHS = np.random.default_rng(0).integers(3, 40, size=103)
PAD = 9


def as_lists(batches: list[NDArray[np.int64]]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def device_tokens(rows: list[list[int]], most_lengths: int = 16, multiple_of: int = 1) -> DeviceTokens:
    tokens = Tokens(
        input_ids=np.array(list(chain.from_iterable(rows)), dtype=np.int32),
        offsets=np.cumsum([0, *map(len, rows)]),
        labels=np.arange(len(rows)),
        n_truncated=0,
    )
    return DeviceTokens(tokens, PAD, "cpu", most_lengths, multiple_of)


def epochs(seed: int, n_batches: int) -> list[list[int]]:
    tokens = device_tokens([[1] * length for length in LENGTHS])
    batches = tokens.training_rows(10, np.random.default_rng(seed))
    return [rows.indices.tolist() for rows in islice(batches, n_batches)]


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [
        (10, [3, *[10] * 10]),  # 103 = 10 * 10 + 3
        (103, [103]),
        (200, [103]),
        (1, [1] * 103),  # three pools, of 50, 50 and 3
    ],
)
def test_every_example_once_an_epoch(batch_size: int, sizes: list[int]) -> None:
    batches = training_order(LENGTHS, batch_size, np.random.default_rng(0))
    assert sorted(len(batch) for batch in batches) == sizes
    assert sorted(np.concatenate(batches).tolist()) == list(range(103))


def test_what_is_left_over_is_of_like_lengths() -> None:
    """But where it goes round the end of the pool, one time in 25."""
    lengths = np.arange(100)
    left = [min(training_order(lengths, 48, np.random.default_rng(seed)), key=len) for seed in range(200)]
    spreads = [int(np.ptp(lengths[batch])) for batch in left]
    assert {len(batch) for batch in left} == {4} and set(spreads) == {3, 99}
    assert spreads.count(3) > 180


def test_what_is_left_over_is_drawn_at_random() -> None:
    """And not always the longest, which alone in a batch would weigh as much as ten others."""
    left = [min(training_order(LENGTHS, 10, np.random.default_rng(seed)), key=len) for seed in range(200)]
    assert {len(batch) for batch in left} == {3}
    times = np.bincount(np.concatenate(left), minlength=103)
    assert times.max() <= 20 and (times > 0).sum() > 90  # 600 draws of 103: about 6 each


def test_epochs_are_whole_and_differ() -> None:
    # Eleven batches an epoch.
    order = epochs(seed=3, n_batches=33)
    each = [order[0:11], order[11:22], order[22:33]]
    assert all(sorted(chain.from_iterable(epoch)) == list(range(103)) for epoch in each)
    sets = [{frozenset(batch) for batch in epoch} for epoch in each]
    assert sets[0] != sets[1] != sets[2] != sets[0]


def test_the_seed_makes_the_order() -> None:
    assert epochs(seed=3, n_batches=22) == epochs(seed=3, n_batches=22)
    assert epochs(seed=3, n_batches=22) != epochs(seed=4, n_batches=22)


def test_batches_are_of_similar_length_and_in_random_order() -> None:
    # Within a pool the lengths of one batch end where those of another start.
    assert len(LENGTHS) <= 10 * BATCHES_PER_POOL
    batches = [batch for batch in training_order(LENGTHS, 10, np.random.default_rng(0)) if len(batch) == 10]
    spans = [(int(LENGTHS[batch].min()), int(LENGTHS[batch].max())) for batch in batches]
    in_order = sorted(spans)
    assert all(before[1] <= after[0] for before, after in pairwise(in_order))
    assert spans != in_order


def test_evaluation_order() -> None:
    # Sorted by length; the three of length 5 keep their order, and no batch has two lengths.
    padded = np.array([5, 9, 3, 5, 3, 5])
    assert as_lists(evaluation_order(padded, 2)) == [[2, 4], [0, 3], [5], [1]]
    assert as_lists(evaluation_order(padded, 9)) == [[2, 4], [0, 3, 5], [1]]


ROWS = [[1, 2, 3], [4], [5, 6]]


def test_padding() -> None:
    tokens = device_tokens(ROWS)
    (rows,) = tokens.rows([np.array([2, 0, 1])])
    assert (len(rows), rows.length) == (3, 3)
    batch = tokens.gather(rows)
    assert batch["input_ids"].tolist() == [[5, 6, PAD], [1, 2, 3], [4, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [2, 0, 1]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_a_batch_is_padded_to_its_own_longest() -> None:
    tokens = device_tokens(ROWS)
    each = [tokens.gather(rows)["input_ids"].tolist() for rows in tokens.rows([np.array([1]), np.array([2, 1])])]
    assert each == [[[4]], [[5, 6], [4, PAD]]]


def test_padding_to_a_multiple() -> None:
    tokens = device_tokens(ROWS, multiple_of=4)
    (rows,) = tokens.rows([np.array([2, 0])])
    assert tokens.gather(rows)["input_ids"].tolist() == [[5, 6, PAD, PAD], [1, 2, 3, PAD]]
    assert tokens.gather(rows)["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]


def test_few_lengths_to_pad_to() -> None:
    tokens = device_tokens(ROWS, most_lengths=2)
    # 1 and 3: the one of length 2 is padded by one token. 2 and 3 would pad one token as well, and 3 alone three.
    found = [rows.length for rows in tokens.rows([np.array([row]) for row in range(3)])]
    assert found in ([3, 1, 3], [3, 2, 2])


@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("multiple_of", [1, 4])
def test_the_lengths_to_pad_to_need_the_least_padding(most: int, multiple_of: int) -> None:
    """Against every other choice."""
    lengths = np.random.default_rng(0).geometric(0.12, size=200).clip(max=14) + 2

    def padding(chosen: tuple[int, ...] | NDArray[np.int64]) -> int:
        to = np.sort(np.array(chosen))
        return int((to[np.searchsorted(to, lengths)] - lengths).sum())

    possible = sorted(set((-(-lengths // multiple_of) * multiple_of).tolist()))
    found = padded_lengths(lengths, most, multiple_of)
    assert len(found) == min(most, len(possible)) and set(found.tolist()) <= set(possible)
    others = combinations(possible[:-1], min(most, len(possible)) - 1)
    assert padding(found) == min(padding((*other, possible[-1])) for other in others)


def test_what_is_known_of_the_texts() -> None:
    tokens = device_tokens([[7, 2, 7], [2, 5]])
    assert (len(tokens), tokens.lengths.tolist(), tokens.token_ids.tolist()) == (2, [3, 2], [2, 5, 7])
