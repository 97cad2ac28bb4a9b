"""Was the search long enough? The best score to be expected of so many of its trials.

They are taken as draws that are alike, so that any of them may have come first. A sampler that learns makes the later
ones better than that: then the curve stands a little too high for few trials.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna.trial import FrozenTrial, TrialState

from hpo.report.tables import View, learned_from_all
from hpo.search_spec import CmaEsSampler, GpSampler, RandomSampler, TpeSampler

Floats = NDArray[np.float64]
# Fewer trials say nothing about how the next ones would be.
MIN_DRAWS: Final = 4
# So many random trials make a curve of their own: what 8 startup trials leave, the first of which is the default. It is
# a rough one. Simulated with 7 trials whose scores are normal, it is off by 0.39 of their standard deviation for one
# draw and by 0.59 for seven (root mean square of 1,000 studies); with 8 trials by 0.35 and 0.56.
ENOUGH_RANDOM: Final = 7
RESAMPLES: Final = 1000
# Points of a curve; more could not be told apart.
MOST_POINTS: Final = 100
LEVEL: Final = 0.95
# Metrics that are shares: their differences are told in points, hundredths.
SHARES: Final = (
    "accuracy",
    *(f"{name}{of}" for name in ("f1", "precision", "recall") for of in ("", "_macro", "_micro")),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpectedBest:
    """The best score to be expected of the first `trials`, had they come in any order; with 95 % intervals."""

    trials: Floats
    """1, 2, ...: up to as many as there are."""
    mean: Floats
    low: Floats
    high: Floats
    seconds: Floats | None
    """What so many trials take, one after the other, with the pruning as it was; None where no trial has its time."""
    low_by_time: Floats | None
    """The interval of the best score after so many `seconds`, in which it is not known how many trials fit."""
    high_by_time: Floats | None
    draws: int
    """The trials that it is computed from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Trials that the search drew, as scores (the higher, the better) and times."""

    scores: Floats
    seconds: Floats


def expected_best(view: View) -> ExpectedBest | None:
    """The expected best score of the study's own search; None for fewer than `MIN_DRAWS` trials.

    The untuned default (trial 0) is given, not drawn, and left out: one would have its score without any search. A
    pruned trial counts by its last score: had it gone on, it would not have been the best, so all that matters is that
    it was a draw; but never as better than the best complete one. One that diverged counts as the worst. A failed trial
    says nothing about its parameters and counts for nothing; one that was tried again counts once.
    """
    return view.once(_of_search)


def expected_best_at_random(view: View) -> ExpectedBest | None:
    """The same of those trials alone that were drawn at random; None for fewer than `ENOUGH_RANDOM`.

    Those are all of a random search, and for `tpe`, `gp` and `cmaes` the ones that started before `n_startup_trials`
    had ended. `qmc` and `grid` spread their points evenly, which is better than draws at random: they have none.
    """
    return view.once(_at_random)


def caption(view: View) -> str:
    """What the figure of both curves shows, and what not; nothing where there is none."""
    curve = expected_best(view)
    if curve is None:
        return ""
    without = ", the untuned default left out" if view.spec else ""
    sentences = [
        "The expected best score of a search of that length (Dodge et al. 2019), had its trials come in any other "
        f"order; over {curve.draws} trials drawn{without}.",
        "The interval is nominal: in simulations of 8 to 100 trials it held the truth in 86 to 94 of 100 studies, for "
        "scores with a long upper tail in 74 to 89.",
    ]
    few = too_few_at_random(view)
    if few == 1:
        sentences.append("Its one random trial is too few for a curve of its own.")
    elif few:
        sentences.append(f"Its {few} random trials are too few for a curve of their own.")
    return " ".join(sentences)


def too_few_at_random(view: View) -> int:
    """How many random trials a sampler began with that make no curve; 0 where they do, or where all are random."""
    if view.spec is None or isinstance(view.spec.sampler, RandomSampler):
        return 0
    found = len(drawn(view, _is_random(view)).scores)
    return found if found < ENOUGH_RANDOM else 0


def expected_maximum(scores: ArrayLike, trials: ArrayLike) -> Floats:
    """The expected largest of so many draws with replacement from `scores` (Dodge et al. 2019, arXiv 1909.03004).

    With the scores in order, v_1 <= ... <= v_N, the largest of n draws is v_i with the probability
    (i / N)^n - ((i - 1) / N)^n. Tang et al. 2020 (ACL, "Showing Your Work Doesn't Always Work") show that this is too
    low on average, the more so the closer n is to N: with replacement, a sample of N holds only two thirds of the
    scores. It is what the field reports nevertheless, and what makes curves comparable; `look_back` does without.

    Args:
        scores: (..., N) one sample or several.
        trials: (M,) numbers of draws, not necessarily whole.

    Returns:
        (..., M)
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=-1)
    below = np.arange(ordered.shape[-1] + 1)[:, None] / ordered.shape[-1]
    return np.asarray(ordered @ np.diff(below ** np.asarray(trials, dtype=np.float64), axis=0))


