"""What mattered: how much each parameter decided the score, which did nothing, and which range was too narrow.

Importance is fANOVA's (Hutter et al. 2014): the share of the variance of a random forest's prediction, over the whole
search space, that a parameter explains by itself. It was compared with PED-ANOVA on simulated studies of TPE with 16,
30 and 100 trials (6 parameters of which two did nothing, 25 to 47 % of the trials pruned; 60, 60 and 30 studies), by
how many pairs of parameters come out in their true order. Optuna's PED-ANOVA, of complete trials: 61, 60 and 59 %, with
the pruned ones at their rank 62, 64 and 64 %; a category of seven choices hardly counts there. Optuna's fANOVA, of
complete trials: 64, 64 and 67 %, with the pruned ones at their last score 71, 76 and 78 %. This module's, which takes a
logarithmic range as such: 70, 75 and 74 % (80, 80 and 60 other studies), but it puts the parameter that decides most
first in 75, 89 and 87 % of them, Optuna's in 37, 28 and 43 %.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial
from scipy.stats import binomtest, hypergeom
from sklearn.ensemble import RandomForestRegressor

from hpo.plain_text import printable
from hpo.report import formats
from hpo.report.tables import View, leaderboard
from hpo.search_spec import RangeParameter
from hpo.settings import Value
from hpo.space_checks import is_integer
from hpo.spec import TrainingSpec

Floats = NDArray[np.float64]
MIN_TRIALS: Final = 4
# Of more, as many spread evenly over the study: beyond, the shares change less than their interval is wide.
MOST_TRIALS: Final = 150
TREES: Final = 32
# Fewer cannot show that a parameter did nothing: in 16, one that decides most is overlooked a fifth of the time.
MIN_TO_NAME_UNSEEN: Final = 30
SHUFFLES: Final = 19
TREES_A_SHUFFLE: Final = 4
# A parameter is named as unseen where at least so many of 20 shares, its own and 19 of its shuffled self, are as large.
UNSEEN: Final = 0.3
# Of the trials, the best; and of these at least so many.
BEST_SHARE, MIN_BEST = 0.25, 4
OUTER: Final = 0.1
# Of the tests of ends and of choices, divided by the number of those that are looked at.
LEVEL: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much one parameter decided the score."""

    name: str
    share: float
    """Of what all parameters explain, each by itself; all shares sum to 1."""
    low: float
    """The interval of 95 of 100 trees of the forest, each grown on its own resample of the trials."""
    high: float
    p_value: float
    """How often the parameter, shuffled among the trials, has as large a share: 1 / 20, 2 / 20, ..., 1."""


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An end of a range that the best trials press against."""

    name: str
    side: Literal["low", "high"]
    bound: float
    inside: int
    """Of the best trials, those in the outer tenth of the range, on its scale."""
    best: int
    """The trials looked at: the best quarter of those that drew the parameter."""
    p_value: float
    """Of as many there by chance, by the binomial test."""
    suggestion: str | None
    """The range moved by half its width, as a line of a study file; None where the setting allows no value beyond."""
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Favourite:
    """The one choice that all the best trials made."""

    name: str
    choice: Value
    best: int
    p_value: float
    sentence: str


def importances(view: View) -> tuple[Importance, ...] | None:
    """Each parameter's share by fANOVA, the largest first; None where the trials cannot tell.

    A pruned trial counts by its last score. A range is taken on its own scale, logarithmic where it is; a conditional
    parameter lies in the middle of its range where it was not drawn, so that there it explains nothing.
    """
    return view.once(_importances)


def _importances(view: View) -> tuple[Importance, ...] | None:
    trials, scores = _scored(view)
    if len(trials) < MIN_TRIALS or len(set(scores)) < 2:
        return None
    space = _Space.of(trials)
    if not space.names:
        return None
    points = space.encode(trials)
    shares = _shares(space, points, scores, TREES, seed=0)
    if not shares.sum():
        return None
    shares = shares[shares.sum(axis=1) > 0]
    low, high = np.percentile(shares, [2.5, 97.5], axis=0)
    p_values = _against_shuffled(space, points, scores)
    found = [
        Importance(name=name, share=float(share), low=float(a), high=float(b), p_value=float(p))
        for name, share, a, b, p in zip(space.names, shares.mean(axis=0), low, high, p_values, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: -one.share))


def trials_used(view: View) -> str:
    """Over how many trials importances are: `40 trials`, `150 of 988 trials`."""
    shown = len(view.shown)
    return formats.count(shown, "trial") if shown <= MOST_TRIALS else f"{MOST_TRIALS} of {shown:,} trials"


def unseen(view: View, found: Sequence[Importance] | None) -> tuple[str, ...]:
    """The parameters of which no effect is to be seen; none for fewer than `MIN_TO_NAME_UNSEEN` trials.

    Those whose share is often no larger than that of themselves, shuffled among the trials (a p-value above `UNSEEN`).
    Simulated with 30 and 100 trials of TPE, pruned as usual, one that explains three quarters of the score is named in
    8 and 3 of 100 studies, one that explains a fifth in 15 and 7, a twentieth in 38 and 27; ones that do nothing in 34
    to 54 and 23 to 55. TPE soon draws the same values again, so that a parameter cannot show what it does.
    """
    if found is None or len(view.shown) < MIN_TO_NAME_UNSEEN:
        return ()
    return tuple(one.name for one in found if one.p_value > UNSEEN)


def unseen_sentence(view: View, found: Sequence[Importance] | None) -> str | None:
    """What the page says of them, if there are any."""
    names = unseen(view, found)
    if not names:
        return None
    explain, when = ("it explains", "it is") if len(names) == 1 else ("each explains", "it is itself")
    return (
        f"No effect of {formats.listed(names)} is to be seen: over {trials_used(view)} {explain} no more of the score "
        f"than is often seen when {when} shuffled among them."
    )


def pressed_edges(view: View) -> tuple[Edge, ...]:
    """The ends of ranges in whose outer tenth more of the best trials lie than chance has it.

    The best are the best quarter, at least 4, of the trials that drew the parameter. Chance is the uniform draw of a
    random search. The test's level is `LEVEL` over all ends together, which TPE does not keep, for its draws gather:
    simulated with 30 trials of it (60 studies, 3 ranges), each end of one that does nothing was named in 3 of 100.
    """
    ranked = _ranked(view)
    space = _Space.of(ranked)
    numbers = {name: kind for name, kind in space.kinds.items() if not isinstance(kind, CategoricalDistribution)}
    edges = []
    for name, kind in numbers.items():
        best = _best(ranked, name)
        for side in ("low", "high"):
            inside, chance = _in_outer(kind, [trial.params[name] for trial in best], side)
            p_value = binomtest(inside, len(best), chance, alternative="greater").pvalue if len(best) >= MIN_BEST else 1
            if p_value <= LEVEL / (2 * len(numbers)):
                edges.append(_edge(view, name, kind, side, inside, len(best), float(p_value)))
    return tuple(edges)


def favourites(view: View) -> tuple[Favourite, ...]:
    """The categories of which the best trials all have one choice, where chance would hardly have it.

    Chance is a draw among the trials there are, for TPE soon draws one choice most of the time, also of a
    parameter that does nothing.
    """
    ranked = _ranked(view)
    kinds = {k: v for k, v in _Space.of(ranked).kinds.items() if isinstance(v, CategoricalDistribution)}
    found = []
    for name, kind in kinds.items():
        best = _best(ranked, name)
        drawn = {int(kind.to_internal_repr(trial.params[name])) for trial in best}
        if len(best) < MIN_BEST or len(drawn) > 1:
            continue
        all_drawn = [int(kind.to_internal_repr(trial.params[name])) for trial in ranked if name in trial.params]
        same = sum(choice in drawn for choice in all_drawn)
        p_value = float(hypergeom.sf(len(best) - 1, len(all_drawn), same, len(best)))
        if p_value <= LEVEL / len(kinds):
            choice = kind.choices[drawn.pop()]
            shown = printable(json.dumps(choice, ensure_ascii=False))
            fixed = f"`{name}: {shown}`"
            advice = f" The next study can set {fixed} and not search it." if view.spec else ""
            sentence = f"All of the best {len(best)} trials have {fixed}.{advice}"
            found.append(Favourite(name=name, choice=choice, best=len(best), p_value=p_value, sentence=sentence))
    return tuple(found)


@dataclass(frozen=True)
class _Space:
    """The parameters as columns in 0..1: a range is one, a category has one for each choice."""

    kinds: Mapping[str, BaseDistribution]

    @classmethod
    def of(cls, trials: Sequence[FrozenTrial]) -> "_Space":
        kinds: dict[str, BaseDistribution] = {}
        for trial in trials:
            for name, kind in trial.distributions.items():
                kinds[name] = _joined(kinds.get(name, kind), kind)
        return cls({name: kind for name, kind in kinds.items() if not kind.single()})

    @property
    def names(self) -> list[str]:
        return list(self.kinds)

    def encode(self, trials: Sequence[FrozenTrial]) -> list[Floats]:
        """One block of columns a parameter, [trial][column]."""
        blocks = []
        for name, kind in self.kinds.items():
            drawn = np.array([name in trial.params for trial in trials])
            values = [trial.params[name] for trial in trials if name in trial.params]
            if isinstance(kind, CategoricalDistribution):
                block = np.zeros((len(trials), len(kind.choices)))
                block[np.flatnonzero(drawn), [int(kind.to_internal_repr(value)) for value in values]] = 1.0
            else:
                block = np.full((len(trials), 1), 0.5)
                block[drawn, 0] = _places(kind, values)
            blocks.append(block)
        return blocks


def _joined(first: BaseDistribution, second: BaseDistribution) -> BaseDistribution:
    """The range that holds both, where another tool has changed it on the way."""
    if first == second or isinstance(first, CategoricalDistribution) or type(first) is not type(second):
        return first
    assert isinstance(first, FloatDistribution | IntDistribution) and isinstance(second, type(first))
    low, high = min(first.low, second.low), max(first.high, second.high)
    log = first.log and low > 0
    if isinstance(first, IntDistribution):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _places(kind: BaseDistribution, values: Sequence[Any]) -> Floats:
    """Where values lie in their range, from 0 to 1, on its scale."""
    assert isinstance(kind, FloatDistribution | IntDistribution)
    ends = np.array([kind.low, kind.high], dtype=np.float64)
    places = np.array(values, dtype=np.float64)
    if kind.log:
        ends, places = np.log(ends), np.log(places)
    return np.asarray((places - ends[0]) / (ends[1] - ends[0]))


def _scored(view: View) -> tuple[list[FrozenTrial], Floats]:
    """The trials that say something about their parameters, evenly spread over the study, and their scores."""
    shown = view.shown
    if len(shown) > MOST_TRIALS:
        shown = shown.iloc[np.linspace(0, len(shown) - 1, MOST_TRIALS).round().astype(int)]
    trials = {trial.number: trial for trial in view.trials}
    return [trials[number] for number in shown["number"]], shown["score"].to_numpy(dtype=np.float64)


def _shares(space: _Space, blocks: Sequence[Floats], scores: Floats, trees: int, seed: int) -> Floats:
    """[tree][parameter] Shares that sum to 1, or are all 0 where a tree has no split."""
    points = np.hstack(blocks)
    forest = RandomForestRegressor(n_estimators=trees, random_state=seed).fit(points, scores)
    ends = np.cumsum([0, *(block.shape[1] for block in blocks)])
    columns = [slice(a, b) for a, b in itertools.pairwise(ends)]
    explained = np.array([_explained(tree.tree_, columns) for tree in forest.estimators_])
    total = explained.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(explained, total, out=np.zeros_like(explained), where=total > 0))


def _explained(tree: Any, columns: Sequence[slice]) -> Floats:
    """The variance of a tree's prediction that each parameter explains by itself, all of them uniform in their range.

    Each leaf is a box. The marginal prediction at one value of a parameter is the mean over the boxes that hold it,
    weighted by their volume in all other parameters. Optuna's evaluator computes the same, for ranges that are not
    logarithmic, in 21 s instead of 0.4 s for 16 trees and 1,000 trials.
    """
    low, high, value = _leaves(tree, columns[-1].stop)
    holds = [_cells(low[:, at], high[:, at]) for at in columns]
    volumes = np.array([inside @ width for inside, width in holds])
    mean = volumes.prod(axis=0) @ value
    found = []
    for at, (inside, width) in enumerate(holds):
        others = np.delete(volumes, at, axis=0).prod(axis=0)
        found.append(float(width @ ((others * value) @ inside - mean) ** 2))
    return np.array(found)


def _cells(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """[leaf][cell] Whether a box holds a cell of one parameter: a choice, or what lies between splits; their widths."""
    if low.shape[1] == 1:
        cuts = np.unique(np.concatenate([[0.0, 1.0], low[:, 0], high[:, 0]]))
        middles = (cuts[1:] + cuts[:-1]) / 2
        return ((low <= middles) & (middles < high)).astype(np.float64), np.diff(cuts)
    may_be_0, may_be_1 = low <= 0, high >= 1
    choices = low.shape[1]
    others = may_be_0.sum(axis=1, keepdims=True) - may_be_0  # of the other choices, those that may be off
    return (may_be_1 & (others == choices - 1)).astype(np.float64), np.full(choices, 1 / choices)


def _leaves(tree: Any, columns: int) -> tuple[Floats, Floats, Floats]:
    """The boxes of a tree's leaves, and what they predict."""
    low, high = np.zeros((tree.node_count, columns)), np.ones((tree.node_count, columns))
    left, right, feature, threshold = tree.children_left, tree.children_right, tree.feature, tree.threshold
    for node in np.flatnonzero(left >= 0):  # a node stands before its children
        below, above, at = left[node], right[node], feature[node]
        low[[below, above]], high[[below, above]] = low[node], high[node]
        high[below, at] = low[above, at] = threshold[node]
    leaf = left < 0
    return low[leaf], high[leaf], tree.value[leaf, 0, 0]


