"""What winner and default get wrong, against numbers worked out by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hpo import mistakes
from hpo.data.splits import Split
from hpo.mistakes import MOST_CHARACTERS, MOST_SHOWN, mean_confusion
from hpo.results import Errors
from hpo.tasks.sequence_classification import SEQUENCE_CLASSIFICATION

CLASSES = ["negative", "positive"]
TEXTS = ["a", "b b", "c c c", "d d d d", "e e e e e"]
LABELS = np.array([0, 1, 1, 0, 1])


def find_errors(
    texts: list[str],
    labels: NDArray[np.int64],
    classes: list[str],
    winner: NDArray[np.float32],
    default: NDArray[np.float32] | None,
) -> Errors:
    """Of texts with one label each."""
    assert SEQUENCE_CLASSIFICATION.decisions
    outputs = (winner,) if default is None else (winner, default)
    rows = Split(tuple(texts), labels)
    return mistakes.find_errors(SEQUENCE_CLASSIFICATION.decisions(rows, labels, classes, outputs), texts)


def logits(*probabilities: list[float]) -> NDArray[np.float32]:
    """[seeds, rows, 2] of the positive class's probabilities, seed by seed."""
    positive = np.array(probabilities)
    both: NDArray[np.float32] = np.log(np.stack([1 - positive, positive], axis=2)).astype(np.float32)
    return both


# Rows right: seed 1 all but the last two, seed 2 all but the last.
WINNER = logits([0.1, 0.8, 0.9, 0.6, 0.05], [0.3, 0.6, 0.7, 0.1, 0.15])
# Rows right: the first and the last two, for both seeds.
DEFAULT = logits([0.2, 0.4, 0.3, 0.2, 0.9], [0.2, 0.4, 0.3, 0.4, 0.7])


def test_confusion_is_a_mean_over_the_seeds() -> None:
    # Seed 1: row 3 is called positive, row 4 negative. Seed 2: row 4 negative.
    assert mean_confusion(LABELS, WINNER) == [[1.5, 0.5], [1.0, 2.0]]
    assert find_errors(TEXTS, LABELS, CLASSES, WINNER, DEFAULT).confusion == [[1.5, 0.5], [1.0, 2.0]]


def test_the_most_confident_mistakes_come_first() -> None:
    errors = find_errors(TEXTS, LABELS, CLASSES, DEFAULT, WINNER)
    # Mean probability of the positive class: row 1 0.4, row 2 0.3: both called negative.
    assert [(each.row, each.label, each.predicted, each.wrong) for each in errors.mistakes] == [
        (2, "positive", "negative", 2),
        (1, "positive", "negative", 2),
    ]
    assert [each.probability for each in errors.mistakes] == pytest.approx([0.7, 0.6])
    assert errors.mistakes[0].text == "c c c"


def test_a_row_that_one_seed_gets_wrong_is_judged_by_the_mean() -> None:
    errors = find_errors(TEXTS, LABELS, CLASSES, WINNER, DEFAULT)
    assert [each.row for each in errors.mistakes] == [4]  # row 3: (0.6 + 0.1) / 2 is right
    assert errors.mistakes[0].probability == pytest.approx(0.9) and errors.mistakes[0].wrong == 2


def test_accuracy_by_class_and_by_length() -> None:
    errors = find_errors(TEXTS, LABELS, CLASSES, WINNER, DEFAULT)
    by_class = [(each.name, each.rows, each.winner, each.default) for each in errors.by_class]
    assert by_class == [("negative", 2, 0.75, 1.0), ("positive", 3, pytest.approx(2 / 3), pytest.approx(1 / 3))]
    assert [(each.name, each.rows) for each in errors.by_length] == [(str(words), 1) for words in range(1, 6)]
    assert [each.winner for each in errors.by_length] == [1.0, 1.0, 1.0, 0.5, 0.0]


def test_lengths_are_in_groups_of_about_as_many_rows() -> None:
    words = [1] * 60 + [2] * 20 + list(range(3, 23))
    texts, labels = [" ".join(["w"] * n) for n in words], np.zeros(100, dtype=np.int64)
    same = np.zeros((1, 100, 2), dtype=np.float32)
    groups = find_errors(texts, labels, CLASSES, same, same).by_length
    assert sum(group.rows for group in groups) == 100
    assert [(group.name, group.rows) for group in groups] == [("1", 60), ("2", 20), ("3 to 22", 20)]


def test_where_they_differ() -> None:
    errors = find_errors(TEXTS, LABELS, CLASSES, WINNER, DEFAULT)
    # By their means the winner is right on rows 0 to 3, the default on 0, 3 and 4.
    assert (errors.winner_only, errors.default_only) == (2, 1)
    # Probability of the label: row 4 0.1 against 0.8, row 2 0.8 against 0.3, row 1 0.7 against 0.4.
    assert [(each.row, round(each.winner, 6), round(each.default, 6)) for each in errors.disagreements] == [
        (4, 0.1, 0.8),
        (2, 0.8, 0.3),
        (1, 0.7, 0.4),
    ]


def test_without_a_default_they_are_the_winner_s() -> None:
    alone, both = (find_errors(TEXTS, LABELS, CLASSES, WINNER, default) for default in (None, DEFAULT))
    assert (alone.confusion, alone.mistakes) == (both.confusion, both.mistakes)
    assert [group.winner for group in alone.by_class] == [group.winner for group in both.by_class]
    assert {group.default for group in [*alone.by_class, *alone.by_length]} == {None}
    assert (alone.winner_only, alone.default_only, alone.disagreements) == (0, 0, [])


def test_long_lists_and_texts_are_cut_and_absent_classes_left_out() -> None:
    rows = 3 * MOST_SHOWN
    texts, labels = ["long " * 500] * rows, np.zeros(rows, dtype=np.int64)
    wrong = np.tile(np.array([[0.0, 1.0]], dtype=np.float32), (1, rows, 1))
    errors = find_errors(texts, labels, CLASSES, wrong, -wrong)
    assert len(errors.mistakes) == len(errors.disagreements) == MOST_SHOWN
    assert [each.row for each in errors.mistakes] == list(range(MOST_SHOWN))  # equally sure: in their order
    assert len(errors.mistakes[0].text) == MOST_CHARACTERS
    assert [group.name for group in errors.by_class] == ["negative"]
