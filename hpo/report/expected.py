"""Was the search long enough? The best score to be expected of so many trials, and what another hour would bring.

Both take a study's trials as draws that are alike, so that any of them may have come first. A sampler that learns makes
the later ones better than that: then the curve stands a little too high for few trials, and the hour a little too low.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from optuna.trial import FrozenTrial, TrialState
from scipy.optimize import brentq
from scipy.special import gammaln

from hpo.report.tables import View
from hpo.results import Finals
from hpo.search_spec import CmaEsSampler, GpSampler, RandomSampler, TpeSampler

Floats = NDArray[np.float64]
HOUR: Final = 3600.0
# Fewer trials say nothing about how the next ones would be.
MIN_DRAWS: Final = 4
# So many random trials make a curve of their own: below, its interval is as wide as the scores are.
ENOUGH_RANDOM: Final = 8
RESAMPLES: Final = 1000
# Points of a curve; more could not be told apart.
MOST_POINTS: Final = 100
LEVEL: Final = 0.95
POINTS: Final = " points"
# Metrics that are shares: their differences are told in points, hundredths.
SHARES: Final = ("accuracy", "f1_macro", "f1", "precision_macro", "precision", "recall_macro", "recall")


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


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What more time would likely bring, on validation."""

    seconds: float
    """An hour. Less where as many trials again as there were take less: further nobody can see. More for slow ones."""
    trials: int
    """That fit into it, at the study's pace and with its workers."""
    chance: float
    """Of a new best one."""
    gain: float
    """How much better the best score would be on average, were its trials like those so far: of either direction, a
    positive number."""
    high: float
    """Not exceeded by the gain with a probability of 95 %; its lower end is 0, no new best."""
    last: int
    """The last trials of the search, n - n': as large a factor back as `trials` are ahead."""
    brought: float
    """How much they have made the best score better."""
    seed_spread: float | None
    """The standard deviation of a configuration's score over seeds, from the finalists; None where it is unknown."""
    sentence: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Draws:
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


def another_hour(view: View, finals: Finals | None = None) -> Outlook | None:
    """What another hour would likely bring; None for fewer than `MIN_DRAWS` trials or where no trial has its time.

    The assumption is that the m trials to come are like the n there are, so that all orders of the n + m are equally
    likely. Then the best of all is among the m with a probability of m / (n + m), and the gain is estimated by looking
    back by the same factor: from n' = n * n / (n + m) trials to n, averaged over all orders. A curve of the expected
    best that is linear in log n, which it is for scores with an exponential tail, gains equally in both. The best
    averages are those of draws without replacement (Tang et al. 2020): as Dodge et al. 2019 have it, the gain comes out
    a third too small.

    The interval takes the scores' upper tail for exponential, and its scale from the best sqrt(n) of them: for a
    lighter tail, as of all scores that cannot exceed 1, it is wider than it had to be. The bootstrap's interval cannot
    go beyond the scores that were seen, and held the true gain in 61 to 87 of 100 simulated studies instead of 95.

    Simulated (16 to 100 trials, a quarter to as many more, scores normal, exponential, or skewed to the left): the gain
    is between 0.95 and 1.5 times the true one (1.8 for uniform scores, which end abruptly), the interval holds it in 95
    to 100 of 100 studies. A sampler that learns finds more: after 16 and 30 trials, half as many more of TPE brought
    2.0 and 2.9 times the gain foretold. The interval held it in 98 and 95 of 100 studies, and the actual last trials
    had brought 1.2 and 1.06 times what came (of a random search 1.5 and 0.95 times). So those are told beside it.

    Args:
        finals: for the spread over seeds, beside which a gain is large or small.
    """
    draws, pace = _drawn(view), _pace(view)
    n, best = len(draws.scores), float(draws.scores.max(initial=-math.inf))
    if n < MIN_DRAWS or pace is None:
        return None
    more = max(1, round(min(HOUR * pace, n)))
    standing = _default_score(view)
    chance, gain = look_back(np.maximum(draws.scores, standing), more)
    room = max(0.0, 1.0 - max(best, standing)) if _is_share(view) else math.inf
    outlook = Outlook(
        seconds=HOUR if 1 <= HOUR * pace <= n else more / pace,
        trials=more,
        chance=chance,
        gain=gain,
        high=min(room, max(0.0, highest_gain(draws.scores, more) - max(0.0, standing - best))),
        last=(last := round(n - n * n / (n + more))),
        brought=max(0.0, best - max(standing, float(draws.scores[: n - last].max()))),
        seed_spread=seed_spread(finals),
    )
    alike = bool(np.all(draws.scores == draws.scores[0]))
    return replace(outlook, sentence=_sentence(view, outlook, alike=alike, default_leads=standing >= best))


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


