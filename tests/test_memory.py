"""How much memory a trial is believed to take, and whether it may start beside others: numbers worked out by hand."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, create_trial

from conftest import StudyMaker
from hpo import space
from hpo.events import Event, StepDone, TrialEnded, Waits
from hpo.memory import MEMORY, expected_mib, fits, reserved, taken
from hpo.spec import StudySpec, TrialConfig
from hpo.storage import open_storage
from hpo.study import open_study
from hpo.study_file import parse_study
from hpo.training.device import choose_device
from hpo.trial import place_of
from hpo.tune import tune
from test_tune import Recorder
from workers import long, trials_of


def config(spec: StudySpec, **settings: Any) -> TrialConfig:
    drawn = space.trial_config(spec, space.default_params(spec), seed=0)
    return drawn.model_copy(update={"training": drawn.training.model_copy(update=settings)})


def ran(made: TrialConfig, mib: float | None) -> FrozenTrial:
    """A trial as it is stored: one that ended before its first evaluation has not said what it took."""
    memory = reserved("here", None) if mib is None else taken("here", mib)
    attributes = {"config": made.model_dump(mode="json"), MEMORY: memory}
    return create_trial(state=optuna.trial.TrialState.FAIL, user_attrs=attributes)


class TestExpected:
    def test_a_trial_of_the_same_size(self, spec: StudySpec) -> None:
        trials = [ran(config(spec), 1000), ran(config(spec), 1500), ran(config(spec), None), create_trial(value=1.0)]
        assert expected_mib(trials, config(spec)) == pytest.approx(1.2 * 1500)

    @pytest.mark.parametrize(
        ("settings", "factor"),
        [
            ({"train_batch_size": 32}, 2),
            ({"max_length": 48}, 2.25),
            ({"train_batch_size": 64, "max_length": 48}, 9),
            ({"train_batch_size": 8}, 1),  # weights do not shrink
            ({"train_batch_size": 32, "max_length": 16}, 2),
            ({"learning_rate": 1.0, "dropout": 0.5}, 1),
        ],
    )
    def test_a_trial_of_another_size(self, spec: StudySpec, settings: dict[str, Any], factor: float) -> None:
        trials = [ran(config(spec, train_batch_size=16, max_length=32), 1000)]
        assert expected_mib(trials, config(spec, **settings)) == pytest.approx(1.2 * 1000 * factor)

    @pytest.mark.parametrize("settings", [{"r_drop_alpha": 1.0}, {"ema_decay": 0.9}])
    def test_a_second_pass_or_copy_is_of_another_kind(self, spec: StudySpec, settings: dict[str, Any]) -> None:
        assert expected_mib([ran(config(spec), 1000)], config(spec, **settings)) is None
        assert expected_mib([ran(config(spec, **settings), 1000)], config(spec)) is None
        ((name, value),) = settings.items()
        trials = [ran(config(spec, **settings), 1000)]
        assert expected_mib(trials, config(spec, **{name: value / 2})) == pytest.approx(1.2 * 1000)

    def test_the_nearest_size_says_most(self, spec: StudySpec) -> None:
        trials = [ran(config(spec, train_batch_size=size), mib) for size, mib in ((8, 1000), (32, 1400), (128, 3000))]
        assert expected_mib(trials, config(spec, train_batch_size=64)) == pytest.approx(1.2 * 2800)
        assert expected_mib(trials, config(spec, train_batch_size=128)) == pytest.approx(1.2 * 3000)

    @pytest.mark.parametrize(
        "settings",
        [{"optimizer": "sgd"}, {"activation_checkpointing": True}, {"eval_batch_size": 7}, {"method": "lora"}],
    )
    def test_a_trial_of_another_kind_says_nothing(self, spec: StudySpec, settings: dict[str, Any]) -> None:
        assert expected_mib([ran(config(spec), 1000)], config(spec, **settings)) is None
        other = config(spec).model_copy(update={"model": spec.model.model_copy(update={"name": "another"})})
        assert expected_mib([ran(config(spec), 1000)], other) is None


def test_a_trial_of_an_earlier_version_had_the_default_method(spec: StudySpec) -> None:
    earlier = ran(config(spec), 1000)
    del earlier.user_attrs["config"]["training"]["method"]
    assert expected_mib([earlier], config(spec)) == pytest.approx(1200)
    assert expected_mib([earlier], config(spec, method="lora")) is None


def beside(*memories: dict[str, Any]) -> list[FrozenTrial]:
    return [create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={MEMORY: memory}) for memory in memories]


@pytest.mark.parametrize(
    ("running", "need", "available", "may_start"),
    [
        ([], 100, 1, True),  # alone it will never have more
        ([], None, 1, True),
        (beside(taken("there", 50)), 100, 1, True),
        (beside(reserved("there", None)), 100, 1, True),
        (beside(taken("here", 50)), 100, 100, True),
        (beside(taken("here", 50)), 100, 99, False),
        (beside(taken("here", 50), reserved("here", 30)), 100, 130, True),
        (beside(taken("here", 50), reserved("here", 30)), 100, 129, False),
        (beside(reserved("here", 30), reserved("here", 31), reserved("there", 90)), 100, 160, False),
        (beside(reserved("here", None)), 100, 10**9, False),  # nobody knows what it will take
        (beside(taken("here", 50)), None, 1, True),
        (beside(taken("here", 50), reserved("here", 30)), None, 10**9, False),
        (beside({}), 100, 1, True),  # one that waits as well, and has nothing yet
    ],
)
def test_fits(running: list[FrozenTrial], need: float | None, available: float, may_start: bool) -> None:
    assert fits(running, "here", need, available) is may_start


@pytest.mark.timeout(180)
def test_a_trial_waits_for_the_memory_that_another_one_has(raw_study: StudyMaker, output: Path) -> None:
    """Two workers, and trials of which each is known to need more than the whole machine: they run in turn."""
    spec = parse_study(long(raw_study, n_trials=4, trial_timeout=60), "x")
    study = open_study(spec, open_storage(output))
    known = create_trial(
        value=0.5,
        user_attrs={
            "config": config(spec).model_dump(mode="json"),
            MEMORY: taken(place_of(choose_device("fp32")), 2**30),
            "result": {"state": "COMPLETE"},
        },
    )
    study.add_trial(known)
    recorder = Recorder()
    tune(spec, output, recorder, workers=2)
    trials = [trial for trial in trials_of(output) if trial.number != 1]
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert {trial.user_attrs[MEMORY]["place"] for trial in trials} == {place_of(choose_device("fp32"))}
    assert all(50 < trial.user_attrs[MEMORY]["peak_mib"] < 2**20 for trial in trials)
    waited = [event for event in recorder.events if isinstance(event, Waits)]
    assert waited and all(event.need_mib == pytest.approx(1.2 * 2**30) for event in waited)
    assert turns(recorder.events) == [trial.number for trial in sorted(trials, key=lambda t: t.datetime_complete or 0)]


def turns(events: list[Event]) -> list[int]:
    """Whose steps were told, one after the other; a trial that had two turns is there twice."""
    told = [event.number for event in events if isinstance(event, StepDone | TrialEnded)]
    return [number for at, number in enumerate(told) if at == 0 or told[at - 1] != number]