def expected_best_of(
    scores: ArrayLike, seconds: ArrayLike | None = None, *, maximize: bool = True, seed: int = 0
) -> ExpectedBest:
    """The curve of these scores, with the percentile interval of a bootstrap over trials.

    The interval says how far the curve would move, had other trials been drawn. Resamples of the scores themselves are
    never above the best there is, so that their interval holds the expectation of as many draws as there are trials in
    39 to 54 of 100 simulated studies. So the best sqrt(n) are resampled from the exponential tail that fits them (a
    semiparametric bootstrap). Simulated with 8, 16, 30 and 100 trials whose scores are normal or skewed to the left,
    that interval holds it in 86, 91, 91 and 94 of 100 studies or more, at every number of draws; it still undercovers
    a little, and for exponential scores more (74 of 8 trials, 80 of 30, 89 of 100).

    Args:
        scores: one a trial.
        seconds: what each trial took, NaN where it is not known.
        maximize: whether the highest score is the best.
    """
    sign = 1.0 if maximize else -1.0
    values = sign * np.asarray(scores, dtype=np.float64)
    n = len(values)
    trials = _numbers(n)
    resampled, rows = _resampled(values, seed)
    low, high = _interval(expected_maximum(resampled, trials), sign)
    by_time: tuple[Floats, Floats] | tuple[None, None] = (None, None)
    times = np.full(n, np.nan) if seconds is None else np.asarray(seconds, dtype=np.float64)
    timed = bool(np.nansum(times) > 0)  # of another tool's study all may have ended as they began
    mean_time = float(np.nanmean(times)) if timed else math.nan
    if timed:
        by_time = _interval(_by_time(resampled, np.where(np.isnan(times), mean_time, times)[rows], trials), sign)
    return ExpectedBest(
        trials=trials,
        mean=sign * expected_maximum(values, trials),
        low=low,
        high=high,
        seconds=trials * mean_time if timed else None,
        low_by_time=by_time[0],
        high_by_time=by_time[1],
        draws=n,
    )


def tail(ordered: Floats) -> tuple[int, float]:
    """How many of the best make the upper tail, and its scale."""
    k = min(max(3, round(math.sqrt(len(ordered)))), len(ordered) - 1)
    return k, float(np.mean(ordered[-k:] - ordered[-k - 1]))


def _resampled(values: Floats, seed: int) -> tuple[Floats, NDArray[np.intp]]:
    """[resample][draw] Scores, those of the tail drawn from it, and the trials that they stand for."""
    generator, n = np.random.default_rng(seed), len(values)
    order = np.argsort(values)
    k, scale = tail(values[order])
    ranks = generator.integers(0, n, (RESAMPLES, n))
    scores, best = values[order][ranks], ranks >= n - k
    scores[best] = values[order[-k - 1]] + scale * generator.exponential(size=int(best.sum()))
    return scores, order[ranks]


def _of_search(view: View) -> ExpectedBest | None:
    return _curve(view, drawn(view))


def _at_random(view: View) -> ExpectedBest | None:
    draws = drawn(view, _is_random(view))
    return _curve(view, draws) if len(draws.scores) >= ENOUGH_RANDOM else None


def _curve(view: View, draws: Draws) -> ExpectedBest | None:
    if len(draws.scores) < MIN_DRAWS:
        return None
    maximize = view.direction == "maximize"
    curve = expected_best_of(draws.scores if maximize else -draws.scores, draws.seconds, maximize=maximize)
    return _at_most_1(curve) if is_share(view) else curve