def look_back(scores: ArrayLike, more: float) -> tuple[float, float]:
    """The chance of a new largest score in so many more draws, and the gain to be expected, as `another_hour` has it.

    Of n scores in order, the largest of n' draws without replacement is at most v_i with the probability
    C(i, n') / C(n, n'); here n' = n * n / (n + more) need not be whole.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(ordered)
    before = n * n / (n + more)
    rank = np.arange(n + 1, dtype=np.float64)
    possible = rank > before - 1
    log_ratio = np.full(n + 1, -np.inf)
    log_ratio[possible] = gammaln(rank[possible] + 1) - gammaln(rank[possible] - before + 1)
    at_most = np.minimum(1.0, np.exp(log_ratio - (gammaln(n + 1) - gammaln(n - before + 1))))
    gains = ordered[-1] - ordered
    probability = np.diff(at_most)
    return float(probability[gains > 0].sum()), float(probability @ gains)


def highest_gain(scores: ArrayLike, more: float, level: float = LEVEL) -> float:
    """The gain that so many more draws do not exceed with a probability of `level`, for an exponential upper tail.

    The mean excess of the best k = sqrt(n) scores over the next one is the tail's scale (for an exponential tail it is
    its most likely one). How large a multiple of it is needed follows from the joint distribution of that estimate and
    of the best score, which for exponential tails does not depend on the scale.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    k, scale = _tail(ordered)
    return _multiple(len(ordered), more, k, level) * scale


def seed_spread(finals: Finals | None) -> float | None:
    """The standard deviation of one configuration's score over seeds, pooled over the finalists."""
    scores = [np.array(finalist.scores) for finalist in finals.finalists] if finals else []
    freedom = sum(len(of_one) - 1 for of_one in scores if len(of_one))
    if not freedom:
        return None
    squares = sum(float(((of_one - of_one.mean()) ** 2).sum()) for of_one in scores if len(of_one))
    return math.sqrt(squares / freedom)


def _tail(ordered: Floats) -> tuple[int, float]:
    """How many of the best make the upper tail, and its scale."""
    k = min(max(3, round(math.sqrt(len(ordered)))), len(ordered) - 1)
    return k, float(np.mean(ordered[-k:] - ordered[-k - 1]))


def _resampled(values: Floats, seed: int) -> tuple[Floats, NDArray[np.intp]]:
    """[resample][draw] Scores, those of the tail drawn from it, and the trials that they stand for."""
    generator, n = np.random.default_rng(seed), len(values)
    order = np.argsort(values)
    k, scale = _tail(values[order])
    ranks = generator.integers(0, n, (RESAMPLES, n))
    drawn, tail = values[order][ranks], ranks >= n - k
    drawn[tail] = values[order[-k - 1]] + scale * generator.exponential(size=int(tail.sum()))
    return drawn, order[ranks]


def _multiple(n: int, more: float, k: int, level: float) -> float:
    """By Rényi's representation: the i-th gap of ordered exponential draws, from the top, is exponential with mean 1/i.

    Given the best one, v, no one of m more exceeds v + g with the probability (1 - exp(-v - g))^m.
    """
    gaps = np.random.default_rng(0).exponential(size=(4000, n))
    largest, scale = gaps @ (1 / np.arange(1, n + 1)), gaps[:, :k].mean(axis=1)

    def missing(multiple: float) -> float:
        return float(np.mean((1 - np.exp(-largest - multiple * scale)) ** more)) - level

    return 0.0 if missing(0.0) >= 0 else float(brentq(missing, 0.0, 1000.0))


def _of_search(view: View) -> ExpectedBest | None:
    return _curve(view, _drawn(view))


def _at_random(view: View) -> ExpectedBest | None:
    draws = _drawn(view, _is_random(view))
    return _curve(view, draws) if len(draws.scores) >= ENOUGH_RANDOM else None


def _curve(view: View, draws: _Draws) -> ExpectedBest | None:
    if len(draws.scores) < MIN_DRAWS:
        return None
    maximize = view.direction == "maximize"
    curve = expected_best_of(draws.scores if maximize else -draws.scores, draws.seconds, maximize=maximize)
    return _at_most_1(curve) if _is_share(view) else curve


def _is_share(view: View) -> bool:
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
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.sort(sign * np.percentile(resampled, [tail, 100 - tail], axis=0), axis=0)
    return low, high


def _by_time(resampled: Floats, seconds: Floats, trials: Floats) -> Floats:
    """[resample][time] The expected best after the time that `trials` take on average, in which other numbers fit."""
    mean = np.maximum(seconds.mean(axis=1), 1e-9)
    # Quick trials make more of them than there were.
    numbers = np.concatenate([[0.0], trials, trials[-1] * np.array([1.25, 1.5, 2.0, 3.0])])
    curves = expected_maximum(resampled, np.maximum(numbers, 1e-9))
    fitting = np.outer(mean.mean() / mean, trials)
    return np.array([np.interp(at, numbers, curve) for at, curve in zip(fitting, curves, strict=True)])


