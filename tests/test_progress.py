"""How far a search is: the median against Optuna's pruner, the time left against hand-worked numbers and replays."""

import csv
import heapq
import random
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpo.events import Evaluated, StepDone, TrialEnded, TrialStarted, Waits
from hpo.progress import Cost, Pruning, StudyProgress, pruning_of
from searching import MakeSpec

RECORDED = Path(__file__).parent.parent / "benchmarks" / "pruners.csv"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ended(number: int, state: str, share: float, seconds: float, score: float | None = 0.5) -> TrialEnded:
    return TrialEnded(number, state, None, score, {}, share, seconds, number == 0, None)


def run(progress: StudyProgress, number: int, scores: list[float], state: str = "COMPLETE") -> None:
    progress.take(TrialStarted(number, {}))
    for step, score in enumerate(scores, start=1):
        progress.take(Evaluated(number, step, score))
    progress.take(ended(number, state, 1.0, 60.0, scores[-1]))


def test_a_trial_with_fewer_rows_is_never_the_best() -> None:
    progress = StudyProgress(3, "maximize")
    for number, score, competes in ((0, 0.7, True), (1, 0.9, False), (2, 0.8, True)):
        progress.take(TrialStarted(number, {}))
        assert progress.take(replace(ended(number, "COMPLETE", 1.0, 60.0, score), competes=competes)) == competes
    assert progress.best == ("trial 2", 0.8)


def test_nothing_is_known_before_a_step_is_done() -> None:
    clock = Clock()
    progress = StudyProgress(3, "maximize", clock=clock)
    assert progress.seconds_left() is None
    progress.take(TrialStarted(0, {}))
    clock.now = 10.0
    assert progress.seconds_left() is None
    progress.take(StepDone(0, 1, 4))
    assert progress.seconds_left() == pytest.approx(30 + 2 * 40)  # a quarter took ten seconds


def test_without_pruning_every_trial_takes_the_mean() -> None:
    clock = Clock()
    progress = StudyProgress(4, "maximize", clock=clock)
    progress.take(TrialStarted(0, {}))
    progress.take(ended(0, "COMPLETE", 1.0, 60.0))
    assert progress.seconds_left() == pytest.approx(3 * 60)
    progress.take(TrialStarted(1, {}))
    clock.now = 45.0
    progress.take(StepDone(1, 1, 2))
    # Half in 45 s, and a tenth at the others' 60 s: (45 + 6) / 0.6 = 85 s for the whole, of which half is left.
    assert progress.seconds_left() == pytest.approx(42.5 + 2 * 60)


def test_workers_share_what_is_left_and_the_longest_trial_is_the_least() -> None:
    progress = StudyProgress(10, "maximize", workers=4, clock=Clock())
    progress.take(TrialStarted(0, {}))
    progress.take(ended(0, "COMPLETE", 1.0, 60.0))
    assert progress.seconds_left() == pytest.approx(9 * 60 / 4)
    progress.done = 9
    assert progress.seconds_left() == pytest.approx(60)
    progress.done = 1
    progress.take(TrialStarted(1, {}))
    progress.take(Waits(1, None, 0.0))
    assert progress.seconds_left() == pytest.approx(9 * 60 / 3)


def test_pruned_trials_count_as_they_were() -> None:
    """Startup trials take all of it; then three of four are expected to end at the first look, until some have."""
    progress = StudyProgress(12, "maximize", clock=Clock(), pruning=Pruning(first=0.25, startup=2))
    progress.take(ended(0, "COMPLETE", 1.0, 80.0))
    # One more startup trial of 80 s, and ten of (3 * 0.25 + 1) / 4 = 0.4375 of them.
    assert progress.seconds_left() == pytest.approx(80 + 10 * 35)
    progress.take(ended(1, "COMPLETE", 1.0, 80.0))
    for number in range(2, 6):
        progress.take(ended(number, "PRUNED", 0.25, 20.0))
    # Four have been seen to end there: six of (4 * 0.25 + 3 * 0.25 + 1) / 8 = 0.34375.
    assert progress.seconds_left() == pytest.approx(6 * 27.5)


def test_a_running_trial_takes_what_those_that_came_so_far_took_from_there() -> None:
    clock = Clock()
    progress = StudyProgress(3, "maximize", clock=clock, pruning=Pruning(first=0.25, startup=2))
    for number in range(2):
        progress.take(ended(number, "COMPLETE", 1.0, 80.0))
    progress.take(TrialStarted(2, {}))
    clock.now = 8.0
    progress.take(StepDone(2, 1, 10))
    # Expected: three at 0.25, one at 1; from a tenth on 0.15, 0.15, 0.15 and 0.9 of 80 s.
    assert progress.seconds_left() == pytest.approx(80 * (3 * 0.15 + 0.9) / 4)
    clock.now = 40.0
    progress.take(StepDone(2, 5, 10))  # it has outlived the pruning
    assert progress.seconds_left() == pytest.approx(40)


