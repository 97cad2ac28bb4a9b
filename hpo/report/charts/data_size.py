"""The learning curve over data size, as a figure."""

import numpy as np

from hpo.report.charts.chart import Chart, Json, intervals, rounded, score_axis
from hpo.report.data_size import FITTED, power_law, sizes
from hpo.report.figures import BLUE, ORANGE
from hpo.report.tables import View
from hpo.results import Estimate


def data_size(view: View) -> Chart | None:
    """The mean score of each size, and the power law through the largest up to twice the rows."""
    found = sizes(view)
    if len(found) < 2:
        return None
    means = [size.interval or Estimate(value=size.mean, low=size.mean, high=size.mean) for size in found]
    data: list[Json] = [
        {
            "type": "scatter",
            "mode": "markers+lines" if len(found) < FITTED else "markers",
            "name": "mean of the trials",
            "x": [size.rows for size in found],
            "y": [rounded(each.value) for each in means],
            "error_y": intervals(means, BLUE),
            "marker": {"color": BLUE, "size": 9},
            "customdata": [len(size.scores) for size in found],
            "hovertemplate": "%{x:,} rows, %{customdata} trials: %{y:.4f}<extra></extra>",
        }
    ]
    if law := power_law(view, found):
        across = np.geomspace(found[-FITTED].rows, 2 * found[-1].rows, 40)
        error = law.error(across)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "power law, to twice the rows",
                "x": [rounded(rows) for rows in across],
                "y": [rounded(float(each)) for each in (error if view.direction == "minimize" else 1 - error)],
                "line": {"color": ORANGE, "width": 2, "dash": "dash"},
                "hovertemplate": "%{y:.4f}<extra>power law</extra>",
            }
        )
    return Chart(
        name="data_size",
        title="The score against the rows that were learned from",
        caption="Means of the complete trials of each size, with 95 % intervals over these where there are several.",
        height=340,
        data=data,
        layout={
            "xaxis": {"title": {"text": "Train rows (logarithmic)"}, "type": "log"},
            "yaxis": {"title": {"text": score_axis(view)}},
        },
    )
