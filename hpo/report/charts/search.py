"""How the search went, as figures: its history, the learning curves, who was at what when, and what pruning saved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from hpo.report import formats, tables, worktime
from hpo.report.charts.chart import Chart, Json, label, points, rounded, score_axis
from hpo.report.figures import BLACK, BLUE, GREY, ORANGE, PALE, RED, labelled
from hpo.report.tables import View

# Bars of a figure; more would be one block of colour.
MOST_BARS: Final = 200
STATES: Final = {"COMPLETE": BLUE, "PRUNED": GREY, "FAIL": ORANGE, "RUNNING": PALE}
WORDS: Final = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


def history(view: View) -> Chart | None:
    """Each trial's score by its number, with the best so far."""
    if view.shown.empty:
        return None
    data = [
        points("pruned", view.pruned, GREY, symbol="triangle-down-open", size=7, line=1.2, opacity=0.85),
        points("complete", view.complete, BLUE, size=7),
        *([running_best(view)] if not view.rivals.empty else []),
        points("best", view.only(view.best), RED, size=12),
        points("untuned default", view.only(view.default), BLACK, symbol="diamond-open", size=11, line=2),
    ]
    failed = view.table[view.table["state"] == "FAIL"]
    if not failed.empty:
        marks = points("failed", failed, ORANGE, symbol="x-thin", size=8, line=2)
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
            "yaxis": {"title": {"text": score_axis(view)}},
            "yaxis2": scale,
            "shapes": lines,
        },
    )


def running_best(view: View) -> Json:
    """The best so far as a line, of the trials that compete."""
    scores = view.rivals["score"]
    best = scores.cummax() if view.direction == "maximize" else scores.cummin()
    # Only where it changes: a thousand equal points would be as many to draw.
    changes = best.ne(best.shift())
    numbers = [*view.rivals.loc[changes, "number"].tolist(), int(view.table["number"].max())]
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
        layout={"xaxis": axis, "yaxis": {"title": {"text": score_axis(view)}}, "hovermode": "closest"},
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


def pruning(view: View) -> Chart | None:
    """Optimizer steps that each ended trial made, and those that it was spared."""
    savings, bars = tables.pruning_savings(view.table), tables.step_bars(view.table, MOST_BARS)
    if bars is None:
        return None
    width, data = bars.width, list[Json]()
    for colour, name, heights in labelled(bars):
        if len(heights):
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
