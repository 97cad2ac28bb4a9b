"""What mattered: how much each parameter decided the score, and which did nothing.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial
from sklearn.ensemble import RandomForestRegressor

from hpo.report import formats
from hpo.report.tables import View

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
    space = Space.of(trials)
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
    """What the page says of them, if there are any; of few trials that they cannot tell, or silence would say so."""
    if found and len(view.shown) < MIN_TO_NAME_UNSEEN:
        return f"Which parameters did nothing cannot be told from {trials_used(view)}; it takes {MIN_TO_NAME_UNSEEN}."
    names = unseen(view, found)
    if not names:
        return None
    explain, when = ("it explains", "it is") if len(names) == 1 else ("each explains", "it is itself")
    return (
        f"No effect of {formats.listed(names)} is to be seen: over {trials_used(view)} {explain} no more of the score "
        f"than is often seen when {when} shuffled among them."
    )


@dataclass(frozen=True)
class Space:
    """The parameters as columns in 0..1: a range is one, a category has one for each choice."""

    kinds: Mapping[str, BaseDistribution]

    @classmethod
    def of(cls, trials: Sequence[FrozenTrial]) -> "Space":
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
                block[drawn, 0] = places(kind, values)
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


def places(kind: BaseDistribution, values: Sequence[Any]) -> Floats:
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


def _shares(space: Space, blocks: Sequence[Floats], scores: Floats, trees: int, seed: int) -> Floats:
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


def _against_shuffled(space: Space, blocks: Sequence[Floats], scores: Floats) -> Floats:
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
