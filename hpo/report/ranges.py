"""The ranges for the next study: the ends that the best trials press against, and the choices that they all made."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from annotated_types import Ge, Gt, Le, Lt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial
from scipy.stats import binomtest, hypergeom

from hpo.plain_text import printable
from hpo.report.importance import Space, places
from hpo.report.tables import View, leaderboard
from hpo.search_spec import RangeParameter, setting_of
from hpo.settings import Value
from hpo.space import default_params
from hpo.space_checks import is_integer
from hpo.training_spec import TrainingSpec

# Of the trials, the best; and of these at least so many.
BEST_SHARE, MIN_BEST = 0.25, 4
OUTER: Final = 0.1
# Of the tests of ends and of choices, divided by the number of those that are looked at.
LEVEL: Final = 0.01


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


def pressed_edges(view: View) -> tuple[Edge, ...]:
    """The ends of ranges in whose outer tenth more of the best trials lie than chance has it.

    The best are the best quarter, at least 4, of the trials that drew the parameter. Chance is the uniform draw of a
    random search. The test's level is `LEVEL` over all ends together, which TPE does not keep, for its draws gather:
    simulated with 30 trials of it (60 studies, 3 ranges), each end of one that does nothing was named in 3 of 100.
    """
    ranked = _ranked(view)
    space = Space.of(ranked)
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
    kinds = {k: v for k, v in Space.of(ranked).kinds.items() if isinstance(v, CategoricalDistribution)}
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
    at = places(kind, values)
    if kind.step is None:
        outer, chance = OUTER, OUTER
    else:
        count = round((kind.high - kind.low) / kind.step) + 1
        few = max(1, int(OUTER * count))
        outer, chance = (few - 0.5) / (count - 1), few / count
    inside = at <= outer if side == "low" else at >= 1 - outer
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
    setting = setting_of(name)
    if view.spec is None or not isinstance(declared, RangeParameter) or setting not in TrainingSpec.model_fields:
        return None
    low, high = float(declared.low), float(declared.high)
    half = math.sqrt(high / low) if declared.log else (high - low) / 2
    down, up = (low / half, high / half) if declared.log else (low - half, high - half)
    if side == "high":
        down, up = (low * half, high * half) if declared.log else (low + half, high + half)
    least, most = _allowed(setting)
    default = default_params(view.spec).get(name)  # a range that is not searched beside it need not hold it
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
