"""The page's figures, interactive: plotly's own JSON, checked against its schema, with few traces however many trials.

Colours are those of the PNGs, for a light page; `report.js` replaces them on a dark one. What others wrote is escaped,
for plotly takes `<a>` and `<b>` in any text for tags.
"""

import html
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from hpo.plain_text import printable
from hpo.report import answers, formats, tables, worktime
from hpo.report.expected import ExpectedBest, expected_best, expected_best_at_random
from hpo.report.figures import BLACK, BLUE, GREY, ORANGE, PALE, RED
from hpo.report.importance import importances
from hpo.report.tables import NONE, PARAM, View
from hpo.results import Estimate

Json = dict[str, Any]
# Longer texts would push the plot aside.
MOST_LETTERS: Final = 28
# Bars of a figure; more would be one block of colour.
MOST_BARS: Final = 200
STATES: Final = {"COMPLETE": BLUE, "PRUNED": GREY, "FAIL": ORANGE, "RUNNING": PALE}
WORDS: Final = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure of the page."""

    name: str
    title: str
    """Says what it shows."""
    caption: str
    height: int
    """In pixels."""
    data: Sequence[Json]
    layout: Json

    def json(self) -> str:
        """What plotly.js takes. Raises `ValueError` for what it does not know."""
        import plotly.graph_objects as go

        # Without plotly's own template, which is longer than most of our figures; report.js has the look of all.
        layout = {"template": {"layout": {}}, **self.layout}
        made: str = go.Figure({"data": list(self.data), "layout": layout}).to_json()
        return made


def label(text: object, length: int = MOST_LETTERS) -> str:
    """Text of others for a figure: of bounded length, without tags."""
    shown = printable(" ".join(str(text).split()))
    shown = shown if len(shown) <= length else f"{shown[: length // 2]}…{shown[1 - length // 2 :]}"
    return html.escape(shown, quote=False)


def charts(view: View, draw: Iterable[Callable[[View], Chart | None]]) -> list[Chart]:
    """Those that have something to show."""
    return [chart for chart in (each(view) for each in draw) if chart is not None]


# How the search went


def history(view: View) -> Chart | None:
    """Each trial's score by its number, with the best so far."""
    if view.shown.empty:
        return None
    data = [
        _points("pruned", view.pruned, GREY, symbol="triangle-down-open", size=7, line=1.2, opacity=0.85),
        _points("complete", view.complete, BLUE, size=7),
        *([_running_best(view)] if not view.complete.empty else []),
        _points("best", view.only(view.best), RED, size=12),
        _points("untuned default", view.only(view.default), BLACK, symbol="diamond-open", size=11, line=2),
    ]
    failed = view.table[view.table["state"] == "FAIL"]
    if not failed.empty:
        marks = _points("failed", failed, ORANGE, symbol="x-thin", size=8, line=2)
        # Along the lower edge: a failed trial has no score that counts.
        data.append(
            marks | {"y": [0.02] * len(failed), "yaxis": "y2", "hovertemplate": "trial %{x} failed<extra></extra>"}
        )
    level = view.complete.loc[view.complete["number"] == view.default, "score"]
    lines = [_line_across(float(score)) for score in level]
    last = int(view.table["number"].max())
    scale = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    return Chart(
        name="history",
        title="Score of each trial, and the best so far",
        caption=(
            "Each trial by its number. The stepped line is the best complete trial so far"
            + (", the dashed one the untuned default." if lines else ".")
            + " A pruned trial stands at its last score, earlier in training than the complete ones."
        ),
        height=400,
        data=[trace for trace in data if trace["x"]],
        layout={
            "xaxis": {"title": {"text": "Trial (number)"}, "range": [-0.5 - 0.01 * last, 0.5 + 1.01 * last]},
            "yaxis": {"title": {"text": _score_axis(view)}},
            "yaxis2": scale,
            "shapes": lines,
        },
    )


