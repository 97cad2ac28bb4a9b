"""The statistics of the benchmarks against numbers worked out by hand, and what a fresh process is asked for."""

from functools import partial

import pytest

from benchmarks.contestants import Clock, num_training_steps
from benchmarks.measure import Spread, difference, interleaved, machine, ratios, run_module, spread
from benchmarks.table import ratio_row


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(median=2.5, low=1.0, high=10.0, n=4)


def test_ratios_are_taken_within_a_round() -> None:
    """The second round was on a machine twice as slow: the ratio of the medians would be 1.5."""
    assert ratios([4.0, 2.0], [2.0, 1.0]) == Spread(median=2.0, low=2.0, high=2.0, n=2)
    with pytest.raises(ValueError):
        ratios([1.0, 2.0], [1.0])


def test_the_difference_of_two_means_by_hand() -> None:
    """Means 82 and 80, variances 1 and 4: the standard error is sqrt(1/3 + 4/3)."""
    found = difference([81.0, 82.0, 83.0], [78.0, 80.0, 82.0])
    assert found.mean == 2.0
    assert found.standard_error == pytest.approx(1.2910, abs=1e-4)
    # t = 1.549 with Welch's 25 / 8.5 = 2.941 degrees of freedom
    assert found.p_value == pytest.approx(0.2209, abs=1e-4)
    assert (found.low + found.high) / 2 == pytest.approx(2.0)
    assert found.low < 0 < found.high
    assert found.within_noise


def test_a_difference_beyond_noise_is_told() -> None:
    assert not difference([90.0, 90.1, 90.2], [80.0, 80.1, 80.2]).within_noise


def test_means_without_any_spread_agree_only_if_they_are_equal() -> None:
    assert difference([80.0, 80.0], [80.0, 80.0]).within_noise
    assert not difference([80.0, 80.0], [80.5, 80.5]).within_noise


def test_contestants_take_turns() -> None:
    seen: list[tuple[str, int]] = []

    def measure(name: str, repeat: int) -> int:
        seen.append((name, repeat))
        return repeat

    results = interleaved({name: partial(measure, name) for name in "ab"}, repeats=2)
    assert seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert results == {"a": [0, 1], "b": [0, 1]}


@pytest.mark.parametrize(
    ("ours", "theirs", "higher_is_better", "result", "reached"),
    [
        ([200.0, 220.0], [100.0, 100.0], True, "2.10x (2.00 to 2.20)", True),
        ([200.0, 220.0], [100.0, 100.0], False, "0.48x (0.45 to 0.50)", False),
    ],
)
def test_a_row_says_how_many_times_better_we_are(
    ours: list[float], theirs: list[float], higher_is_better: bool, result: str, reached: bool
) -> None:
    row = ratio_row("speed", ours, theirs, "examples/s", higher_is_better=higher_is_better, goal=2.0)
    assert (row.result, row.reached, row.n, row.goal) == (result, reached, 2, "2x")
    assert (row.ours, row.theirs) == ("210 examples/s", "100 examples/s")


def test_a_process_is_measured_whole() -> None:
    done = run_module("calendar", "2026", "2")
    assert "February" in done.stdout
    assert done.seconds > 0
    assert 1 < done.peak_memory_mib < 1_000


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"exit code 1:\n.*No module named"):
        run_module("benchmarks.nothing")


def test_the_machine_is_named() -> None:
    assert "cores in use" in machine()


def test_the_clock_leaves_the_first_steps_out(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 5.0, 10.0, 11.0, 12.0])
    monkeypatch.setattr("benchmarks.contestants.time.perf_counter", lambda: next(times))
    clock = Clock(warmup_steps=2)
    for step in range(1, 5):
        clock(step)
    assert clock.examples_per_second(batch_size=32) == 2 * 32 / 2.0
    assert clock.step == 4


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 7), (0.5, 4), (0.01, 1), (3 / 7, 3)])
def test_steps_are_counted_as_a_trial_counts_them(epochs: float, steps: int) -> None:
    assert num_training_steps(epochs, num_rows=200, batch_size=32) == steps
