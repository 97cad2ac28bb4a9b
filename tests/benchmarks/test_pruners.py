"""The replay of recorded trials through Optuna's pruners, on trials whose times and scores are worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.pruners import (
    PRUNERS,
    STUDY,
    Recorded,
    draw,
    mean_curve,
    print_table,
    read_recorded,
    replay,
    replay_all,
    rises,
)
from hpo.spec import StudySpec
from hpo.study_file import read_study


def spec(pruner: str) -> StudySpec:
    return read_study(STUDY, [f"pruner={pruner}"])


# 10 s each: the default, a better one, one that is behind from the start, the best.
TRIALS = [
    Recorded(10.0, 2, (0.5, 0.6)),
    Recorded(10.0, 2, (0.6, 0.7)),
    Recorded(10.0, 2, (0.4, 0.9)),
    Recorded(10.0, 2, (0.7, 0.8)),
]


def test_without_a_pruner_every_trial_takes_its_time() -> None:
    found = replay(spec("{name: none}"), TRIALS, seconds=39.0, start=0.0)
    assert found.bests == ((10.0, 0.6), (20.0, 0.7), (30.0, 0.9))
    assert (found.begun, found.completed) == (4, 3)
    assert [found.best_at(at) for at in (10.0, 19.9, 39.0)] == [0.6, 0.6, 0.9]
    assert np.isnan(found.best_at(9.9))


def test_a_pruned_trial_takes_half_its_time_and_its_score_is_never_known() -> None:
    """The third is below the median of 0.5 and 0.6 after 5 s; the fourth then ends at 35 s instead of 40."""
    median = spec("{name: median, n_startup_trials: 2}")
    found = replay(median, [*TRIALS, TRIALS[0]], seconds=36.0, start=0.0)
    assert found.bests == ((10.0, 0.6), (20.0, 0.7), (35.0, 0.8))
    assert (found.begun, found.completed) == (5, 3)


def test_a_pruned_trial_has_had_its_whole_start() -> None:
    """Of 10 s 2 are its start, so that it is stopped after 2 + 4; the fourth ends at 36 s."""
    median = spec("{name: median, n_startup_trials: 2}")
    found = replay(median, [*TRIALS, TRIALS[0]], seconds=37.0, start=2.0)
    assert found.bests == ((10.0, 0.6), (20.0, 0.7), (36.0, 0.8))


def test_the_default_is_never_stopped() -> None:
    """As in `hpo.run`, though it falls below its own best, at which this pruner stops any other."""
    falling = Recorded(15.0, 3, (0.6, 0.5, 0.4))
    impatient = spec("{name: patient, patience: 0, wrapped: {name: none}}")
    found = replay(impatient, [falling, falling, TRIALS[1], TRIALS[0]], seconds=36.0, start=0.0)
    assert found.bests == ((15.0, 0.4), (35.0, 0.7))
    assert (found.begun, found.completed) == (4, 2)


def test_a_trial_that_diverged_ends_where_it_did() -> None:
    """In its second share, after 5 s more than its only score."""
    trials = [TRIALS[0], Recorded(10.0, 2, (0.9,)), Recorded(4.0, 1, ()), TRIALS[1], TRIALS[0]]
    found = replay(spec("{name: none}"), trials, seconds=34.5, start=0.0)
    assert found.bests == ((10.0, 0.6), (34.0, 0.7))
    assert (found.begun, found.completed) == (5, 2)


def test_trials_must_last() -> None:
    with pytest.raises(ValueError, match=r"4 trials must last for 41 s, but they are over after 40 s"):
        replay(spec("{name: none}"), TRIALS, seconds=41.0)


def test_only_what_is_better_than_all_before_counts() -> None:
    assert rises([(1.0, 0.5), (2.0, 0.4), (3.0, 0.6), (4.0, 0.6)]) == ((1.0, 0.5), (3.0, 0.6))


def test_the_mean_of_studies() -> None:
    first, second = (replay(spec("{name: none}"), trials, 35.0, start=0.0) for trials in (TRIALS, TRIALS[::-1]))
    # At 10, 20 and 30 s: 0.6, 0.7, 0.9 and 0.8, 0.9, 0.9.
    assert mean_curve([first, second], np.array([10.0, 20.0, 30.0])) == pytest.approx([0.7, 0.8, 0.9])


def test_every_pruner_is_replayed_on_the_trials_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    lines = ["seconds,shares,score_1,score_2,score_3,score_4", "10.0,4,0.5,0.6,0.7,0.75", "7.5,3,0.5,0.4,,"]
    for _ in range(10):
        lines.append(",".join(["10.0", "4", *(f"{score:.3f}" for score in generator.uniform(0.5, 0.9, 4))]))
    (tmp_path / "trials.csv").write_text("\n".join(lines) + "\n")
    recorded = read_recorded(tmp_path / "trials.csv")
    assert recorded[:2] == [Recorded(10.0, 4, (0.5, 0.6, 0.7, 0.75)), Recorded(7.5, 3, (0.5, 0.4))]
    found = replay_all(recorded, 80.0, seeds=2)
    assert list(found) == list(PRUNERS)
    for studies in found.values():  # each begins with the default, which runs to its end
        assert {study.bests[0][1] for study in studies} == {0.75}
        assert all(study.begun > study.completed >= 1 for study in studies)
    assert found["median"][0].begun > found["none"][0].begun
    print_table(found, 80.0)
    assert "successive-halving-2" in capsys.readouterr().out
    draw(found, 80.0, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