def _against_shuffled(space: _Space, blocks: Sequence[Floats], scores: Floats) -> Floats:
    """The permutation test of each parameter against itself, shuffled among the trials, in the same forests."""
    generator = np.random.default_rng(0)
    own, shuffled = [], []
    for seed in range(SHUFFLES):
        mixed = [block[generator.permutation(len(scores))] for block in blocks]
        shares = _shares(space, [*blocks, *mixed], scores, TREES_A_SHUFFLE, seed).mean(axis=0)
        own.append(shares[: len(blocks)])
        shuffled.append(shares[len(blocks) :])
    as_large = (np.array(shuffled) >= np.mean(own, axis=0)).sum(axis=0)
    return np.asarray((1 + as_large) / (1 + SHUFFLES))


def _ranked(view: View) -> list[FrozenTrial]:
    """The drawn trials that say something about their parameters, the best first."""
    shown = view.shown[~view.shown["is_default"]] if view.spec else view.shown
    trials = {trial.number: trial for trial in view.trials}
    return [trials[number] for number in leaderboard(shown, "score", view.direction)["number"]]


def _best(ranked: Sequence[FrozenTrial], name: str) -> list[FrozenTrial]:
    drawn = [trial for trial in ranked if name in trial.params]
    return drawn[: max(MIN_BEST, round(BEST_SHARE * len(drawn)))] if len(drawn) >= 2 * MIN_BEST else []


