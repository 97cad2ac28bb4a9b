"""What holds wherever trials run."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from conftest import StudyMaker
from hpo import run
from hpo.errors import HpoError
from hpo.events import Evaluated, Event, StepDone, TrialEnded, TrialStarted
from hpo.executors import EXECUTORS
from hpo.lease import OWNER
from hpo.spec import StudySpec
from hpo.study_file import parse_study
from hpo.trial import checkpoint_path
from workers import begin, long, trials_of, wait_until_free


class Stopper:
    """Hears events, and says after some steps that the study has to stop."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.pressed = False

    def take(self, event: Event) -> None:
        self.events.append(event)
        self.pressed |= isinstance(event, StepDone) and event.step >= 100

    def check(self) -> None:
        if self.pressed:
            raise KeyboardInterrupt


@pytest.fixture(params=EXECUTORS)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param
    assert not [child for child in psutil.Process().children(recursive=True) if "ray" in child.name()]


def test_the_command_line_knows_them_all() -> None:
    assert tuple(EXECUTORS) == run.EXECUTORS


def test_one_after_the_other_is_for_one_worker(spec: StudySpec, output: Path) -> None:
    with pytest.raises(HpoError, match="one trial at a time, but got --workers 2"):
        EXECUTORS["serial"](spec, output, None, 2, lambda: None)


@pytest.mark.timeout(180)
def test_two_trials_run_one_after_the_other(raw_study: StudyMaker, output: Path, name: str) -> None:
    spec = parse_study(raw_study(n_trials=2, pruner={"name": "none"}), "x")
    job = begin(spec, output)
    events: list[Event] = []
    with EXECUTORS[name](spec, output, None, 1, lambda: None) as executor:
        executor.on_event = events.append
        for _ in range(2):
            wait_until_free(executor)
            assert (executor.free, executor.busy) == (1, 0)
            executor.submit(spec, job)
            if name != "serial":
                assert (executor.free, executor.busy) == (0, 1)
            while executor.busy:
                assert executor.wait(0.5) == []
    trials = trials_of(output, "tiny")
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    told = [(type(event), event.number) for event in events if not isinstance(event, StepDone | type(None))]  # type: ignore[union-attr]
    assert told == [(kind, number) for number in range(2) for kind in (TrialStarted, *[Evaluated] * 4, TrialEnded)]
    assert [e.step for e in events if isinstance(e, StepDone) and e.step == e.num_training_steps] == [30, 30]
    if name != "serial":
        assert not [trial for trial in trials if psutil.pid_exists(trial.user_attrs[OWNER]["pid"])]


@pytest.mark.timeout(180)
def test_a_trial_that_is_stopped_leaves_a_checkpoint(raw_study: StudyMaker, output: Path, name: str) -> None:
    spec = parse_study(long(raw_study, checkpoint_every=3600), "x")
    job, stopper = begin(spec, output), Stopper()
    with EXECUTORS[name](spec, output, None, 1, stopper.check) as executor:
        executor.on_event = stopper.take
        wait_until_free(executor)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(spec, job)
            while True:
                stopper.check()
                assert executor.busy
                assert executor.wait(0.5) == []
        assert executor.stop() == []
        assert executor.busy == 0
    (trial, *_) = trials_of(output)
    assert (trial.state.name, trial.user_attrs["result"]["reason"]) == ("FAIL", "interrupted")
    assert 100 <= trial.user_attrs["result"]["optimizer_steps"] < 600
    assert checkpoint_path(output / "long", 0).exists()
    assert isinstance(stopper.events[-1], TrialEnded)