def _points(name: str, rows: pd.DataFrame, colour: str, across: Sequence[Any] | None = None, **style: Any) -> Json:
    numbers = rows["number"].tolist()
    marker = {"color": colour, "size": style.get("size", 7), "symbol": style.get("symbol", "circle")}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": numbers if across is None else list(across),
        "y": [rounded(score) for score in rows["score"]],
        "customdata": numbers,
        "opacity": style.get("opacity", 1.0),
        "marker": marker | {"line": {"width": style.get("line", 0), "color": colour}},
        "hovertemplate": "trial %{customdata}: %{y:.4f}<extra>" + name + "</extra>",
    }


def _running_best(view: View) -> Json:
    scores = view.complete["score"]
    best = scores.cummax() if view.direction == "maximize" else scores.cummin()
    # Only where it changes: a thousand equal points would be as many to draw.
    changes = best.ne(best.shift())
    numbers = [*view.complete.loc[changes, "number"].tolist(), int(view.table["number"].max())]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": numbers,
        "y": [rounded(score) for score in [*best[changes], best.iloc[-1]]],
        "line": {"color": RED, "width": 1.8, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _line_across(score: float) -> Json:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": score,
        "y1": score,
        "line": {"color": BLACK, "width": 1.2, "dash": "dash"},
    }


def learning_curves(view: View) -> Chart | None:
    """The score at every evaluation of every trial: one trace a kind, with gaps between the trials."""
    planned = view.table["num_evaluations"].max()
    budget = None if pd.isna(planned) else int(planned)
    kinds = _by_kind(view)
    if not kinds:
        return None
    data: list[Json] = []
    for kind in sorted(kinds, key=lambda kind: kind.rank):
        data += _curves(kind, kinds[kind], budget)
    axis: Json = {"title": {"text": "Evaluation (number)"}}
    if budget:
        axis = {"title": {"text": "Share of the training budget (%)"}, "range": [0, 103]}
    return Chart(
        name="learning_curves",
        title="Score while training: which trials went on, which were stopped",
        caption="One line a trial. Pruned trials are faded and end with a cross.",
        height=440,
        data=data,
        layout={"xaxis": axis, "yaxis": {"title": {"text": _score_axis(view)}}, "hovermode": "closest"},
    )


@dataclass(frozen=True)
class _Kind:
    rank: int
    name: str
    colour: str
    width: float
    opacity: float
    dash: str = "solid"
    end: str = "circle"


Curve = tuple[int, dict[int, float]]


def _by_kind(view: View) -> dict[_Kind, list[Curve]]:
    kinds: dict[_Kind, list[Curve]] = {}
    for trial in view.trials:
        scores = trial.intermediate_values
        if curve := {step: scores[step] for step in sorted(scores) if math.isfinite(scores[step])}:
            kinds.setdefault(_kind(view, trial.number, trial.state.name), []).append((trial.number, curve))
    return kinds


def _kind(view: View, number: int, state: str) -> _Kind:
    if number == view.default:
        both = number == view.best
        return _Kind(5, "default and best" if both else "untuned default", RED if both else BLACK, 2.4, 1, "dash")
    if number == view.best:
        return _Kind(4, "best", RED, 3, 1)
    if state == "COMPLETE":
        return _Kind(3, "complete", BLUE, 1.3, 0.6)
    if state == "PRUNED":
        return _Kind(1, "pruned", GREY, 1, 0.45, end="x-thin")
    return _Kind(2, "running or failed", ORANGE, 1.4, 0.8, "dot")


def _curves(kind: _Kind, curves: Sequence[Curve], budget: int | None) -> list[Json]:
    """The lines, and a mark at the end of each: a trial of one evaluation has no line."""
    unit = 100 / budget if budget else 1
    across: list[float | None] = []
    up: list[float | None] = []
    numbers: list[int | None] = []
    for number, curve in curves:
        across += [*(rounded(step * unit) for step in curve), None]
        up += [*map(rounded, curve.values()), None]
        numbers += [*([number] * len(curve)), None]
    hover = "trial %{customdata}: %{y:.4f}<extra>" + kind.name + "</extra>"
    shared: Json = {"type": "scatter", "name": kind.name, "legendgroup": kind.name, "opacity": kind.opacity}
    line = {"color": kind.colour, "width": kind.width, "dash": kind.dash}
    ends = [(number, *list(curve.items())[-1]) for number, curve in curves]
    marker = {"color": kind.colour, "symbol": kind.end, "size": 6, "line": {"width": 1.5, "color": kind.colour}}
    return [
        shared
        | {"mode": "lines", "x": across, "y": up, "customdata": numbers, "line": line, "hovertemplate": hover}
        | {"connectgaps": False},
        shared
        | {"mode": "markers", "x": [rounded(step * unit) for _, step, _ in ends], "showlegend": False}
        | {"y": [rounded(score) for *_, score in ends], "customdata": [number for number, *_ in ends]}
        | {"marker": marker, "hovertemplate": hover},
    ]