def _in_outer(kind: BaseDistribution, values: Sequence[Any], side: str) -> tuple[int, float]:
    """How many values lie in the outer tenth of a range, and the probability of one to do so."""
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if isinstance(kind, IntDistribution) and kind.log:
        return _in_outer_of_log_integers(kind, values, side)
    places = _places(kind, values)
    if kind.step is None:
        outer, chance = OUTER, OUTER
    else:
        count = round((kind.high - kind.low) / kind.step) + 1
        few = max(1, int(OUTER * count))
        outer, chance = (few - 0.5) / (count - 1), few / count
    inside = places <= outer if side == "low" else places >= 1 - outer
    return int(inside.sum()), chance


def _in_outer_of_log_integers(kind: IntDistribution, values: Sequence[Any], side: str) -> tuple[int, float]:
    """The same of integers on a logarithmic scale: of 1 to 8, Optuna draws 1 with a probability of 0.39.

    It draws from low - 0.5 to high + 0.5, and rounds. The outer tenth holds at least the end itself.
    """

    def width(first: int, last: int) -> float:
        return math.log(last + 0.5) - math.log(first - 0.5)

    reach = (kind.high / kind.low) ** OUTER
    if side == "low":
        outer = (kind.low, math.floor(kind.low * reach + 1e-9))
    else:
        outer = (math.ceil(kind.high / reach - 1e-9), kind.high)
    inside = sum(outer[0] <= value <= outer[1] for value in values)
    return inside, width(*outer) / width(kind.low, kind.high)


