"""Samplers and pruners behind one contract, and the budget as storage has it."""

import optuna
import pytest

from conftest import StudyMaker
from hpo import space
from hpo.spec import StudySpec
from hpo.study import build_pruner, build_sampler, derive_seed
from hpo.study_file import parse_study

SAMPLERS = ("tpe", "random", "gp", "cmaes", "qmc", "grid")
SPACE = {
    "max_grad_norm": {"choices": [None, 0.5, 1.0]},
    "dropout": {"low": 0.0, "high": 0.4, "step": 0.1},
    "train_batch_size": {"choices": [8, 16, 32]},
}


@pytest.mark.parametrize("name", SAMPLERS)
class TestSamplers:
    """What holds for every sampler, rebuilt for each trial as `run_trial` does."""

    def points(self, spec: StudySpec, n_trials: int) -> list[dict[str, object]]:
        study = optuna.create_study(direction="maximize")
        drawn: list[dict[str, object]] = []

        def objective(trial: optuna.Trial) -> float:
            drawn.append(dict(space.suggest(trial, spec)))
            return 1 / (trial.number + 1)

        for position in range(n_trials):
            study.sampler = build_sampler(spec, position)
            study.optimize(objective, n_trials=1)
        return drawn

    def test_draws_lie_in_the_space_differ_and_come_again(self, name: str, raw_study: StudyMaker) -> None:
        spec = parse_study(raw_study(search_space=SPACE, sampler={"name": name}), "x")
        drawn = self.points(spec, 8)
        for point in drawn:
            assert point["max_grad_norm"] in (None, 0.5, 1.0)
            assert point["train_batch_size"] in (8, 16, 32)
            assert isinstance(point["dropout"], float) and 0 <= point["dropout"] <= 0.4
        assert len({str(point) for point in drawn}) > 4
        assert drawn == self.points(spec, 8)


@pytest.mark.parametrize(("n_warmup_steps", "pruned_at"), [(0, 1), (1, 2), (2, 3)])
def test_warm_up_spares_as_many_evaluations_as_it_says(
    raw_study: StudyMaker, n_warmup_steps: int, pruned_at: int
) -> None:
    pruner = {"name": "median", "n_startup_trials": 1, "n_warmup_steps": n_warmup_steps}
    assert steps_of_a_bad_trial(parse_study(raw_study(pruner=pruner), "x")) == pruned_at


@pytest.mark.parametrize(
    ("pruner", "steps"),
    [
        ({"name": "none"}, 4),
        ({"name": "percentile", "n_startup_trials": 1}, 1),
        ({"name": "successive_halving", "reduction_factor": 2}, 1),
        # Steps 1 and 2 are its window of patience: at the third it has not improved on what it had before them.
        ({"name": "patient", "patience": 1, "wrapped": {"name": "none"}}, 3),
    ],
)
def test_each_pruner_stops_a_bad_trial_when_it_says(
    raw_study: StudyMaker, pruner: dict[str, object], steps: int
) -> None:
    assert steps_of_a_bad_trial(parse_study(raw_study(pruner=pruner), "x")) == steps


def test_hyperband_builds_for_the_study_s_evaluations(raw_study: StudyMaker) -> None:
    pruner = build_pruner(parse_study(raw_study(pruner={"name": "hyperband"}), "x"))
    assert isinstance(pruner, optuna.pruners.HyperbandPruner)


def steps_of_a_bad_trial(spec: StudySpec) -> int:
    """After four good trials, how many of its evaluations a bad one is given."""
    study = optuna.create_study(direction="maximize", pruner=build_pruner(spec))
    steps = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal steps
        for steps in range(1, 5):
            trial.report(0.4 - steps / 100 if trial.number == 4 else 0.9 + steps / 100, steps)
            if trial.should_prune() and trial.number == 4:  # asking is what enters a trial into a rung
                raise optuna.TrialPruned
        return 0.5

    study.optimize(objective, n_trials=5)
    return steps


def test_seeds_are_the_same_in_every_process() -> None:
    assert derive_seed(0, "trial", 1) == derive_seed(0, "trial", 1)
    assert len({derive_seed(seed, "trial", number) for seed in range(10) for number in range(10)}) == 100