def test_a_trial_that_went_on_from_a_checkpoint_has_the_pace_of_this_attempt() -> None:
    clock = Clock()
    progress = StudyProgress(1, "maximize", clock=clock)
    progress.take(TrialStarted(0, {}))
    progress.take(StepDone(0, 81, 100))
    clock.now = 10.0
    progress.take(StepDone(0, 90, 100))
    assert progress.seconds_left() == pytest.approx(10)


def test_the_timeout_bounds_what_starts_and_not_what_runs() -> None:
    clock = Clock()
    progress = StudyProgress(100, "maximize", timeout=100.0, clock=clock)
    progress.take(ended(0, "COMPLETE", 1.0, 60.0))
    progress.take(TrialStarted(1, {}))
    clock.now = 30.0
    progress.take(StepDone(1, 1, 2))
    assert progress.seconds_left() == pytest.approx(70 + 60)
    clock.now = 100.0
    assert progress.seconds_left() == pytest.approx((100 + 6) / 0.6 / 2)
    progress.begin()
    assert progress.elapsed == 0


def test_what_others_took_counts_until_something_has_ended() -> None:
    progress = StudyProgress(5, "maximize", title="finalists", earlier=[Cost(1.0, 50.0)], clock=Clock())
    assert progress.seconds_left() == pytest.approx(250)
    progress.take(ended(0, "COMPLETE", 1.0, 20.0))
    assert progress.seconds_left() == pytest.approx(80)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_what_stands_worse_than_the_median_is_what_optuna_prunes(direction: Literal["maximize", "minimize"]) -> None:
    draw = random.Random(0)
    study = optuna.create_study(direction=direction, pruner=optuna.pruners.MedianPruner(0, 0))
    progress = StudyProgress(1000, direction)
    places = set()
    for number in range(60):
        trial = study.ask()
        progress.take(TrialStarted(number, {}))
        for step in range(1, 5):
            score = round(draw.random(), 1)  # so that some are equal
            trial.report(score, step)
            progress.take(Evaluated(number, step, score))
            standing = progress.standing(progress.running[number])
            assert standing and standing.score == score
            places.add(standing.place)
            # Optuna asks for the best score so far: what was better than this median once goes on.
            assert trial.should_prune() == (not standing.better and not standing.place.startswith("was"))
            if standing.median is not None and not standing.place.startswith("was"):
                word = "above" if score > standing.median else "below" if score < standing.median else "equal"
                assert standing.place == word
        study.tell(trial, score)
        progress.take(ended(number, "COMPLETE", 1.0, 1.0, score))
    assert places == {"", "above", "below", "equal", "was above" if direction == "maximize" else "was below"}


def test_there_is_no_median_without_a_complete_trial() -> None:
    progress = StudyProgress(9, "maximize")
    run(progress, 0, [0.5, 0.6], state="PRUNED")
    progress.take(TrialStarted(1, {}))
    assert progress.standing(progress.running[1]) is None
    progress.take(Evaluated(1, 1, 0.7))
    standing = progress.standing(progress.running[1])
    assert standing and (standing.score, standing.median, standing.place) == (0.7, None, "")


def test_the_best_is_the_first_of_equal_complete_trials() -> None:
    progress = StudyProgress(9, "minimize")
    assert progress.take(ended(0, "COMPLETE", 1.0, 1.0, 0.5))
    assert not progress.take(ended(1, "COMPLETE", 1.0, 1.0, 0.5))
    assert not progress.take(ended(2, "PRUNED", 1.0, 1.0, 0.1))
    assert not progress.take(ended(3, "COMPLETE", 1.0, 1.0, float("nan")))
    assert progress.take(ended(4, "COMPLETE", 1.0, 1.0, 0.4))
    assert progress.best == ("trial 4", 0.4)


def test_storage_tells_what_earlier_trials_took_and_scored() -> None:
    study = optuna.create_study(direction="maximize")
    result = {"optimizer_steps": 10, "total_steps": 40, "seconds": 5.0}
    study.add_trial(
        create_trial(
            value=0.8,
            intermediate_values={1: 0.6, 2: 0.8},
            user_attrs={"result": result | {"optimizer_steps": 40, "seconds": 20.0}},
        )
    )
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.5}, user_attrs={"result": result}))
    study.add_trial(create_trial(value=0.7))  # of which nothing is known
    progress = StudyProgress(5, "maximize", done=3, clock=Clock())
    progress.know(study)
    assert progress.costs == [Cost(1.0, 20.0), Cost(0.25, 5.0)]
    assert progress.best == ("trial 0", 0.8)
    progress.take(TrialStarted(3, {}))
    progress.take(Evaluated(3, 1, 0.65))
    standing = progress.standing(progress.running[3])
    assert standing and standing.median == 0.6
    assert progress.seconds_left() is not None


