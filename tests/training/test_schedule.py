"""The seven schedules at each step, against numbers worked out by hand."""

import itertools
from itertools import pairwise
from math import sqrt
from typing import get_args

import numpy as np
import pytest

from hpo.training.schedule import learning_rates, num_warmup_steps
from hpo.training_spec import SchedulerType, TrainingSpec

PEAK = 2.0


def factors(name: str, num_training_steps: int, warmup_ratio: float) -> list[float]:
    """The learning rate of each step, as a share of the peak."""
    training = TrainingSpec.model_validate(
        {"lr_scheduler_type": name, "learning_rate": PEAK, "warmup_ratio": warmup_ratio}
    )
    return [rate / PEAK for rate in learning_rates(training, num_training_steps)]


HALF_ROOT = sqrt(0.5)  # cos 45°
BY_HAND: list[tuple[str, int, float, list[float]]] = [
    # Falls by a fifth of the peak a step.
    ("linear", 5, 0.0, [1.0, 0.8, 0.6, 0.4, 0.2]),
    # int(0.2 * 10) = 2 steps of warm-up, then (10 - t) / 8.
    ("linear", 10, 0.2, [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
    # (1 + cos(180° t/6)) / 2: cos 30° = sqrt(3)/2, cos 60° = 1/2.
    ("cosine", 6, 0.0, [1.0, 0.5 + sqrt(3) / 4, 0.75, 0.5, 0.25, 0.5 - sqrt(3) / 4]),
    # int(0.3 * 5) = 1, then the quarters of half a wave: cos 0°, 45°, 90°, 135°.
    ("cosine", 5, 0.3, [0.0, 1.0, (1 + HALF_ROOT) / 2, 0.5, (1 - HALF_ROOT) / 2]),
    # Two half waves of three steps each: cos 0°, 60°, 120°, and again.
    ("cosine_with_restarts", 6, 0.0, [1.0, 0.75, 0.25, 1.0, 0.75, 0.25]),
    # int(0.3 * 8) = 2, then as above.
    ("cosine_with_restarts", 8, 0.3, [0.0, 0.5, 1.0, 0.75, 0.25, 1.0, 0.75, 0.25]),
    # (1 - t/4)^2.
    ("polynomial", 4, 0.0, [1.0, 0.5625, 0.25, 0.0625]),
    # int(0.2 * 5) = 1, then (1 - (t-1)/4)^2.
    ("polynomial", 5, 0.2, [0.0, 1.0, 0.5625, 0.25, 0.0625]),
    ("constant_with_warmup", 3, 0.0, [1.0, 1.0, 1.0]),
    ("constant_with_warmup", 5, 0.5, [0.0, 0.5, 1.0, 1.0, 1.0]),
    # Four steps of warm-up are also its time scale: sqrt(4/t).
    ("inverse_sqrt", 10, 0.4, [0.0, 0.25, 0.5, 0.75, 1.0, *(2 / sqrt(t) for t in (5, 6, 7, 8)), 2 / 3]),
    # Without warm-up the time scale is a tenth of the steps, here 3: sqrt(3/(t+3)); a half at 9, a third at 24.
    ("inverse_sqrt", 30, 0.0, [sqrt(3 / (t + 3)) for t in range(9)] + [0.5]),
    ("inverse_sqrt", 30, 0.0, [sqrt(3 / (t + 3)) for t in range(24)] + [1 / 3]),
    # A tenth of four steps is none, so one: sqrt(1/(t+1)).
    ("inverse_sqrt", 4, 0.0, [1.0, sqrt(1 / 2), sqrt(1 / 3), 0.5]),
    # Two up, six at the peak, the last fifth (two) down half a wave: cos 0°, 90°.
    ("warmup_stable_decay", 10, 0.2, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]),
    # The last fifth is four steps: cos 0°, 45°, 90°, 135°.
    ("warmup_stable_decay", 20, 0.0, [1.0] * 17 + [(1 + HALF_ROOT) / 2, 0.5, (1 - HALF_ROOT) / 2]),
    # int(0.95 * 10) = 9 steps up leave one for the decay, which starts at the peak.
    ("warmup_stable_decay", 10, 0.95, [*(t / 9 for t in range(9)), 1.0]),
]


@pytest.mark.parametrize(("name", "num_training_steps", "warmup_ratio", "expected"), BY_HAND)
def test_by_hand(name: str, num_training_steps: int, warmup_ratio: float, expected: list[float]) -> None:
    assert factors(name, num_training_steps, warmup_ratio)[: len(expected)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", get_args(SchedulerType))
def test_a_little_more_warm_up_changes_little(name: str) -> None:
    """A searched `warmup_ratio` has no cliff, such as the one of upstream's inverse_sqrt between none and one step."""
    means = [float(np.mean(factors(name, 94, warmup / 94))) for warmup in range(19)]
    assert max(abs(before - after) for before, after in pairwise(means)) < 0.04


def test_every_schedule_of_the_spec_is_here() -> None:
    assert {name for name, *_ in BY_HAND} == set(get_args(SchedulerType))


@pytest.mark.parametrize("name", get_args(SchedulerType))
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.06, 0.99])
def test_a_single_step_is_at_the_peak(name: str, warmup_ratio: float) -> None:
    # int(0.99 * 1) = 0 steps of warm-up.
    assert factors(name, 1, warmup_ratio) == [1.0]


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.06])
def test_no_two_types_are_the_same(warmup_ratio: float) -> None:
    seven = {name: factors(name, 50, warmup_ratio) for name in get_args(SchedulerType)}
    same = [(a, b) for a, b in itertools.combinations(seven, 2) if seven[a] == pytest.approx(seven[b], abs=1e-3)]
    assert same == []


@pytest.mark.parametrize("name", get_args(SchedulerType))
def test_every_type_warms_up(name: str) -> None:
    # int(0.1 * 50) = 5.
    assert factors(name, 50, 0.1)[:6] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(("ratio", "steps", "expected"), [(0.0, 100, 0), (0.06, 100, 6), (0.06, 16, 0), (0.99, 3, 2)])
def test_num_warmup_steps(ratio: float, steps: int, expected: int) -> None:
    # 0.06 * 16 = 0.96 and 0.99 * 3 = 2.97, both rounded down.
    assert num_warmup_steps(TrainingSpec(warmup_ratio=ratio), steps) == expected
