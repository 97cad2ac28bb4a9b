"""The study in storage: opening and resuming it, and its budget. Nothing is trained here."""

from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpo import space
from hpo.attempts import (
    INTERRUPTED,
)
from hpo.errors import StorageError
from hpo.lease import OWNER, owner
from hpo.search import build_pruner
from hpo.storage import study_names
from hpo.study import (
    claimable_trials,
    load_study,
    open_study,
    pinned,
    remaining_trials,
    require_unchanged,
    set_aside,
    stored_spec,
    total_trials,
)
from searching import MIXED, NUMBERS, TRAINING, MakeSpec, after, points, run


class TestOpening:
    def test_an_unknown_study_lists_the_known_ones(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        with pytest.raises(StorageError, match=r"There is none yet: run `python -m hpo.run` first"):
            load_study(storage, "one")
        for name in ("two", "one"):
            open_study(make_spec(name=name), storage)
        assert study_names(storage) == ["one", "two"]
        assert load_study(storage, "one").study_name == "one"
        with pytest.raises(StorageError, match=r"but got `three`\. There are: one, two\."):
            load_study(storage, "three")

    @pytest.mark.parametrize(("metric", "direction"), [("eval/loss", "MINIMIZE"), ("eval/f1", "MAXIMIZE")])
    def test_the_default_is_trial_0(
        self, make_spec: MakeSpec, storage: BaseStorage, metric: str, direction: str
    ) -> None:
        spec = make_spec(metric=metric)
        study = open_study(spec, storage)
        assert study.direction.name == direction
        run(study, spec, 2)
        assert points(study)[0] == space.default_params(spec)
        assert points(study)[0]["max_grad_norm"] == 1.0
        assert stored_spec(study) == spec

    def test_the_metric_has_its_name_for_other_tools(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        spec = make_spec()
        for _ in range(2):
            assert open_study(spec, storage).metric_names == [spec.metric]

    def test_a_default_of_none_is_trial_0(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        spec = make_spec(training=TRAINING | {"max_grad_norm": None})
        study = open_study(spec, storage)
        run(study, spec, 1)
        assert points(study) == [space.default_params(spec)]
        assert points(study)[0]["max_grad_norm"] is None

    def test_again_it_queues_nothing(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        spec = make_spec()
        open_study(spec, storage)
        study = open_study(spec, storage)
        assert [trial.state.name for trial in study.trials] == ["WAITING"]
        run(study, spec, 3)
        assert len(open_study(spec, storage).trials) == 3

    @pytest.mark.parametrize(
        ("sections", "lines"),
        [
            ({"metric": "eval/f1"}, ['metric: was "eval/accuracy", is "eval/f1"']),
            ({"seed": 3}, ["seed: was 0, is 3"]),
            ({"model": {"name": "m", "revision": "r"}}, ["model.name: was ", 'model.revision: was null, is "r"']),
            (
                {"training": TRAINING | {"max_length": 64, "max_grad_norm": None}, "search_space": NUMBERS},
                [
                    "training.max_grad_norm: was 1.0, is null",
                    "training.max_length: was 128, is 64",
                    "search_space.dropout: was {",
                    "search_space.train_batch_size: was {",
                    "search_space.max_grad_norm: was {",
                    "search_space.max_length: was {",
                ],
            ),
            (
                {"search_space": MIXED | {"weight_decay": {"low": 0.01, "high": 0.2}}},
                ["search_space.weight_decay.low: was 0.0, is 0.01", "search_space.weight_decay.high: was 0.1, is 0.2"],
            ),
            (
                {"search_space": MIXED | {"train_batch_size": {"choices": [16, 32]}}},
                ["search_space.train_batch_size.choices: was [16, 32, 64], is [16, 32]"],
            ),
            (
                {"search_space": MIXED | {"num_train_epochs": {"low": 1.0, "high": 4.0}}},
                ['search_space.num_train_epochs: was not there, is {"low": 1.0'],
            ),
        ],
    )
    def test_what_makes_trials_incomparable_is_refused(
        self, make_spec: MakeSpec, storage: BaseStorage, sections: dict[str, Any], lines: list[str]
    ) -> None:
        spec = make_spec()
        run(open_study(spec, storage), spec, 1)
        with pytest.raises(StorageError) as error:
            open_study(make_spec(**sections), storage)
        first, *changed, last = str(error.value).splitlines()
        assert "`tiny`" in first
        assert len(changed) == len(lines)
        assert all(line.startswith(f"  {start}") for line, start in zip(changed, lines, strict=True))
        assert "--fresh" in last and "--set name=tiny-2" in last
        assert stored_spec(load_study(storage, "tiny")) == spec  # nothing lost
        assert len(open_study(spec, storage).trials) == 1

    def test_a_study_that_is_older_than_a_setting_goes_on(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        """With its default, by which its trials were made; with another value it is refused as any other change."""
        spec = make_spec()
        study = open_study(spec, storage)
        run(study, spec, 1)
        older = study.user_attrs["spec"]
        del older["training"]["label_smoothing"], older["training"]["ema_decay"]
        study.set_user_attr("spec", older)
        assert len(open_study(spec, storage).trials) == 1
        study.set_user_attr("spec", older)
        with pytest.raises(StorageError, match=r"training\.label_smoothing: was 0\.0, is 0\.1"):
            open_study(make_spec(training=TRAINING | {"label_smoothing": 0.1}), storage)

    @pytest.mark.parametrize(
        "data",
        [
            {"train": "other.csv"},
            {"train": {"source": "x.csv", "where": {"a": 1}}},
            {"train": "x.csv", "max_rows": 10},
            {"train": "x.csv", "hold_out": "sentences"},
            {"train": "x.csv", "labels": ["b", "a"]},
        ],
    )
    def test_other_data_are_refused(self, make_spec: MakeSpec, storage: BaseStorage, data: dict[str, Any]) -> None:
        spec = make_spec(data={"train": "x.csv", "labels": ["a", "b"]})
        run(open_study(spec, storage), spec, 1)
        with pytest.raises(StorageError, match=r"\n  data\."):
            open_study(make_spec(data=data), storage)

    @pytest.mark.parametrize(
        "sections",
        [
            {"n_trials": 50},
            {"timeout": 60},
            {"sampler": {"name": "random"}},
            {"pruner": {"name": "hyperband"}},
            {"description": "another sentence"},
            {"fallback": {"n_trials": 2}},
            {"training": TRAINING | {"eval_batch_size": 7}},
        ],
    )
    def test_what_leaves_trials_comparable_may_change(
        self, make_spec: MakeSpec, storage: BaseStorage, sections: dict[str, Any]
    ) -> None:
        spec, changed = make_spec(), make_spec(**sections)
        run(open_study(spec, storage), spec, 2)
        study = open_study(changed, storage)
        assert len(study.trials) == 2
        assert stored_spec(study) == changed
        assert type(study.pruner) is type(build_pruner(changed))

    @pytest.mark.parametrize("left", ["queued", "running", "interrupted"])
    def test_with_no_trial_ended_anything_may_change(
        self, make_spec: MakeSpec, storage: BaseStorage, left: str
    ) -> None:
        study = open_study(make_spec(), storage)
        study.set_user_attr("mlflow_parent_run_id", "abc")
        if left != "queued":
            trial = study.ask()
        if left == "interrupted":
            trial.set_user_attr("result", {"state": "FAIL", "reason": INTERRUPTED})
            study.tell(trial, state=TrialState.FAIL)
        changed = make_spec(metric="eval/loss", training=TRAINING | {"dropout": 0.2})
        study = open_study(changed, storage)
        assert study.user_attrs["mlflow_parent_run_id"] == "abc"
        assert stored_spec(study) == changed
        assert study.direction.name == "MINIMIZE"
        run(study, changed, 1)
        assert points(study) == [space.default_params(changed)]
        assert points(study)[0]["dropout"] == 0.2

    def test_under_a_trial_that_runs_nothing_may_change(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        """The study would be made anew, and another driver's taken away from it."""
        study = open_study(make_spec(), storage)
        study.ask().set_user_attr(OWNER, owner() | {"host": "elsewhere"})
        with pytest.raises(StorageError, match="trials of another kind"):
            open_study(make_spec(metric="eval/loss"), storage)
        assert len(open_study(make_spec(), storage).trials) == 1

    def test_a_driver_that_died_right_after_creating_it(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        spec = make_spec()
        optuna.create_study(study_name="tiny", storage=storage, direction="maximize")
        study = open_study(spec, storage)
        run(study, spec, 1)
        assert points(study) == [space.default_params(spec)]

    @pytest.mark.parametrize(
        ("fingerprint", "sections", "revision"),
        [
            ("commit:abc", {}, "abc"),
            ("commit:abc", {"model": {"name": "acme/model", "revision": "v1"}}, "v1"),
            ("commit:abc", {"model": {"name": "acme/other"}}, None),  # refused later, with a diff
            ("sha256:abc", {}, None),  # a folder
        ],
    )
    def test_a_model_of_the_hub_stays_at_its_commit(
        self,
        make_spec: MakeSpec,
        storage: BaseStorage,
        fingerprint: str,
        sections: dict[str, Any],
        revision: str | None,
    ) -> None:
        spec = make_spec(model={"name": "acme/model"})
        assert pinned(spec, storage) == spec
        study = open_study(spec, storage)
        study.set_user_attr("models", {"acme/model": fingerprint})
        assert pinned(spec, storage) == spec  # no trial has seen it yet
        run(study, spec, 1)
        asked = make_spec(**{"model": {"name": "acme/model"}} | sections)
        assert pinned(asked, storage).model.revision == revision
        assert pinned(asked, storage).training == asked.training

    @pytest.mark.parametrize(
        ("data", "models", "told"),
        [
            ("d", {"m": "1", "n": "2"}, None),
            ("d", {"n": "2", "new": "9"}, None),
            ("e", {"m": "1"}, "the data of"),
            ("d", {"m": "1", "n": "3"}, "the model `n` of"),
        ],
    )
    def test_changed_files_are_refused(
        self, make_spec: MakeSpec, storage: BaseStorage, data: str, models: dict[str, str], told: str | None
    ) -> None:
        study = open_study(make_spec(), storage)
        require_unchanged(study, data, models)
        study.set_user_attr("data", {"fingerprint": "d"})
        study.set_user_attr("models", {"m": "1", "n": "2"})
        if told is None:
            require_unchanged(study, data, models)
        else:
            with pytest.raises(StorageError, match=rf"{told} the study `tiny` changed .*--fresh.*--set name=tiny-2"):
                require_unchanged(study, data, models)

    def test_fresh_keeps_everything_under_a_dated_name(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        spec = make_spec()
        study = open_study(spec, storage)
        study.set_user_attr("data", {"fingerprint": "f"})
        run(study, spec, 3)
        before = points(study)
        kept = set_aside(storage, ["tiny"])
        assert kept.startswith("tiny-until-20")
        assert study_names(storage) == [kept]
        old = load_study(storage, kept)
        assert points(old) == before
        assert len(before) == 3
        assert [trial.value for trial in old.trials] == [score_of(trial) for trial in old.trials]
        assert old.user_attrs["data"] == {"fingerprint": "f"}
        assert stored_spec(old) == spec
        assert [trial.state.name for trial in open_study(make_spec(seed=1), storage).trials] == ["WAITING"]


def score_of(trial: FrozenTrial) -> float:
    drawn = trial.params
    return float(
        drawn["learning_rate"]
        - drawn["weight_decay"]
        + drawn["dropout"]
        - (drawn["max_grad_norm"] or 0.0) * drawn["warmup_ratio"]
    )


class TestBudget:
    def ended(self, study: optuna.Study, *ends: tuple[TrialState, str | None]) -> None:
        for state, reason in ends:
            trial = study.ask()
            if reason is not None:
                trial.set_user_attr("result", {"state": state.name, "reason": reason})
            study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)

    @pytest.mark.parametrize(
        ("ends", "left"),
        [
            ([], 5),
            ([(TrialState.COMPLETE, None)], 4),
            ([(TrialState.PRUNED, None), (TrialState.PRUNED, "diverged")], 3),
            ([(TrialState.FAIL, "crashed"), (TrialState.FAIL, "out_of_memory")], 3),
            ([(TrialState.FAIL, INTERRUPTED)], 5),
            ([(TrialState.FAIL, None)], 5),  # its driver was killed
            ([(TrialState.COMPLETE, None)] * 5, 0),
            ([(TrialState.COMPLETE, None)] * 7, 0),
        ],
    )
    def test_what_is_left(
        self, make_spec: MakeSpec, storage: BaseStorage, ends: list[tuple[TrialState, str | None]], left: int
    ) -> None:
        spec = make_spec(n_trials=5)
        study = open_study(spec, storage)
        self.ended(study, *ends)
        assert remaining_trials(study, spec) == left

    def test_running_and_waiting_trials_are_still_to_run(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        spec = make_spec(n_trials=5)
        study = open_study(spec, storage)
        study.ask()
        study.enqueue_trial({})
        assert remaining_trials(study, spec) == 5

    @pytest.mark.parametrize("looks", range(4))
    def test_a_trial_that_is_pruned_just_now_makes_no_room_for_two(
        self, make_spec: MakeSpec, storage: BaseStorage, monkeypatch: pytest.MonkeyPatch, looks: int
    ) -> None:
        spec = make_spec(n_trials=2)
        study = open_study(spec, storage)
        other = [study.ask(), study.ask()][1]
        after(looks, monkeypatch, lambda: study.tell(other, state=TrialState.PRUNED))
        assert claimable_trials(study, spec) == 0

    @pytest.mark.parametrize(("n_trials", "total"), [(3, 3), (13, 13), (14, 13), (1000, 13)])
    def test_a_grid_ends_with_its_points(self, make_spec: MakeSpec, n_trials: int, total: int) -> None:
        space_ = {name: MIXED[name] for name in ("dropout", "max_grad_norm")}
        spec = make_spec(n_trials=n_trials, search_space=space_, sampler={"name": "grid"})
        assert total_trials(spec) == total
        assert total_trials(make_spec(n_trials=n_trials, search_space=space_)) == n_trials

    def test_a_whole_grid_leaves_nothing_to_run(self, make_spec: MakeSpec, storage: BaseStorage) -> None:
        spec = make_spec(n_trials=99, search_space={"dropout": MIXED["dropout"]}, sampler={"name": "grid"})
        study = open_study(spec, storage)
        while remaining_trials(study, spec):
            run(study, spec, 1)
        assert len(study.trials) == 5
