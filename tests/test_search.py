"""Every sampler and every pruner that a study file may name, held to one contract each. Nothing is trained here."""

import math
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest

from hpo import search_spec, space
from hpo.search import build_pruner, build_sampler, derive_seed, first_pruning
from hpo.spec import StudySpec
from hpo.storage import open_storage
from hpo.study import open_study
from searching import CONDITIONAL, FINITE, MIXED, NUMBERS, MakeSpec, in_memory, points, run, score


def names_of(union: Any) -> list[str]:
    """The names that a study file may choose from: of every member of the union, so a new one is tested at once."""
    members, *_ = get_args(union)
    return [get_args(member.model_fields["name"].annotation)[0] for member in get_args(members)]


SAMPLERS, PRUNERS = names_of(search_spec.Sampler), names_of(search_spec.Pruner)
CONTINUOUS = [name for name in SAMPLERS if name != "grid"]


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

    @pytest.mark.parametrize(
        ("name", "alone"), [("tpe", set()), ("gp", set()), ("cmaes", {"train_batch_size", "max_grad_norm"})]
    )
    def test_parameters_are_modelled_together(self, build: MakeSpec, name: str, alone: set[str]) -> None:
        """A good learning rate depends on the batch size. Optuna's own default for TPE looks at each by itself."""
        spec = build(name)
        study = in_memory(spec)
        run(study, spec, 5)
        together = study.sampler.infer_relative_search_space(study, study.trials[-1])
        assert set(together) == set(spec.search_space) - alone

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

    @pytest.mark.parametrize(
        "settings",
        [
            {"name": "median", "n_startup_trials": 1, "n_warmup_steps": 3},
            {"name": "percentile", "n_startup_trials": 1},
            {"name": "successive_halving", "reduction_factor": 2, "min_resource": 2, "min_early_stopping_rate": 1},
            {"name": "hyperband", "min_resource": 2},
            {"name": "patient", "patience": 1, "wrapped": {"name": "none"}},
            {"name": "patient", "patience": 1, "wrapped": {"name": "median", "n_warmup_steps": 5}},
        ],
    )
    def test_the_first_pruning_is_the_first(self, build: MakeSpec, settings: dict[str, Any]) -> None:
        """Held against what Optuna does to trials that are the worse the longer they last."""
        spec = build(**settings)
        ended = self.ended_at(spec, [[1 - (step + number) / 100 for step in range(9)] for number in range(40)])
        assert min(step for step in ended if step) == first_pruning(spec.pruner)

    def test_no_pruner_has_a_first_pruning(self, build: MakeSpec) -> None:
        assert first_pruning(build(name="none").pruner) == math.inf


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
