"""The study in storage: opening and resuming it, its budget, its samplers and its pruners. Nothing is trained here."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from conftest import StudyMaker
from hpo import space
from hpo import spec as spec_module
from hpo.errors import StorageError
from hpo.spec import StudySpec
from hpo.study import (
    INTERRUPTED,
    build_pruner,
    build_sampler,
    derive_seed,
    end_stale_trials,
    failure_reason,
    first_attempt,
    load_study,
    open_storage,
    open_study,
    remaining_trials,
    requeue_interrupted,
    set_aside,
    stored_spec,
    study_names,
    total_trials,
)
from hpo.study_file import parse_study

MakeSpec = Callable[..., StudySpec]
TRAINING: dict[str, Any] = {"dropout": 0.1, "learning_rate": 1e-3, "num_evaluations": 9}
NUMBERS: dict[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
    "weight_decay": {"low": 0.0, "high": 0.1},
    "warmup_ratio": {"low": 0.0, "high": 0.5},
}
MIXED: dict[str, Any] = NUMBERS | {
    "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
    "train_batch_size": {"choices": [16, 32, 64]},
    "max_grad_norm": {"choices": [None, 0.5, 1.0]},
    "max_length": {"low": 16, "high": 256, "log": True},
}
CONDITIONAL: dict[str, Any] = MIXED | {
    "optimizer": {"choices": ["adamw", "sgd"]},
    "momentum": {"low": 0.0, "high": 0.95, "when": {"optimizer": ["sgd"]}},
    "adam_beta2": {"low": 0.9, "high": 0.9999, "when": {"optimizer": ["adamw"]}},
}
FINITE: dict[str, Any] = {name: MIXED[name] for name in ("dropout", "train_batch_size", "max_grad_norm")}


def names_of(union: Any) -> list[str]:
    """The names that a study file may choose from: of every member of the union, so a new one is tested at once."""
    members, *_ = get_args(union)
    return [get_args(member.model_fields["name"].annotation)[0] for member in get_args(members)]


SAMPLERS, PRUNERS = names_of(spec_module.Sampler), names_of(spec_module.Pruner)
CONTINUOUS = [name for name in SAMPLERS if name != "grid"]


@pytest.fixture
def make_spec(raw_study: StudyMaker) -> MakeSpec:
    def make(**sections: Any) -> StudySpec:
        return parse_study(raw_study(**{"training": TRAINING, "search_space": MIXED} | sections), "tiny.yaml")

    return make


@pytest.fixture
def storage(tmp_path: Path) -> RDBStorage:
    return open_storage(tmp_path)


def score(spec: StudySpec, trial: optuna.Trial) -> float:
    """A smooth function of what was drawn, so that a sampler has something to learn."""
    config = space.trial_config(spec, space.suggest(trial, spec), seed=0).training
    clip = config.max_grad_norm or 0.0
    return config.learning_rate - config.weight_decay + (config.dropout or 0.0) - clip * config.warmup_ratio


def run(study: optuna.Study, spec: StudySpec, n: int) -> None:
    """`n` trials as the driver runs them: a sampler of its own for each, at the position in storage."""
    for _ in range(n):
        study.sampler = build_sampler(spec, sum(trial.state != TrialState.WAITING for trial in study.trials))
        study.optimize(lambda trial: score(spec, trial), n_trials=1)


def in_memory(spec: StudySpec) -> optuna.Study:
    study = optuna.create_study(direction=spec.direction, study_name=spec.name)
    study.enqueue_trial(space.default_params(spec))
    return study


def points(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def test_there_is_every_sampler_and_pruner_of_the_issue() -> None:
    assert set(SAMPLERS) == {"tpe", "random", "gp", "cmaes", "qmc", "grid"}
    assert set(PRUNERS) == {"none", "median", "percentile", "successive_halving", "hyperband", "patient"}


class TestSamplers:
    """The contract of every sampler, over numbers, categories with None, and conditions."""

    @pytest.fixture
    def build(self, make_spec: MakeSpec) -> MakeSpec:
        """A spec with the sampler of that name, soon past its startup, over a space that it can search."""

        def make(name: str, **sections: Any) -> StudySpec:
            sampler: dict[str, Any] = {"name": name}
            if name in {"tpe", "gp", "cmaes"}:
                sampler["n_startup_trials"] = 3
            return make_spec(**{"sampler": sampler, "search_space": FINITE if name == "grid" else MIXED} | sections)

        return make

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_every_point_lies_in_the_space(self, build: MakeSpec, name: str) -> None:
        spec = build(name)
        study = in_memory(spec)
        run(study, spec, 8)
        assert points(study)[0] == space.default_params(spec)
        for point in points(study):
            assert set(point) == set(spec.search_space)
            for parameter, value in point.items():
                among = space.distribution(parameter, spec.search_space[parameter])
                assert among._contains(among.to_internal_repr(value)), (parameter, value)

    @pytest.mark.parametrize("name", CONTINUOUS)
    def test_conditions_hold(self, build: MakeSpec, name: str) -> None:
        start = {"n_startup_trials": 5} if name in {"tpe", "gp", "cmaes"} else {}
        spec = build(name, search_space=CONDITIONAL, sampler={"name": name, **start}, seed=3)
        study = in_memory(spec)
        run(study, spec, 8)
        for point in points(study):
            assert ("momentum" in point) == (point["optimizer"] == "sgd") == ("adam_beta2" not in point)
        assert {point["optimizer"] for point in points(study)} == {"adamw", "sgd"}

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_the_same_seed_and_position_give_the_same_point(self, build: MakeSpec, name: str) -> None:
        spec = build(name)
        one, two = in_memory(spec), in_memory(spec)
        run(one, spec, 6)
        run(two, spec, 6)
        assert points(one) == points(two)

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_another_seed_gives_others(self, build: MakeSpec, name: str) -> None:
        one, two = in_memory(build(name)), in_memory(build(name))
        run(one, build(name), 6)
        run(two, build(name, seed=1), 6)
        assert points(one)[0] == points(two)[0]
        assert points(one)[1:] != points(two)[1:]

    @pytest.mark.parametrize("name", CONTINUOUS)
    def test_a_rebuilt_sampler_repeats_no_point(self, build: MakeSpec, name: str) -> None:
        """Also in each number alone: the categories drawn beside it would hide a sequence that starts again."""
        spec = build(name)
        study = in_memory(spec)
        run(study, spec, 8)
        for number in NUMBERS:
            values = [point[number] for point in points(study)[1:4]]  # later ones may come to stand at a bound
            assert len(set(values)) == len(values), number
        assert len({str(point) for point in points(study)}) == 8

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_a_resumed_study_goes_on_as_if_it_had_not_stopped(self, build: MakeSpec, name: str, tmp_path: Path) -> None:
        spec = build(name)
        whole = in_memory(spec)
        run(whole, spec, 6)
        run(open_study(spec, open_storage(tmp_path)), spec, 4)
        resumed = open_study(spec, open_storage(tmp_path))
        run(resumed, spec, 2)
        assert points(resumed) == points(whole)

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_trials_that_were_pruned_or_failed_stop_nothing(self, build: MakeSpec, name: str) -> None:
        spec = build(name)
        study = in_memory(spec)
        ends = iter([None, optuna.TrialPruned(), RuntimeError(), None, optuna.TrialPruned(), None, None])

        def objective(trial: optuna.Trial) -> float:
            value = score(spec, trial)
            trial.report(value, 1)
            if error := next(ends):
                raise error
            return value

        for position in range(7):
            study.sampler = build_sampler(spec, position)
            study.optimize(objective, n_trials=1, catch=(RuntimeError,))
        assert Counter(trial.state.name for trial in study.trials) == {"COMPLETE": 4, "PRUNED": 2, "FAIL": 1}
        assert len({str(point) for point in points(study)}) == 7

    def test_the_grid_has_every_combination_once(self, build: MakeSpec) -> None:
        spec = build("grid", search_space={name: MIXED[name] for name in ("dropout", "max_grad_norm")})
        study = in_memory(spec)
        run(study, spec, 1 + 4 * 3)
        drawn = {(round(point["dropout"], 6), point["max_grad_norm"]) for point in points(study)[1:]}
        assert drawn == {(dropout, clip) for dropout in (0.0, 0.1, 0.2, 0.3) for clip in (None, 0.5, 1.0)}

    def test_quasi_random_points_cover_the_range_evenly(self, build: MakeSpec) -> None:
        spec = build("qmc", search_space={"weight_decay": {"low": 0.0, "high": 0.08}}, training={"weight_decay": 0.0})
        study = in_memory(spec)
        run(study, spec, 1 + 8)
        cells = Counter(int(point["weight_decay"] / 0.01) for point in points(study)[1:])
        assert cells == dict.fromkeys(range(8), 1)  # one in each eighth, which 8 random points do once in 416 times

    @pytest.mark.parametrize("name", ["tpe", "gp", "cmaes"])
    def test_it_learns(self, build: MakeSpec, name: str) -> None:
        """A parabola: after its random start it draws nearer the top than the start did."""
        spec = build(name, search_space=NUMBERS, sampler={"name": name, "n_startup_trials": 5})
        study = in_memory(spec)
        for position in range(30):
            study.sampler = build_sampler(spec, position)
            study.optimize(
                lambda trial: -((space.suggest(trial, spec)["weight_decay"] - 0.08) ** 2),  # type: ignore[operator]
                n_trials=1,
            )
        far = [abs(point["weight_decay"] - 0.08) for point in points(study)]
        assert sum(far[-10:]) / 10 < 0.75 * sum(far[1:6]) / 5


class TestPruners:
    """Learning curves by hand, one a trial, with their score at each evaluation; higher is better."""

    @pytest.fixture
    def build(self, make_spec: MakeSpec) -> MakeSpec:
        return lambda **pruner: make_spec(pruner=pruner)

    @staticmethod
    def ended_at(spec: StudySpec, curves: list[list[float]]) -> list[int]:
        """The evaluation at which each trial was pruned, 0 if it was not."""
        study = optuna.create_study(direction=spec.direction, pruner=build_pruner(spec), study_name="curves")
        at = []

        def objective(trial: optuna.Trial) -> float:
            for step, value in enumerate(curves[trial.number], start=1):
                trial.report(value, step)
                if trial.should_prune():
                    at.append(step)
                    raise optuna.TrialPruned
            at.append(0)
            return curves[trial.number][-1]

        study.optimize(objective, n_trials=len(curves))
        return at

    @pytest.mark.parametrize("name", PRUNERS)
    def test_it_is_built_and_never_prunes_what_gets_better_and_better(self, build: MakeSpec, name: str) -> None:
        curves = [[number + step / 10 for step in range(9)] for number in range(12)]
        assert self.ended_at(build(name=name), curves) == [0] * 12

    @pytest.mark.parametrize("name", [name for name in PRUNERS if name != "none"])
    def test_it_prunes_a_bad_trial_in_the_end(self, build: MakeSpec, name: str) -> None:
        good = [[0.5 + step / 100 + number / 1000 for step in range(9)] for number in range(10)]
        falling = [0.2 - step / 100 for step in range(9)]
        assert self.ended_at(build(name=name), [*good, falling])[-1] > 0

    @pytest.mark.parametrize("name", [name for name in PRUNERS if name != "none"])
    def test_a_loss_is_pruned_when_it_is_high(self, make_spec: MakeSpec, name: str) -> None:
        spec = make_spec(metric="eval/loss", pruner={"name": name})
        falling = [[0.5 - step / 100 - number / 1000 for step in range(9)] for number in range(10)]
        rising = [0.8 + step / 100 for step in range(9)]
        at = self.ended_at(spec, [*falling, [0.1] * 9, rising])
        assert at[-2] == 0 and at[-1] > 0

    def test_none_never_prunes(self, build: MakeSpec) -> None:
        assert self.ended_at(build(name="none"), [[1.0] * 9] * 6 + [[0.0] * 9]) == [0] * 7

    @pytest.mark.parametrize(
        ("settings", "step"),
        [
            ({"n_startup_trials": 3}, 1),
            ({"n_startup_trials": 4}, 0),
            ({"n_startup_trials": 3, "n_warmup_steps": 4}, 5),
            ({"n_startup_trials": 3, "n_warmup_steps": 9}, 0),
            ({"n_startup_trials": 3, "n_min_trials": 4}, 0),
            ({"n_startup_trials": 3, "interval_steps": 3, "n_warmup_steps": 2}, 3),
        ],
    )
    def test_the_median_prunes_at_the_right_step(self, build: MakeSpec, settings: dict[str, Any], step: int) -> None:
        curves = [[0.5] * 9, [0.6] * 9, [0.7] * 9, [0.55] * 9]
        assert self.ended_at(build(name="median", **settings), curves) == [0, 0, 0, step]

    def test_the_median_counts_the_best_so_far(self, build: MakeSpec) -> None:
        """A trial that was once above the median of step 2 is not pruned there for a dip, but is when all pass it."""
        curves = [[0.1, 0.2, 0.9]] * 3 + [[0.5, 0.1, 0.1]]
        assert self.ended_at(build(name="median", n_startup_trials=3), curves) == [0, 0, 0, 3]

    @pytest.mark.parametrize(("percentile", "step"), [(25.0, 1), (50.0, 1), (75.0, 0), (100.0, 0)])
    def test_a_percentile_keeps_that_share(self, build: MakeSpec, percentile: float, step: int) -> None:
        curves = [[0.1] * 9, [0.2] * 9, [0.3] * 9, [0.4] * 9, [0.5] * 9, [0.25] * 9]
        spec = build(name="percentile", percentile=percentile, n_startup_trials=5)
        assert self.ended_at(spec, sorted(curves[:5]) + curves[5:])[-1] == step

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"reduction_factor": 3}, [0, 1, 1, 0]),
            ({"reduction_factor": 2}, [0, 1, 1, 0]),
            ({"reduction_factor": 3, "min_resource": 2}, [0, 2, 2, 0]),
            ({"reduction_factor": 3, "min_early_stopping_rate": 1}, [0, 3, 3, 0]),
            ({"reduction_factor": 3, "min_resource": 10}, [0, 0, 0, 0]),
        ],
    )
    def test_successive_halving_has_its_rungs(
        self, build: MakeSpec, settings: dict[str, Any], expected: list[int]
    ) -> None:
        curves = [[0.5] * 9, [0.4] * 9, [0.3] * 9, [0.6] * 9]
        assert self.ended_at(build(name="successive_halving", **settings), curves) == expected

    def test_hyperband_counts_to_the_number_of_evaluations(self, build: MakeSpec) -> None:
        """Of 9 evaluations in thirds: three brackets, whose first rungs are after 1, 3 and 9 evaluations."""
        at = self.ended_at(build(name="hyperband"), [[1.0 - number / 100] * 9 for number in range(40)])
        assert set(at) == {0, 1, 3, 9}

    @pytest.mark.parametrize(("wrapped", "step"), [("none", 4), ("median", 4)])
    def test_patience_waits_for_a_trial_to_get_better(self, build: MakeSpec, wrapped: str, step: int) -> None:
        """Best at evaluation 2, then lower for more than one; the steady risers stay."""
        rising = [[0.5 + step / 10 for step in range(9)]] * 5
        spec = build(name="patient", patience=1, wrapped={"name": wrapped})
        assert self.ended_at(spec, [*rising, [0.1, 0.3, 0.2, 0.2, 0.2]]) == [0] * 5 + [step]

    def test_patience_that_asks_nobody_prunes_the_best_too(self, build: MakeSpec) -> None:
        falling = [0.9, 0.8, 0.8, 0.8, 0.8]
        assert self.ended_at(build(name="patient", patience=2, wrapped={"name": "none"}), [falling]) == [4]
        assert self.ended_at(build(name="patient", patience=2), [[0.5] * 9] * 5 + [falling])[-1] == 0

    @pytest.mark.parametrize("min_delta", [0.0, 0.05])
    def test_patience_takes_a_plateau_for_no_loss(self, build: MakeSpec, min_delta: float) -> None:
        spec = build(name="patient", patience=1, min_delta=min_delta, wrapped={"name": "none"})
        assert self.ended_at(spec, [[0.5] * 9]) == [0]

    @pytest.mark.parametrize(("min_delta", "step"), [(0.0, 3), (0.05, 3), (0.2, 0)])
    def test_patience_overlooks_a_small_loss(self, build: MakeSpec, min_delta: float, step: int) -> None:
        spec = build(name="patient", patience=1, min_delta=min_delta, wrapped={"name": "none"})
        assert self.ended_at(spec, [[0.5, 0.4, 0.4, 0.4]]) == [step]


class TestSeeds:
    @pytest.mark.parametrize(
        ("position", "seed"),
        [((0,), 804681139), ((0, "sampler"), 797851131), ((0, "trial", 0), 1192658259), ((1, "trial", 0), 1292877315)],
    )
    def test_they_are_the_same_in_every_process_and_version(self, position: tuple[Any, ...], seed: int) -> None:
        """By hand: the first 31 bits of `printf 0:trial:0 | sha256sum`."""
        assert derive_seed(*position) == seed

    def test_each_position_has_its_own(self) -> None:
        seeds = {derive_seed(seed, name, n) for seed in range(5) for name in ("trial", "sampler") for n in range(200)}
        assert len(seeds) == 2000
        assert all(0 <= seed < 2**31 for seed in seeds)


class TestStorage:
    @pytest.fixture
    def database(self, make_spec: MakeSpec, tmp_path: Path) -> Path:
        spec = make_spec()
        run(open_study(spec, open_storage(tmp_path)), spec, 8)
        return tmp_path / "optuna.db"

    def test_it_is_made_where_there_is_none(self, tmp_path: Path) -> None:
        assert study_names(open_storage(tmp_path)) == []
        assert (tmp_path / "optuna.db").is_file()

    def test_all_that_open_it_first_get_it(self, tmp_path: Path) -> None:
        """As a driver and `hpo.report` beside it do: without a lock one of them creates tables that are there."""
        with ThreadPoolExecutor(6) as pool:
            opened = list(pool.map(lambda _: study_names(open_storage(tmp_path)), range(6)))
        assert opened == [[]] * 6

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"optuna\.db must be a database of Optuna that can be written"):
            open_storage(tmp_path / "nowhere")

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "optuna.db").mkdir()
        with pytest.raises(StorageError, match="unable to open"):
            open_storage(tmp_path)

    @pytest.mark.parametrize("content", [b"not a database " * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
    def test_no_database(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "optuna.db").write_bytes(content)
        with pytest.raises(StorageError, match="Move it away, or give another folder with --output"):
            open_storage(tmp_path)
        assert (tmp_path / "optuna.db").read_bytes() == content  # nothing lost

    def test_a_database_cut_short(self, database: Path) -> None:
        database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])
        with pytest.raises(StorageError, match=r"Move it away"):
            open_storage(database.parent)

    def test_a_damaged_page_wherever_it_is(self, database: Path) -> None:
        """Optuna itself opens most of these and breaks later, in the middle of a study."""
        whole, page = database.read_bytes(), 4096
        for start in range(0, len(whole), page):
            database.write_bytes(whole[:start] + b"\xab" * page + whole[start + page :])
            with pytest.raises(StorageError, match=r"optuna\.db must be a database of Optuna"):
                open_storage(database.parent)

    def test_a_database_of_somebody_else(self, tmp_path: Path) -> None:
        connection = sqlite3.connect(tmp_path / "optuna.db")
        connection.execute("create table studies (something integer)")
        connection.commit()
        connection.close()
        with pytest.raises(StorageError, match="Move it away"):
            open_storage(tmp_path)

    def test_one_of_a_later_optuna(self, database: Path) -> None:
        connection = sqlite3.connect(database)
        connection.execute("update alembic_version set version_num = 'v99'")
        connection.commit()
        connection.close()
        with pytest.raises(StorageError, match="no longer compatible"):
            open_storage(database.parent)

    def test_an_unknown_study_lists_the_known_ones(self, make_spec: MakeSpec, storage: RDBStorage) -> None:
        with pytest.raises(StorageError, match=r"There is none yet: run `python -m hpo.run` first"):
            load_study(storage, "one")
        for name in ("two", "one"):
            open_study(make_spec(name=name), storage)
        assert study_names(storage) == ["one", "two"]
        assert load_study(storage, "one").study_name == "one"
        with pytest.raises(StorageError, match=r"but got `three`\. There are: one, two\."):
            load_study(storage, "three")


class TestOpening:
    @pytest.mark.parametrize(("metric", "direction"), [("eval/loss", "MINIMIZE"), ("eval/f1", "MAXIMIZE")])
    def test_the_default_is_trial_0(
        self, make_spec: MakeSpec, storage: RDBStorage, metric: str, direction: str
    ) -> None:
        spec = make_spec(metric=metric)
        study = open_study(spec, storage)
        assert study.direction.name == direction
        run(study, spec, 2)
        assert points(study)[0] == space.default_params(spec)
        assert points(study)[0]["max_grad_norm"] == 1.0
        assert stored_spec(study) == spec

    def test_a_default_of_none_is_trial_0(self, make_spec: MakeSpec, storage: RDBStorage) -> None:
        spec = make_spec(training=TRAINING | {"max_grad_norm": None})
        study = open_study(spec, storage)
        run(study, spec, 1)
        assert points(study) == [space.default_params(spec)]
        assert points(study)[0]["max_grad_norm"] is None

    def test_again_it_queues_nothing(self, make_spec: MakeSpec, storage: RDBStorage) -> None:
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
        self, make_spec: MakeSpec, storage: RDBStorage, sections: dict[str, Any], lines: list[str]
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
    def test_other_data_are_refused(self, make_spec: MakeSpec, storage: RDBStorage, data: dict[str, Any]) -> None:
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
        ],
    )
    def test_what_leaves_trials_comparable_may_change(
        self, make_spec: MakeSpec, storage: RDBStorage, sections: dict[str, Any]
    ) -> None:
        spec, changed = make_spec(), make_spec(**sections)
        run(open_study(spec, storage), spec, 2)
        study = open_study(changed, storage)
        assert len(study.trials) == 2
        assert stored_spec(study) == changed
        assert type(study.pruner) is type(build_pruner(changed))

    @pytest.mark.parametrize("left", ["queued", "running"])
    def test_with_no_trial_ended_anything_may_change(self, make_spec: MakeSpec, storage: RDBStorage, left: str) -> None:
        study = open_study(make_spec(), storage)
        study.set_user_attr("mlflow_parent_run_id", "abc")
        if left == "running":
            study.ask()
        changed = make_spec(metric="eval/loss", training=TRAINING | {"dropout": 0.2})
        study = open_study(changed, storage)
        assert study.user_attrs["mlflow_parent_run_id"] == "abc"
        assert stored_spec(study) == changed
        assert study.direction.name == "MINIMIZE"
        run(study, changed, 1)
        assert points(study) == [space.default_params(changed)]
        assert points(study)[0]["dropout"] == 0.2

    def test_a_driver_that_died_right_after_creating_it(self, make_spec: MakeSpec, storage: RDBStorage) -> None:
        spec = make_spec()
        optuna.create_study(study_name="tiny", storage=storage, direction="maximize")
        study = open_study(spec, storage)
        run(study, spec, 1)
        assert points(study) == [space.default_params(spec)]

    def test_fresh_keeps_everything_under_a_dated_name(self, make_spec: MakeSpec, storage: RDBStorage) -> None:
        spec = make_spec()
        study = open_study(spec, storage)
        study.set_user_attr("data", {"fingerprint": "f"})
        run(study, spec, 3)
        before = points(study)
        kept = set_aside(storage, "tiny")
        assert kept is not None and kept.startswith("tiny-until-20")
        assert study_names(storage) == [kept]
        old = load_study(storage, kept)
        assert points(old) == before
        assert len(before) == 3
        assert [trial.value for trial in old.trials] == [score_of(trial) for trial in old.trials]
        assert old.user_attrs["data"] == {"fingerprint": "f"}
        assert stored_spec(old) == spec
        assert [trial.state.name for trial in open_study(make_spec(seed=1), storage).trials] == ["WAITING"]

    def test_fresh_without_a_study_does_nothing(self, storage: RDBStorage) -> None:
        assert set_aside(storage, "tiny") is None
        assert study_names(storage) == []


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
                trial.set_user_attr("result", {"reason": reason})
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
        self, make_spec: MakeSpec, storage: RDBStorage, ends: list[tuple[TrialState, str | None]], left: int
    ) -> None:
        spec = make_spec(n_trials=5)
        study = open_study(spec, storage)
        self.ended(study, *ends)
        assert remaining_trials(study, spec) == left

    def test_running_and_waiting_trials_are_still_to_run(self, make_spec: MakeSpec, storage: RDBStorage) -> None:
        spec = make_spec(n_trials=5)
        study = open_study(spec, storage)
        study.ask()
        study.enqueue_trial({})
        assert remaining_trials(study, spec) == 5

    @pytest.mark.parametrize(("n_trials", "total"), [(3, 3), (13, 13), (14, 13), (1000, 13)])
    def test_a_grid_ends_with_its_points(self, make_spec: MakeSpec, n_trials: int, total: int) -> None:
        space_ = {name: MIXED[name] for name in ("dropout", "max_grad_norm")}
        spec = make_spec(n_trials=n_trials, search_space=space_, sampler={"name": "grid"})
        assert total_trials(spec) == total
        assert total_trials(make_spec(n_trials=n_trials, search_space=space_)) == n_trials

    def test_a_whole_grid_leaves_nothing_to_run(self, make_spec: MakeSpec, storage: RDBStorage) -> None:
        spec = make_spec(n_trials=99, search_space={"dropout": MIXED["dropout"]}, sampler={"name": "grid"})
        study = open_study(spec, storage)
        while remaining_trials(study, spec):
            run(study, spec, 1)
        assert len(study.trials) == 5

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
        self, make_spec: MakeSpec, storage: RDBStorage, state: TrialState, reason: str | None, found: str | None
    ) -> None:
        study = open_study(make_spec(), storage)
        self.ended(study, (state, reason))
        assert failure_reason(study.trials[0]) == found


class TestInterruption:
    @staticmethod
    def interrupt(study: optuna.Study, spec: StudySpec) -> optuna.Trial:
        """The next trial draws its point, and then nothing is heard of it."""
        study.sampler = build_sampler(spec, len(study.trials))
        trial = study.ask()
        space.suggest(trial, spec)
        return trial

    def test_stale_trials_are_failed_and_others_left_alone(self, make_spec: MakeSpec, storage: RDBStorage) -> None:
        spec = make_spec()
        study = open_study(spec, storage)
        run(study, spec, 1)
        self.interrupt(study, spec)
        self.interrupt(study, spec)
        study.enqueue_trial({})
        assert end_stale_trials(study) == [1, 2]
        assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "FAIL", "WAITING"]
        assert end_stale_trials(study) == []

    def test_an_interrupted_trial_runs_once_more_with_its_point(self, make_spec: MakeSpec, storage: RDBStorage) -> None:
        spec = make_spec(search_space=CONDITIONAL, training=TRAINING | {"max_grad_norm": None}, n_trials=3)
        study = open_study(spec, storage)
        interrupted = self.interrupt(study, spec)
        assert interrupted.params["max_grad_norm"] is None
        end_stale_trials(study)
        requeue_interrupted(study)
        requeue_interrupted(study)  # not twice
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
        run(study, spec, 1)
        requeue_interrupted(study)  # nor when it has run
        repeated = study.trials[1]
        assert repeated.params == interrupted.params
        assert repeated.user_attrs["retry_of"] == 0
        assert [first_attempt(study, trial) for trial in study.trials] == [0, 0]
        assert len(study.trials) == 2
        assert remaining_trials(study, spec) == 2

    def test_a_trial_interrupted_before_it_drew_keeps_what_was_queued(
        self, make_spec: MakeSpec, storage: RDBStorage
    ) -> None:
        spec = make_spec()
        study = open_study(spec, storage)
        study.ask()
        end_stale_trials(study)
        requeue_interrupted(study)
        run(study, spec, 1)
        assert study.trials[1].params == space.default_params(spec)

    def test_the_first_attempt_is_found_through_a_chain(self, make_spec: MakeSpec, storage: RDBStorage) -> None:
        spec = make_spec()
        study = open_study(spec, storage)
        run(study, spec, 1)
        point = self.interrupt(study, spec).params
        for _ in range(2):
            end_stale_trials(study)
            requeue_interrupted(study)
            self.interrupt(study, spec)
        assert [trial.params for trial in study.trials[1:]] == [point] * 3
        assert [first_attempt(study, trial) for trial in study.trials] == [0, 1, 1, 1]

    @pytest.mark.parametrize("reason", ["crashed", "out_of_memory"])
    def test_a_trial_that_failed_by_itself_is_not_repeated(
        self, make_spec: MakeSpec, storage: RDBStorage, reason: str
    ) -> None:
        spec = make_spec()
        study = open_study(spec, storage)
        trial = self.interrupt(study, spec)
        trial.set_user_attr("result", {"reason": reason})
        study.tell(trial, state=TrialState.FAIL)
        requeue_interrupted(study)
        assert len(study.trials) == 1

    @pytest.mark.parametrize("name", ["tpe", "grid", "qmc"])
    def test_the_rest_of_the_study_follows(self, make_spec: MakeSpec, storage: RDBStorage, name: str) -> None:
        """Interrupted in its middle it ends with as many ended trials, and a grid with every one of its points."""
        spec = make_spec(n_trials=6, search_space=FINITE | {"dropout": {"choices": [0.1, 0.2]}}, sampler={"name": name})
        study = open_study(spec, storage)
        run(study, spec, 2)
        point = self.interrupt(study, spec).params
        end_stale_trials(study)
        requeue_interrupted(study)
        while remaining_trials(study, spec):
            run(study, spec, 1)
        states = Counter(trial.state.name for trial in study.trials)
        assert states == {"COMPLETE": 6, "FAIL": 1}
        assert points(study)[3] == point