def timeline(view: View) -> Chart | None:
    """When which worker was at which trial."""
    done = worktime.work(view)
    if not done or done[-1].end <= 0:
        return None
    name, unit = formats.time_unit(worktime.span(view))
    workers = 1 + max(each.worker for each in done)
    places = {each.worker: each.place for each in done}
    data = []
    for state, colour in STATES.items():
        own = [each for each in done if each.trial.state.name == state]
        if own:
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": WORDS[state],
                    "y": [each.worker for each in own],
                    "x": [rounded((each.end - each.start) / unit) for each in own],
                    "base": [rounded(each.start / unit) for each in own],
                    "width": 0.62,
                    "customdata": [each.trial.number for each in own],
                    "text": [label(places[each.worker]) for each in own],
                    "textposition": "none",
                    "marker": {"color": colour, "line": {"color": "#FFFFFF", "width": 0.5}},
                    "hovertemplate": "trial %{customdata}: %{x:.4~g} " + name + " from %{base:.4~g} on<br>%{text}"
                    "<extra>" + WORDS[state] + "</extra>",
                }
            )
    ticks = list(range(workers)) if workers <= 32 else list(range(0, workers, math.ceil(workers / 32)))
    return Chart(
        name="timeline",
        title="When which worker was at which trial",
        caption=(
            "One bar a trial, by the process that ran it; what is blank was no trial."
            if any(places.values())
            else "One bar a trial. Storage does not say which process ran it: what overlaps stands one below the other."
        ),
        height=min(900, 130 + max(2, workers) * (26 if workers <= 16 else 16)),
        data=data,
        layout={
            "barmode": "overlay",
            "xaxis": {"title": {"text": f"Time since the first trial started ({name})"}, "rangemode": "tozero"},
            "yaxis": {
                "title": {"text": "Worker"},
                "tickvals": ticks,
                "ticktext": [str(1 + tick) for tick in ticks],
                "range": [workers - 0.4, -0.6],
                "showgrid": False,
                "zeroline": False,
            },
        },
    )


def expected(view: View) -> Chart | None:
    """How good the best of so many trials is expected to be: by the search itself, and by draws at random."""
    curve = expected_best(view)
    return None if curve is None else _expected(view, "expected", "trials", curve, expected_best_at_random(view))


def expected_by_time(view: View) -> Chart | None:
    """The same against time."""
    curve = expected_best(view)
    if curve is None or curve.seconds is None:
        return None
    return _expected(view, "expected_by_time", "time", curve, expected_best_at_random(view))


def _expected(view: View, name: str, against: str, curve: ExpectedBest, at_random: ExpectedBest | None) -> Chart:
    by_time = against == "time"
    unit, seconds = formats.time_unit(float(curve.seconds[-1])) if by_time and curve.seconds is not None else ("", 1.0)

    def across(of: ExpectedBest) -> list[float]:
        values = of.trials if not by_time or of.seconds is None else of.seconds / seconds
        return [rounded(value) for value in values]

    def band(of: ExpectedBest) -> tuple[list[float], list[float]]:
        low, high = of.low, of.high
        if by_time and of.low_by_time is not None and of.high_by_time is not None:
            low, high = of.low_by_time, of.high_by_time
        return [rounded(value) for value in low], [rounded(value) for value in high]

    low, high = band(curve)
    line = {"type": "scatter", "mode": "lines", "hoverinfo": "skip"}
    data: list[Json] = [
        {**line, "x": across(curve), "y": high, "line": {"width": 0, "color": BLUE}, "showlegend": False},
        {
            **line,
            "x": across(curve),
            "y": low,
            "line": {"width": 0, "color": BLUE},
            "fill": "tonexty",
            "fillcolor": "rgba(0,114,178,0.16)",
            "name": "95 % interval",
        },
    ]
    for of, called, style in (
        (curve, "this search", {"color": BLUE, "width": 2.2}),
        (at_random, "its random trials alone", {"color": ORANGE, "width": 1.8, "dash": "dash"}),
    ):
        if of is not None and (not by_time or of.seconds is not None):
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": called,
                    "x": across(of),
                    "y": [rounded(value) for value in of.mean],
                    "line": style,
                    "hovertemplate": "%{y:.4f}<extra>" + called + "</extra>",
                }
            )
    title = f"Time in trials ({unit})" if by_time else "Trials (number)"
    return Chart(
        name=name,
        title=f"How good the best trial is expected to be, by {against}",
        caption=(
            "The expected best score of a search of that length (Dodge et al. 2019), had its trials come in any other "
            f"order; over {curve.draws} trials drawn, the untuned default left out."
        ),
        height=340,
        data=data,
        layout={
            "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": f"Expected best {view.metric}"}},
        },
    )


