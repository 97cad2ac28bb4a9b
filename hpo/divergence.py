"""Which range makes trials diverge, when many do: what the search space should leave out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import eq, ge, le
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from hpo.attempts import failure_reason
from hpo.errors import DIVERGED

# Fewer say nothing yet.
MIN_ENDED = 4


@dataclass(frozen=True)
class _Part:
    """A part of a parameter's values, held against the trials that diverged."""

    within: int
    """Trials that drew from it."""
    diverged: int
    """Of those."""
    wrong: int
    """Those of them that did not diverge, and those outside that did."""
    missing: int
    """Trials that drew no value at all, for it is searched only beside others."""
    where: str
    way_out: str


def what_diverges(trials: Sequence[FrozenTrial]) -> str | None:
    """Says so when half of the trials that ended diverged, and which values of which parameter they share."""
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    diverged = [trial for trial in ended if failure_reason(trial) == DIVERGED]
    if len(ended) < MIN_ENDED or 2 * len(diverged) < len(ended):
        return None
    told = f"{len(diverged)} of {len(ended)} trials diverged"
    names = sorted({name for trial in diverged for name in trial.params})
    parts = (part for name in names for part in _parts(name, ended))
    best = min(parts, key=lambda part: (part.wrong, part.missing), default=None)
    # To call all of them the same would be wrong for the fewer ones: what is not twice as good separates nothing.
    if best is None or 2 * best.wrong >= min(len(diverged), len(ended) - len(diverged)):
        return f"{told}, whatever they drew. Lower the learning rate, or clip gradients (max_grad_norm)."
    return f"{told}: {best.diverged} of the {best.within} with {best.where}, {_others(best, diverged)}. {best.way_out}"


def _others(part: _Part, diverged: Sequence[FrozenTrial]) -> str:
    rest = len(diverged) - part.diverged
    return f"and {rest} of the others" if rest else "and no other"


def _parts(name: str, ended: Sequence[FrozenTrial]) -> Iterator[_Part]:
    drew = [trial for trial in ended if name in trial.params]
    values = list(dict.fromkeys(trial.params[name] for trial in drew if failure_reason(trial) == DIVERGED))
    if isinstance(drew[0].distributions[name], CategoricalDistribution):
        for value in values:
            way_out = f"Take it out of search_space.{name}.choices."
            yield _part(ended, name, partial(eq, value), f"{name} {value}", way_out)
        return
    for value in values:
        high = f"Set search_space.{name}.high below it."
        low = f"Set search_space.{name}.low above it."
        yield _part(ended, name, partial(le, value), f"{name} from {value:.3g} up", high)
        yield _part(ended, name, partial(ge, value), f"{name} up to {value:.3g}", low)


def _part(ended: Sequence[FrozenTrial], name: str, holds: Callable[[Any], bool], where: str, way_out: str) -> _Part:
    drew = [trial for trial in ended if name in trial.params]
    within = [trial for trial in drew if holds(trial.params[name])]
    diverged = sum(failure_reason(trial) == DIVERGED for trial in within)
    missed = sum(failure_reason(trial) == DIVERGED for trial in ended) - diverged
    wrong = len(within) - diverged + missed
    return _Part(len(within), diverged, wrong, len(ended) - len(drew), where, way_out)
