"""Whether the search was long enough, as figures: the expected best score by trials and by time."""

from hpo.report import formats
from hpo.report.charts.chart import Chart, Json, rounded
from hpo.report.expected import ExpectedBest, caption, expected_best, expected_best_at_random
from hpo.report.figures import BLUE, ORANGE
from hpo.report.tables import View


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
        caption=caption(view),
        height=340,
        data=data,
        layout={
            "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": f"Expected best {view.metric}"}},
        },
    )