def _edge(
    view: View, name: str, kind: BaseDistribution, side: Literal["low", "high"], inside: int, best: int, p_value: float
) -> Edge:
    assert isinstance(kind, FloatDistribution | IntDistribution)
    bound = kind.low if side == "low" else kind.high
    moved = _moved(view, name, side)
    end = "lower" if side == "low" else "upper"
    sentence = f"{inside} of the best {best} trials lie in the {end} tenth of {printable(name)}, at {bound:g}."
    if moved:
        sentence += f" A next study could search `{moved}`."
    elif view.spec and name in TrainingSpec.model_fields:
        sentence += " The setting allows nothing beyond."
    return Edge(
        name=name,
        side=side,
        bound=bound,
        inside=inside,
        best=best,
        p_value=p_value,
        suggestion=moved,
        sentence=sentence,
    )


def _moved(view: View, name: str, side: Literal["low", "high"]) -> str | None:
    """The range moved by half its width on its scale, with the default still inside, and only to what is allowed."""
    declared = view.spec.search_space.get(name) if view.spec else None
    if view.spec is None or not isinstance(declared, RangeParameter) or name not in TrainingSpec.model_fields:
        return None
    low, high = float(declared.low), float(declared.high)
    half = math.sqrt(high / low) if declared.log else (high - low) / 2
    down, up = (low / half, high / half) if declared.log else (low - half, high - half)
    if side == "high":
        down, up = (low * half, high * half) if declared.log else (low + half, high + half)
    least, most = _allowed(name)
    default = getattr(view.spec.training, name)
    unit = declared.step or (1 if is_integer(name) else None)
    if isinstance(default, int | float):
        down, up = min(down, default), max(up, default)
    down, up = (_within(end, other, least, most) for end, other in ((down, low), (up, high)))
    numbers = [_rounded(end, float(declared.low), unit, log=declared.log) for end in (down, up)]
    if isinstance(default, int | float):  # rounding may have left it outside
        numbers = [min(numbers[0], default), max(numbers[1], default)]
    gained = numbers[0] < low if side == "low" else numbers[1] > high
    if not gained or not least[0] <= numbers[0] < numbers[1] <= most[0]:
        return None
    settings: dict[str, Any] = dict(zip(("low", "high"), numbers, strict=True))
    settings |= {"log": True} if declared.log else {}
    settings |= {"step": declared.step} if declared.step is not None else {}
    settings |= {"when": declared.when} if declared.when else {}
    return f"{name}: {_flow(settings)}"


