"""What the page's interactive figures are made of: plotly's own JSON, checked against its schema.

Colours are those of the PNGs, for a light page; `report.js` replaces them on a dark one. What others wrote is escaped,
for plotly takes `<a>` and `<b>` in any text for tags. A figure has few traces, however many trials.
"""

import html
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from hpo.report import formats
from hpo.report.tables import View
from hpo.results import Estimate

Json = dict[str, Any]
# Longer texts would push the plot aside.
MOST_LETTERS: Final = 28


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
    return html.escape(formats.shortened(str(text), length), quote=False)


def charts_of(view: View, draw: Iterable[Callable[[View], Chart | None]]) -> list[Chart]:
    """Those that have something to show."""
    return [chart for chart in (each(view) for each in draw) if chart is not None]


def points(name: str, rows: pd.DataFrame, colour: str, across: Sequence[Any] | None = None, **style: Any) -> Json:
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


def score_axis(view: View) -> str:
    return formats.first_up(view.metric)


def rounded(value: float) -> float:
    """Five digits: what a figure can show, in as few bytes."""
    return float(f"{value:.5g}")


def figures_json(drawn: Sequence[Chart]) -> str:
    """All figures by name."""
    return "{" + ",".join(f"{json.dumps(chart.name)}:{chart.json()}" for chart in drawn) + "}"
