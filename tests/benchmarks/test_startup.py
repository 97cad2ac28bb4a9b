"""What is timed as the start of a trial is there once a trial."""

from benchmarks.startup import first_steps


def test_each_trial_has_its_first_step() -> None:
    seconds = first_steps(2)
    assert len(seconds) == 2 and all(each > 0 for each in seconds)
