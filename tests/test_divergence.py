"""Which range makes trials diverge: worked out by hand."""

from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.divergence import what_diverges

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-6, 1.0, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
    "optimizer": CategoricalDistribution(["adamw", "sgd"]),
    "momentum": FloatDistribution(0.0, 1.0),
}


def trial(diverged: bool, state: TrialState | None = None, **params: Any) -> FrozenTrial:
    if state is None:
        state = TrialState.PRUNED if diverged else TrialState.COMPLETE
    return create_trial(
        state=state,
        value=0.5 if state == TrialState.COMPLETE else None,
        params=params,
        distributions={name: SPACE[name] for name in params},
        user_attrs={"result": {"state": state.name, "reason": "diverged" if diverged else None}},
    )


def rates(diverged: list[float], fine: list[float]) -> list[FrozenTrial]:
    return [trial(bad, learning_rate=rate) for bad, rates in ((True, diverged), (False, fine)) for rate in rates]


def test_a_range_that_holds_all_of_them_is_named() -> None:
    assert what_diverges(rates([0.1, 0.012, 0.5], [1e-4, 1e-3, 0.01])) == (
        "3 of 6 trials diverged: 3 of the 3 with learning_rate from 0.012 up, and no other. "
        "Set search_space.learning_rate.high below it."
    )


def test_from_below_too() -> None:
    trials = [trial(bad, dropout=value) for bad, value in ((True, 0.0), (True, 0.1), (False, 0.2), (False, 0.4))]
    assert what_diverges(trials) == (
        "2 of 4 trials diverged: 2 of the 2 with dropout up to 0.1, and no other. "
        "Set search_space.dropout.low above it."
    )


def test_the_best_of_those_that_hold_most_of_them() -> None:
    """From 0.1 up there are 4 that diverged and 1 that did not, and 1 outside: 2 wrong. From 0.3 up 2 are outside."""
    told = what_diverges(rates([0.1, 0.3, 0.4, 0.5, 1e-5], [0.2, 0.02, 0.01, 1e-3, 1e-4]))
    assert told is not None
    assert told.startswith("5 of 10 trials diverged: 4 of the 5 with learning_rate from 0.1 up, and 1 of the others.")


def test_a_choice_is_named() -> None:
    trials = [trial(True, optimizer="sgd", momentum=value) for value in (0.1, 0.9, 0.5)]
    trials += [trial(False, optimizer="adamw"), trial(False, optimizer="adamw"), trial(False, optimizer="adamw")]
    told = what_diverges([*trials, trial(False, optimizer="sgd", momentum=0.3)])
    assert told is None  # 3 of 7: not half
    told = what_diverges(trials)
    # The momentum tells them apart as well, but only because it is drawn beside sgd.
    assert told is not None
    assert "3 of the 3 with optimizer sgd, and no other. Take it out of search_space.optimizer.choices." in told


@pytest.mark.parametrize(
    "trials",
    [
        rates([0.1, 0.2], [0.01]),  # too few
        rates([0.1, 0.2], [0.01, 0.02, 0.03]),  # less than half
        [*rates([0.1, 0.2, 0.3], []), trial(True, TrialState.RUNNING, learning_rate=0.4)],
        [*rates([0.1, 0.2, 0.3], []), trial(False, TrialState.FAIL, learning_rate=0.4)],
    ],
)
def test_nothing_is_told_too_early(trials: list[FrozenTrial]) -> None:
    assert what_diverges(trials) is None


@pytest.mark.parametrize("trials", [rates([0.1, 1e-3, 1e-4, 1e-5], []), rates([0.1, 1e-5], [0.2, 1e-6])])
def test_where_nothing_separates_them_no_range_is_blamed(trials: list[FrozenTrial]) -> None:
    told = what_diverges(trials)
    assert told is not None and told.endswith(
        "whatever they drew. Lower the learning rate, or clip gradients (max_grad_norm)."
    )