# What mattered


def importance(view: View) -> Chart | None:
    """How much each parameter decided the score."""
    found = importances(view)
    if found is None:
        return None
    shown = list(reversed(found))
    widest = max(max(one.share, one.high) for one in shown)
    return Chart(
        name="importance",
        title=f"How much each parameter seems to matter, over {len(view.shown)} trials",
        caption=(
            "How much of the score's variance each parameter explains by itself (fANOVA), as a share of what all "
            "explain. Lines: the 95 % interval over resamples of the trials. It does not say in which direction. A "
            "pruned trial counts with its last score."
        ),
        height=110 + 30 * len(shown),
        data=[
            {
                "type": "bar",
                "orientation": "h",
                "y": list(range(len(shown))),
                "x": [rounded(100 * one.share) for one in shown],
                "width": 0.62,
                "marker": {"color": BLUE},
                "error_x": {
                    "type": "data",
                    "array": [rounded(100 * max(0.0, one.high - one.share)) for one in shown],
                    "arrayminus": [rounded(100 * max(0.0, one.share - one.low)) for one in shown],
                    "color": BLACK,
                    "thickness": 1.4,
                    "width": 0,
                },
                "customdata": [[label(one.name), f"{one.low:.0%} to {one.high:.0%}"] for one in shown],
                "hovertemplate": "%{customdata[0]}: %{x:.0f} % (%{customdata[1]})<extra></extra>",
            }
        ],
        layout={
            # With room for the last number.
            "xaxis": {
                "title": {"text": "Share of the importance (%)"},
                "range": [0, 105 * widest],
            },
            "yaxis": {
                "tickvals": list(range(len(shown))),
                "ticktext": [label(one.name) for one in shown],
                "automargin": True,
                "showgrid": False,
            },
        },
    )


def parameters(view: View) -> list[Chart]:
    """Each searched parameter against the score, one small figure a parameter."""
    kinds: dict[str, BaseDistribution] = {}
    for trial in view.trials:
        kinds |= trial.distributions
    names = [name for name in kinds if view.shown[PARAM + name].notna().any()]
    return [_parameter(view, at, name, kinds[name]) for at, name in enumerate(names)]


