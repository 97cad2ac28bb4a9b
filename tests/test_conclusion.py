"""What finalists come to where the truth is known: many searches in which no configuration is better than another."""

import numpy as np
from numpy.typing import NDArray

from hpo.score_estimates import score_differences

CLASSES = ["negative", "positive"]
# Enough to tell 5 % from 10 %; rows, trials, finalists and seeds as a small study has them.
STUDIES, ROWS, TRIALS, FINALISTS, SEEDS = 200, 300, 12, 3, 4


def logits(generator: np.random.Generator, easy: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """[SEEDS, rows, 2] of one configuration: what is easy is so for all, and each seed has its luck."""
    seeds = generator.normal(0.8, 0.3, size=(SEEDS, 1)) + easy + generator.normal(0, 1, size=(SEEDS, len(labels)))
    toward = np.where(labels == 1, seeds, -seeds)
    return np.stack([-toward / 2, toward / 2], axis=2).astype(np.float32)


def accuracy(of: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """By seed."""
    scores: NDArray[np.float64] = (of.argmax(axis=2) == labels).mean(axis=1)
    return scores


def test_where_tuning_cannot_help_it_is_seldom_said_to() -> None:
    """The winner is chosen among equals, as a study chooses: by one seed, then by several, on validation."""
    claims, optimism = 0, []
    for number in range(STUDIES):
        generator = np.random.default_rng(number)
        labels, easy = generator.integers(2, size=(2, ROWS)), generator.normal(0, 1, size=(2, ROWS))
        searched = [accuracy(logits(generator, easy[0], labels[0]), labels[0])[0] for _ in range(TRIALS)]
        best = np.argsort(searched)[-FINALISTS:]
        means = {trial: accuracy(logits(generator, easy[0], labels[0]), labels[0]).mean() for trial in best}
        optimism.append(max(searched) - max(means.values()))
        winner, default = (logits(generator, easy[1], labels[1]) for _ in range(2))
        found = score_differences(winner, default, labels[1], CLASSES)["accuracy"]
        claims += found.value > 0 and found.p_value < 0.05
    assert np.mean(optimism) > 0.02  # what the search alone would have claimed
    # One side of 5 %: 2.5 % of 200 are 5, and more than 11 come in less than one of a hundred such tests.
    assert claims <= 11