def is_share(view: View) -> bool:
    return view.spec is not None and view.spec.metric.removeprefix("eval/") in SHARES


def _at_most_1(curve: ExpectedBest) -> ExpectedBest:
    """With the upper ends that a tail without an end carried too far."""
    by_time = None if curve.high_by_time is None else np.minimum(curve.high_by_time, 1.0)
    return replace(curve, high=np.minimum(curve.high, 1.0), high_by_time=by_time)


def _numbers(n: int) -> Floats:
    """1, 2, ..., n; of many, some that are evenly spread on a logarithmic scale."""
    if n <= MOST_POINTS:
        return np.arange(1.0, n + 1)
    return np.unique(np.round(np.geomspace(1, n, MOST_POINTS)))


def _interval(resampled: Floats, sign: float) -> tuple[Floats, Floats]:
    outside = 100 * (1 - LEVEL) / 2
    low, high = np.sort(sign * np.percentile(resampled, [outside, 100 - outside], axis=0), axis=0)
    return low, high


def _by_time(resampled: Floats, seconds: Floats, trials: Floats) -> Floats:
    """[resample][time] The expected best after the time that `trials` take on average, in which other numbers fit."""
    mean = np.maximum(seconds.mean(axis=1), 1e-9)
    # Quick trials make more of them than there were.
    numbers = np.concatenate([[0.0], trials, trials[-1] * np.array([1.25, 1.5, 2.0, 3.0])])
    curves = expected_maximum(resampled, np.maximum(numbers, 1e-9))
    fitting = np.outer(mean.mean() / mean, trials)
    return np.array([np.interp(at, numbers, curve) for at, curve in zip(fitting, curves, strict=True)])


def drawn(view: View, wanted: Callable[[int], bool] = lambda number: True) -> Draws:
    """The trials that count, in the order of their numbers."""
    sign = 1.0 if view.direction == "maximize" else -1.0
    table = view.table[view.table["state"].isin(["COMPLETE", "PRUNED"]) & learned_from_all(view.table)]
    if view.spec:  # the first trial of another tool's study was drawn as all others
        table = table[~table["is_default"]]
    table = table[table["number"].map(wanted).astype(bool)]
    scores = sign * table["score"].to_numpy(dtype=np.float64, copy=True)
    finite = np.isfinite(scores)
    complete = finite & (table["state"] == "COMPLETE").to_numpy()
    if not complete.any():
        return Draws(scores=np.empty(0), seconds=np.empty(0))
    scores[~finite] = scores[finite].min()
    scores = np.minimum(scores, scores[complete].max())
    durations = {trial.number: _duration(trial) for trial in view.trials}
    seconds = table["seconds"].fillna(table["number"].map(durations)).to_numpy(dtype=np.float64)
    return Draws(scores=scores, seconds=seconds)


def _duration(trial: FrozenTrial) -> float:
    return math.nan if trial.duration is None else trial.duration.total_seconds()


def _is_random(view: View) -> Callable[[int], bool]:
    """Whether the trial of a number was drawn at random.

    Optuna's samplers look at the trials that have ended when one starts: TPE at complete and pruned ones, the others at
    complete ones. A trial that repeats another has its parameters, drawn when the first attempt began.
    """
    sampler = view.spec.sampler if view.spec else None
    if isinstance(sampler, RandomSampler):
        return lambda number: True
    if not isinstance(sampler, TpeSampler | GpSampler | CmaEsSampler):
        return lambda number: False
    counted = {TrialState.COMPLETE, TrialState.PRUNED} if isinstance(sampler, TpeSampler) else {TrialState.COMPLETE}
    ends = sorted(t.datetime_complete for t in view.trials if t.state in counted and t.datetime_complete)
    trials = {trial.number: trial for trial in view.trials}
    startup = sampler.n_startup_trials

    def is_random(number: int) -> bool:
        trial = trials[number]
        while (repeated := trial.user_attrs.get("retry_of")) in trials:
            trial = trials[repeated]
        start = trial.datetime_start
        return start is not None and sum(end <= start for end in ends[:startup]) < startup

    return is_random
