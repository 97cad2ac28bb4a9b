"""What mattered, as figures: the importance of each parameter, and each against the score."""

import math

import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from hpo.plain_text import printable
from hpo.report import formats
from hpo.report.charts.chart import Chart, Json, label, points, rounded, score_axis
from hpo.report.figures import BLACK, BLUE, GREY, RED, jittered
from hpo.report.importance import importances, trials_used
from hpo.report.tables import NONE, PARAM, View


def importance(view: View) -> Chart | None:
    """How much each parameter decided the score."""
    found = importances(view)
    if found is None:
        return None
    shown = list(reversed(found))
    widest = max(max(one.share, one.high) for one in shown)
    return Chart(
        name="importance",
        title=f"How much each parameter seems to matter, over {trials_used(view)}",
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
            across = own[PARAM + name] if places is None else jittered(own, PARAM + name, places)
            made = points(words, own, across=[rounded(value) for value in across], **style)
            drawn = [label(formats.value(value)) for value in own[PARAM + name]]
            hover = "trial %{customdata}: %{y:.4f}<br>%{text}<extra>" + words + "</extra>"
            data.append(made | {"text": drawn, "hovertemplate": hover})
    return Chart(
        name=f"parameter_{at}",
        title=formats.value(printable(name)),
        caption="",
        height=250,
        data=data,
        layout={"xaxis": axis, "yaxis": {"title": {"text": score_axis(view)}}, "showlegend": False},
    )