def _drawn(view: View, wanted: Callable[[int], bool] = lambda number: True) -> _Draws:
    """The trials that count, in the order of their numbers."""
    sign = 1.0 if view.direction == "maximize" else -1.0
    table = view.table[view.table["state"].isin(["COMPLETE", "PRUNED"])]
    if view.spec:  # the first trial of another tool's study was drawn as all others
        table = table[~table["is_default"]]
    table = table[table["number"].map(wanted).astype(bool)]
    scores = sign * table["score"].to_numpy(dtype=np.float64, copy=True)
    finite = np.isfinite(scores)
    complete = finite & (table["state"] == "COMPLETE").to_numpy()
    if not complete.any():
        return _Draws(scores=np.empty(0), seconds=np.empty(0))
    scores[~finite] = scores[finite].min()
    scores = np.minimum(scores, scores[complete].max())
    durations = {trial.number: _duration(trial) for trial in view.trials}
    seconds = table["seconds"].fillna(table["number"].map(durations)).to_numpy(dtype=np.float64)
    return _Draws(scores=scores, seconds=seconds)


def _duration(trial: FrozenTrial) -> float:
    return math.nan if trial.duration is None else trial.duration.total_seconds()


def _default_score(view: View) -> float:
    """What a new best has to exceed also (the higher, the better)."""
    score = view.only(view.default)["score"] if view.spec else pd.Series(dtype="float64")
    complete = not score.empty and view.only(view.default)["state"].iloc[0] == "COMPLETE"
    sign = 1.0 if view.direction == "maximize" else -1.0
    return sign * float(score.iloc[0]) if complete else -math.inf


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


def _pace(view: View) -> float | None:
    """Complete and pruned trials a second of the search, its workers and what failed as they were.

    Time without a trial counts as long as it is no longer than the mean trial: so much is the work between two of them.
    What is longer was a pause of the search.
    """
    spans = sorted(
        (trial.datetime_start.timestamp(), trial.datetime_complete.timestamp())
        for trial in view.trials
        if trial.datetime_start and trial.datetime_complete
    )
    ended = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in view.trials)
    if not spans or not ended:
        return None
    mean = float(np.mean([end - start for start, end in spans]))
    busy, until = 0.0, spans[0][0]
    for start, end in spans:
        gap = start - until
        busy += max(0.0, end - until) - (gap if gap > mean else 0.0)
        until = max(until, end)
    return ended / busy if busy > 0 else None


def _sentence(view: View, outlook: Outlook, *, alike: bool, default_leads: bool) -> str:
    span, metric = _span(view, outlook), view.metric
    if alike:
        return f"{span} would likely bring nothing: no trial drawn so far has been better than another."
    if default_leads:
        high = _amount(view, outlook.high)
        return (
            f"{span} may bring a new best or not: no trial drawn so far beats the untuned default, so they cannot tell "
            f"how likely the next ones would (95 % interval of the gain: 0 to {high})."
        )
    better = "more" if view.direction == "maximize" else "less"
    seeds = ""
    if outlook.seed_spread is not None:
        seeds = f" Seeds alone move a score by {_amount(view, outlook.seed_spread)} (standard deviation)."
    gain, high, brought = (_amount(view, difference) for difference in (outlook.gain, outlook.high, outlook.brought))
    return (
        f"{span} would bring {gain} {better} {metric} on average (95 % interval 0 to {high.removesuffix(POINTS)}), and "
        f"a new best with a chance of {outlook.chance:.0%}, were its trials like those so far. The last {outlook.last} "
        f"brought {brought}.{seeds}"
    )


def _span(view: View, outlook: Outlook) -> str:
    minutes, more = outlook.seconds / 60, outlook.trials
    time = (
        f"{minutes / 60:.1f} hours"
        if minutes > 90
        else f"{minutes:.0f} minutes"
        if minutes >= 2
        else f"{60 * minutes:.0f} s"
    )
    if outlook.seconds < HOUR:
        return f"An hour is further than these trials can tell; as many again ({more}, in about {time})"
    if outlook.seconds > HOUR:
        return f"One more trial (about {time})"
    return f"Another hour (about {more} more trial{'' if more == 1 else 's'})"


def _amount(view: View, difference: float) -> str:
    """`0.4 points` of a share, `0.012` of any other metric."""
    if not _is_share(view):
        return f"{difference:.2g}"
    return f"{100 * difference:.1f}{POINTS}" if difference >= 0.0005 or not difference else f"less than 0.1{POINTS}"