End = tuple[float, bool]


def _allowed(name: str) -> tuple[End, End]:
    """The least and the most that a setting may be, each with whether it may be that itself."""
    least, most = (-math.inf, False), (math.inf, False)
    for rule in TrainingSpec.model_fields[name].metadata:
        match rule:
            case Gt():
                least = (float(rule.gt), False)  # type: ignore[arg-type]
            case Ge():
                least = (float(rule.ge), True)  # type: ignore[arg-type]
            case Lt():
                most = (float(rule.lt), False)  # type: ignore[arg-type]
            case Le():
                most = (float(rule.le), True)  # type: ignore[arg-type]
    return least, most


def _within(end: float, old: float, least: End, most: End) -> float:
    """The end, or what the setting allows; half-way to a bound that is itself not allowed."""
    for (bound, itself), beyond in ((least, end <= least[0]), (most, end >= most[0])):
        if beyond:
            return bound if itself else (old + bound) / 2
    return end


def _rounded(value: float, origin: float, unit: float | None, *, log: bool) -> int | float:
    """To two digits, or to whole steps from the old range's low."""
    if unit is None:
        return float(f"{value:.2g}")
    if log:
        return round(value)
    steps = round((value - origin) / unit)
    exact = Decimal(str(origin)) + steps * Decimal(str(unit))
    return int(exact) if float(unit).is_integer() and float(origin).is_integer() else float(exact)


def _flow(settings: Mapping[str, Any]) -> str:
    """As YAML in one line."""
    words = []
    for key, value in settings.items():
        words.append(f"{key}: {_flow(value) if isinstance(value, dict) else json.dumps(value)}")
    return f"{{{', '.join(words)}}}"
