"""What a crash left behind, and what is tried again. Nothing is trained here."""

from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from hpo import space
from hpo.attempts import (
    INTERRUPTED,
    KILLED,
    RESUMED_STEP,
    end_dead_trials,
    failure_reason,
    first_attempt,
    is_retried,
    position_of,
    requeue,
)
from hpo.search import build_sampler
from hpo.spec import StudySpec
from hpo.storage import open_storage
from hpo.study import (
    next_position,
    open_study,
    remaining_trials,
    running_trials,
    settled_position,
)
from searching import CONDITIONAL, FINITE, NUMBERS, TRAINING, MakeSpec, after, points, run


class TestInterruption:
    @staticmethod
    def interrupt(study: optuna.Study, spec: StudySpec) -> optuna.Trial:
        """The next trial draws its point, and then nothing is heard of it."""
        study.sampler = build_sampler(spec, next_position(study))
        trial = study.ask()
        space.suggest(trial, spec)
        return trial

    def test_stale_trials_are_failed_and_others_left_alone(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        spec = make_spec()
        study = open_study(spec, storage)
        run(study, spec, 1)
        self.interrupt(study, spec)
        self.interrupt(study, spec)
        study.enqueue_trial({})
        assert end_dead_trials(study, running_trials(study)) == [1, 2]
        assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "FAIL", "WAITING"]
        assert end_dead_trials(study, running_trials(study)) == []

    def test_an_interrupted_trial_runs_once_more_with_its_point(
        self, make_spec: MakeSpec, storage: BaseStorage
    ) -> None:
        spec = make_spec(search_space=CONDITIONAL, training=TRAINING | {"max_grad_norm": None}, n_trials=3)
        study = open_study(spec, storage)
        interrupted = self.interrupt(study, spec)
        assert interrupted.params["max_grad_norm"] is None
        end_dead_trials(study, running_trials(study))
        requeue(study)
        requeue(study)  # not twice
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
        run(study, spec, 1)
        requeue(study)  # nor when it has run
        repeated = study.trials[1]
        assert repeated.params == interrupted.params
        assert repeated.user_attrs["retry_of"] == 0
        assert [first_attempt(study, trial) for trial in study.trials] == [0, 0]
        assert len(study.trials) == 2
        assert remaining_trials(study, spec) == 2

    @pytest.mark.parametrize("looks", range(6))
    def test_no_point_is_drawn_twice_when_a_trial_is_cut_short_just_now(
        self, make_spec: MakeSpec, storage: BaseStorage, monkeypatch: pytest.MonkeyPatch, looks: int
    ) -> None:
        """Whoever asks is told either of its retry, or a new point, whatever the moment."""
        spec = make_spec(n_trials=5, search_space=NUMBERS)
        study = open_study(spec, storage)
        first, second = (self.interrupt(study, spec) for _ in range(2))
        after(looks, monkeypatch, lambda: end_dead_trials(study, [study.trials[first.number]]))
        study.sampler = build_sampler(spec, settled_position(study))
        third = study.ask()
        space.suggest(third, spec)
        if third.user_attrs.get("retry_of") != first.number:
            assert third.params != second.params
        else:
            assert third.params == first.params

    def test_a_trial_interrupted_before_it_drew_keeps_what_was_queued(
        self, make_spec: MakeSpec, storage: BaseStorage
    ) -> None:
        spec = make_spec()
        study = open_study(spec, storage)
        study.ask()
        end_dead_trials(study, running_trials(study))
        requeue(study)
        run(study, spec, 1)
        assert study.trials[1].params == space.default_params(spec)

    def test_the_first_attempt_is_found_through_a_chain(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        spec = make_spec()
        study = open_study(spec, storage)
        run(study, spec, 1)
        point = self.interrupt(study, spec).params
        for _ in range(2):
            end_dead_trials(study, running_trials(study))
            requeue(study)
            self.interrupt(study, spec)
        assert [trial.params for trial in study.trials[1:]] == [point] * 3
        assert [first_attempt(study, trial) for trial in study.trials] == [0, 1, 1, 1]
        end_dead_trials(study, running_trials(study))
        requeue(study)
        run(study, spec, 2)
        assert [position_of(study, trial) for trial in study.trials] == [0, 1, 1, 1, 1, 2]
        assert next_position(study) == 3

    @pytest.mark.parametrize("name", ["tpe", "random", "gp", "qmc"])
    def test_the_points_after_an_interruption_are_those_that_would_have_come_without(
        self, make_spec: MakeSpec, tmp_path: Path, name: str
    ) -> None:
        """Not so CMA-ES, which counts its generations by trial numbers, nor the grid, whose order follows them."""
        startup = {"n_startup_trials": 3} if name in {"tpe", "gp"} else {}
        spec = make_spec(sampler={"name": name, **startup}, n_trials=8)
        for folder in ("whole", "stopped"):
            (tmp_path / folder).mkdir()
        whole, stopped = (open_study(spec, open_storage(tmp_path / folder)) for folder in ("whole", "stopped"))
        run(whole, spec, 8)
        for before in (0, 4, 0):
            run(stopped, spec, before)
            self.interrupt(stopped, spec)
            end_dead_trials(stopped, running_trials(stopped))
            requeue(stopped)
        run(stopped, spec, 4)
        ended = [trial.params for trial in stopped.trials if trial.state == TrialState.COMPLETE]
        assert ended == points(whole)

    @pytest.mark.parametrize("state", ["COMPLETE", "PRUNED"])
    def test_a_trial_whose_driver_died_before_its_end_was_told_is_repeated(
        self, make_spec: MakeSpec, storage: BaseStorage, state: str
    ) -> None:
        spec = make_spec(n_trials=1)
        study = open_study(spec, storage)
        self.interrupt(study, spec).set_user_attr("result", {"state": state, "reason": None})
        end_dead_trials(study, running_trials(study))
        assert failure_reason(study.trials[0]) == KILLED
        assert remaining_trials(study, spec) == 1
        requeue(study)
        assert len(study.trials) == 2

    @pytest.mark.parametrize("reason", ["crashed", "out_of_memory"])
    def test_a_trial_that_failed_by_itself_is_not_repeated(
        self, make_spec: MakeSpec, storage: BaseStorage, reason: str
    ) -> None:
        spec = make_spec()
        study = open_study(spec, storage)
        trial = self.interrupt(study, spec)
        trial.set_user_attr("result", {"state": "FAIL", "reason": reason})
        study.tell(trial, state=TrialState.FAIL)
        requeue(study)
        assert len(study.trials) == 1

    def test_whoever_is_killed_again_and_again_is_given_up(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        """As by the kernel, for its memory: after four attempts, of which none came further than the one before."""
        spec = make_spec(n_trials=1)
        study = open_study(spec, storage)
        for evaluations, retried in [(0, True), (2, True), (2, True), (5, True), (5, True), (5, True), (5, False)]:
            trial = self.interrupt(study, spec)
            for step in range(evaluations):
                trial.report(0.5, step + 1)
            end_dead_trials(study, running_trials(study))
            assert is_retried(study.trials[-1]) == retried
            requeue(study)
        assert remaining_trials(study, spec) == 0
        assert [trial.state.name for trial in study.trials] == ["FAIL"] * 7

    def test_whoever_goes_on_from_a_later_checkpoint_has_come_further(
        self, make_spec: MakeSpec, storage: BaseStorage
    ) -> None:
        spec = make_spec(n_trials=1)
        study = open_study(spec, storage)
        steps = [None, 100, 200, 300, 400, 400, 400, 400]
        for step, retried in zip(steps, [True] * 7 + [False], strict=True):
            trial = self.interrupt(study, spec)
            if step is not None:
                trial.set_user_attr(RESUMED_STEP, step)
            end_dead_trials(study, running_trials(study))
            assert is_retried(study.trials[-1]) == retried
            requeue(study)

    def test_whoever_is_interrupted_is_never_given_up(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        study = open_study(make_spec(), storage)
        for _ in range(10):
            self.interrupt(study, make_spec())
            end_dead_trials(study, running_trials(study), INTERRUPTED)
            assert is_retried(study.trials[-1])
            requeue(study)

    @pytest.mark.parametrize("name", ["tpe", "grid", "qmc"])
    def test_the_rest_of_the_study_follows(self, make_spec: MakeSpec, storage: BaseStorage, name: str) -> None:
        """Interrupted in its middle it ends with as many ended trials, and a grid with every one of its points."""
        spec = make_spec(n_trials=6, search_space=FINITE | {"dropout": {"choices": [0.1, 0.2]}}, sampler={"name": name})
        study = open_study(spec, storage)
        run(study, spec, 2)
        point = self.interrupt(study, spec).params
        end_dead_trials(study, running_trials(study))
        requeue(study)
        while remaining_trials(study, spec):
            run(study, spec, 1)
        states = Counter(trial.state.name for trial in study.trials)
        assert states == {"COMPLETE": 6, "FAIL": 1}
        assert points(study)[3] == point

    @pytest.mark.parametrize(
        ("state", "reason", "found"),
        [
            (TrialState.FAIL, None, INTERRUPTED),
            (TrialState.FAIL, "crashed", "crashed"),
            (TrialState.PRUNED, None, None),
            (TrialState.PRUNED, "diverged", "diverged"),
            (TrialState.COMPLETE, None, None),
        ],
    )
    def test_the_reason_of_an_end(
        self, make_spec: MakeSpec, storage: BaseStorage, state: TrialState, reason: str | None, found: str | None
    ) -> None:
        study = open_study(make_spec(), storage)
        trial = study.ask()
        if reason is not None:
            trial.set_user_attr("result", {"state": state.name, "reason": reason})
        study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)
        assert failure_reason(study.trials[0]) == found