def test_an_event_of_a_trial_that_is_gone_is_none() -> None:
    progress = StudyProgress(5, "maximize")
    for event in (StepDone(3, 1, 2), Evaluated(3, 1, 0.5), Waits(3, None, 0.0)):
        assert not progress.take(event)
    assert not progress.running


@pytest.mark.parametrize(
    ("pruner", "known"),
    [
        ({"name": "none"}, Pruning(1.0, 0)),
        ({"name": "median", "n_startup_trials": 3, "n_warmup_steps": 1}, Pruning(0.5, 3)),
        ({"name": "median", "n_startup_trials": 0}, Pruning(0.25, 1)),
        ({"name": "successive_halving", "min_resource": 2}, Pruning(0.5, 0)),
        ({"name": "patient", "patience": 1, "wrapped": {"name": "median"}}, Pruning(0.75, 5)),
    ],
)
def test_when_a_studys_pruner_may_prune(make_spec: MakeSpec, pruner: dict[str, object], known: Pruning) -> None:
    spec = make_spec(pruner=pruner)
    training = spec.training.model_copy(update={"num_evaluations": 4})
    assert pruning_of(spec.model_copy(update={"training": training})) == known


@dataclass(frozen=True)
class Recorded:
    """A real trial that ran to its end: see `benchmarks/pruners.py`."""

    seconds: float
    scores: tuple[float, ...]


def recorded() -> list[Recorded]:
    with RECORDED.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    curves = [tuple(float(row[f"score_{step}"]) for step in range(1, 11) if row[f"score_{step}"]) for row in rows]
    return [Recorded(float(row["seconds"]), curve) for row, curve in zip(rows, curves, strict=True) if len(curve) == 10]


def replayed(seed: int, workers: int, n_trials: int, *, prunes: bool, trials: list[Recorded]) -> float:
    """Halfway through a replayed study: the error of the time left, as a share of what it truly was."""
    draw, clock = random.Random(seed), Clock()
    pruner = optuna.pruners.MedianPruner(5, 1) if prunes else optuna.pruners.NopPruner()
    study = optuna.create_study(direction="maximize", pruner=pruner)
    pruning = Pruning(0.1, 5) if prunes else Pruning()
    progress = StudyProgress(n_trials, "maximize", workers=workers, pruning=pruning, clock=clock)
    queue: list[tuple[float, int, int]] = []
    running: dict[int, tuple[optuna.Trial, Recorded, float]] = {}
    told: list[tuple[float, float | None]] = []

    def start() -> None:
        trial = study.ask()
        running[trial.number] = (trial, draw.choice(trials), clock.now)
        progress.take(TrialStarted(trial.number, {}))
        heapq.heappush(queue, (clock.now + running[trial.number][1].seconds / 10, trial.number, 1))

    for _ in range(workers):
        start()
    while queue:
        clock.now, number, step = heapq.heappop(queue)
        trial, real, began = running[number]
        score = real.scores[step - 1]
        progress.take(StepDone(number, step, 10))
        progress.take(Evaluated(number, step, score))
        trial.report(score, step)
        prune = number > 0 and step < 10 and trial.should_prune()
        if not prune and step < 10:
            heapq.heappush(queue, (clock.now + real.seconds / 10, number, step + 1))
        else:
            study.tell(trial, None if prune else score, state=TrialState.PRUNED if prune else None)
            state = "PRUNED" if prune else "COMPLETE"
            progress.take(ended(number, state, step / 10, clock.now - began, score))
            if len(study.get_trials(deepcopy=False)) < n_trials:
                start()
        told.append((clock.now, progress.seconds_left()))
    end = clock.now
    at, left = min(told, key=lambda each: abs(each[0] - end / 2))
    assert left is not None
    return (left - (end - at)) / (end - at)


@pytest.mark.parametrize(
    ("workers", "n_trials", "prunes", "most"),
    [(1, 16, False, 0.08), (4, 30, False, 0.15), (1, 16, True, 0.4), (1, 30, True, 0.5), (4, 30, True, 0.4)],
)
def test_halfway_through_replayed_studies_the_time_left_is_about_right(
    workers: int, n_trials: int, prunes: bool, most: float
) -> None:
    """The mean time of what ended, times what is left, is wrong by 120 to 230 % where half and more are pruned."""
    trials = recorded()
    errors = [replayed(seed, workers, n_trials, prunes=prunes, trials=trials) for seed in range(15)]
    assert statistics.median(map(abs, errors)) < most