def _parameter(view: View, at: int, name: str, kind: BaseDistribution) -> Chart:
    axis: Json = {"title": {"text": label(name, 40)}}
    places: dict[str, int] | None = None
    if isinstance(kind, CategoricalDistribution):
        names = [NONE if choice is None else str(choice) for choice in kind.choices]
        places, room = {text: index for index, text in enumerate(names)}, max(7, 34 // len(names))
        axis |= {"tickvals": list(range(len(names))), "ticktext": [label(text, room) for text in names]}
        axis |= {"range": [-0.6, len(names) - 0.4], "showgrid": False, "zeroline": False}
    elif getattr(kind, "log", False):
        axis |= {"type": "log", "dtick": 1, "exponentformat": "power", "minor": {"ticks": "outside", "ticklen": 2}}
        if math.log10(kind.high / kind.low) < 1.5:  # type: ignore[attr-defined]
            axis |= {"dtick": "D2", "exponentformat": "e"}
    elif isinstance(kind, IntDistribution):
        axis |= {"tickformat": "d"}
    groups: list[tuple[str, pd.DataFrame, Json]] = [
        (
            "pruned",
            view.pruned,
            {"colour": GREY, "symbol": "triangle-down-open", "size": 6, "line": 1.1, "opacity": 0.7},
        ),
        ("complete", view.complete, {"colour": BLUE, "size": 6}),
        ("best", view.only(view.best), {"colour": RED, "size": 10}),
        ("untuned default", view.only(view.default), {"colour": BLACK, "symbol": "diamond-open", "size": 9, "line": 2}),
    ]
    data = []
    for words, rows, style in groups:
        own = rows[rows[PARAM + name].notna()]
        if len(own):
            across = own[PARAM + name] if places is None else _jittered(own, PARAM + name, places)
            points = _points(words, own, across=[rounded(value) for value in across], **style)
            drawn = [label(formats.value(value)) for value in own[PARAM + name]]
            hover = "trial %{customdata}: %{y:.4f}<br>%{text}<extra>" + words + "</extra>"
            data.append(points | {"text": drawn, "hovertemplate": hover})
    return Chart(
        name=f"parameter_{at}",
        title=formats.value(printable(name)),
        caption="",
        height=250,
        data=data,
        layout={"xaxis": axis, "yaxis": {"title": {"text": _score_axis(view)}}, "showlegend": False},
    )


def _jittered(rows: pd.DataFrame, column: str, places: dict[str, int]) -> list[float]:
    """The place of each category, moved aside by the trial's number so that equal ones do not hide each other."""
    spread = rows["number"].map(lambda number: (number * 0.618034 + 0.5) % 1 - 0.5)  # 0, the default, stays in place
    return [places[str(value)] + 0.44 * aside for value, aside in zip(rows[column], spread, strict=True)]


# Winner against default


def intervals(found: Sequence[Estimate], colour: str) -> Json:
    """The lines of estimates, across."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [rounded(each.high - each.value) for each in found],
        "arrayminus": [rounded(each.value - each.low) for each in found],
        "color": colour,
        "thickness": 2,
        "width": 0,
    }


def differences(view: View) -> Chart | None:
    """Winner less default on the test split, of all scores that lie between 0 and 1."""
    reading = view.reading
    found = {name: each for name, each in (reading.differences if reading else {}).items() if name != "loss"}
    if not found:
        return None
    names = list(reversed(found))
    certain = [not answers.is_uncertain(found[name]) for name in names]
    data = []
    for kind, colour, words in ((False, GREY, "may as well be none"), (True, BLUE, "more than chance")):
        own = [at for at, name in enumerate(names) if certain[at] == kind]
        if own:
            values = [found[names[at]] for at in own]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": words,
                    "x": [rounded(each.value) for each in values],
                    "y": own,
                    "marker": {"color": colour, "size": 9},
                    "text": [f"{formats.difference(each)}, {formats.p_value(each.p_value)}" for each in values],
                    "hovertemplate": "%{text}<extra></extra>",
                    "error_x": intervals(values, colour),
                }
            )
    return Chart(
        name="differences",
        title="Test split: how much better the winner is than the untuned default, with 95 % intervals",
        caption=(
            "An interval that crosses the line at zero could as well be no difference. Of the calibration error, less "
            "is better; of all others, more."
        ),
        height=110 + 32 * len(names),
        data=data,
        layout={
            "xaxis": {
                "title": {"text": "Winner less default (points of 0 to 1)"},
                "zeroline": True,
                "zerolinewidth": 2,
                "zerolinecolor": BLACK,
            },
            "yaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": [label(formats.first_up(formats.metric(name))) for name in names],
                "automargin": True,
                "range": [-0.6, len(names) - 0.4],
                "zeroline": False,
            },
        },
    )


def finalists(view: View) -> Chart | None:
    """Each finalist's validation score by seed, its mean, and what it had in the search."""
    if view.finals is None:
        return None
    ordered = list(reversed(view.finals.finalists))
    names = [f"trial {each.trial}" + (" (default)" if each.is_default else "") for each in ordered]
    seeds = [(at, seed, score) for at, each in enumerate(ordered) for seed, score in enumerate(each.scores)]
    searched = [(at, each.searched) for at, each in enumerate(ordered) if each.searched is not None]
    shared: Json = {"type": "scatter", "mode": "markers"}
    hover = "%{text}: %{x:.4f}<extra></extra>"
    known = view.finals.seeds
    return Chart(
        name="finalists",
        title="The finalists on validation: by seed, on average, and as the search saw them",
        caption="The score of the search is one run's, and of the best trial a maximum: expected to lie too high.",
        height=120 + 42 * len(ordered),
        data=[
            shared
            | {"name": "one seed", "x": [rounded(score) for *_, score in seeds], "y": [at for at, *_ in seeds]}
            | {"text": [f"seed {known[seed] if seed < len(known) else seed}" for _, seed, _ in seeds]}
            | {"marker": {"color": BLUE, "size": 8}, "opacity": 0.6, "hovertemplate": hover},
            shared
            | {"name": "mean", "x": [rounded(each.mean) for each in ordered], "y": list(range(len(ordered)))}
            | {"text": ["mean"] * len(ordered), "hovertemplate": hover}
            | {"marker": {"color": BLACK, "size": 20, "symbol": "line-ns", "line": {"width": 3, "color": BLACK}}},
            shared
            | {"name": "in the search", "x": [rounded(score) for _, score in searched], "hovertemplate": hover}
            | {"y": [at for at, _ in searched], "text": ["in the search"] * len(searched)}
            | {"marker": {"color": RED, "size": 11, "symbol": "circle-open", "line": {"width": 2, "color": RED}}},
        ],
        layout={
            "xaxis": {"title": {"text": _score_axis(view)}},
            "yaxis": {
                "tickvals": list(range(len(ordered))),
                "ticktext": names,
                "automargin": True,
                "range": [-0.6, len(ordered) - 0.4],
                "zeroline": False,
            },
        },
    )


# Cost


def pruning(view: View) -> Chart | None:
    """Optimizer steps that each ended trial made, and those that it was spared."""
    ended = view.table[view.table["state"].isin(["COMPLETE", "PRUNED", "FAIL"])]
    ended = ended.dropna(subset=["optimizer_steps", "total_steps"])
    savings = tables.pruning_savings(view.table)
    if ended.empty or not savings.steps_planned:
        return None
    width = math.ceil((ended["number"].max() + 1) / MOST_BARS)
    done = ended["optimizer_steps"].astype("float64")
    missing = ended["total_steps"].astype("float64") - done
    failed, bars = ended["state"] == "FAIL", ended["number"] // width * width
    data = []
    for rows, steps, colour, name in (
        (~failed, done, BLUE, "made"),
        (failed, done, ORANGE, "made in vain: failed or interrupted"),
        (~failed, missing, PALE, "saved by stopping early"),
    ):
        if rows.any():
            heights = steps[rows].groupby(bars[rows]).sum()
            data.append(
                {
                    "type": "bar",
                    "name": name,
                    "x": [number + (width - 1) / 2 for number in heights.index],
                    "y": [int(height) for height in heights],
                    "width": 0.85 * width,
                    "marker": {"color": colour, "line": {"width": 0}},
                    "hovertemplate": "%{y:,} steps<extra>" + name + "</extra>",
                }
            )
    return Chart(
        name="pruning",
        title=f"Training steps made and saved: {savings.share_saved:.0%} of the plan was not needed",
        caption="Larger batches plan fewer steps.",
        height=320,
        data=data,
        layout={
            "barmode": "stack",
            "xaxis": {"title": {"text": "Trial (number)" if width == 1 else f"Trial (number, {width} a bar)"}},
            "yaxis": {"title": {"text": "Optimizer steps"}},
        },
    )


def _score_axis(view: View) -> str:
    return formats.first_up(view.metric)


def rounded(value: float) -> float:
    """Five digits: what a figure can show, in as few bytes."""
    return float(f"{value:.5g}")


def figures_json(drawn: Sequence[Chart]) -> str:
    """All figures by name."""
    return "{" + ",".join(f"{json.dumps(chart.name)}:{chart.json()}" for chart in drawn) + "}"
