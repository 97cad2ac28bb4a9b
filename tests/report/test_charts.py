import json
from collections.abc import Callable
from itertools import pairwise

import optuna
import pytest

from hpo.report.charts.chart import Chart, label
from hpo.report.charts.finals import differences, finalists
from hpo.report.charts.outlook import expected, expected_by_time
from hpo.report.charts.parameters import importance, parameters
from hpo.report.charts.search import history, learning_curves, pruning, timeline
from hpo.report.tables import View, pruning_savings, view_of
from hpo.report.worktime import overhead, seconds_by_device, span, work
from synthetic import synthetic_finals, synthetic_study

DRAW: list[Callable[[View], Chart | None]] = [
    *(history, expected, expected_by_time, learning_curves, timeline, importance, differences, finalists, pruning)
]


@pytest.fixture(scope="module")
def thousand() -> View:
    return view_of(synthetic_study(1000, finals=synthetic_finals()))


@pytest.mark.parametrize("draw", DRAW)
def test_a_figure_has_a_title_and_axes_and_is_one_of_plotlys(
    thousand: View, draw: Callable[[View], Chart | None]
) -> None:
    chart = draw(thousand)
    assert chart is not None
    assert len(chart.title) > 20 and chart.caption
    assert json.loads(chart.json())["data"]  # checked by plotly's schema
    assert chart.layout["xaxis"]["title"]["text"]
    assert len(chart.data) <= 12  # however many trials
    assert len(chart.json()) < 300_000


@pytest.mark.parametrize("draw", DRAW)
def test_nothing_is_drawn_of_nothing(draw: Callable[[View], Chart | None]) -> None:
    assert draw(view_of(optuna.create_study())) is None
    assert draw(view_of(synthetic_study(0))) is None


def test_a_parameter_has_a_figure_with_its_scale(thousand: View) -> None:
    charts = {chart.title: chart for chart in parameters(thousand)}
    assert charts["learning_rate"].layout["xaxis"]["type"] == "log"
    assert charts["max_grad_norm"].layout["xaxis"]["ticktext"] == ["none", "0.5", "1.0"]
    assert "tickvals" not in charts["dropout"].layout["xaxis"]
    shown = sum(len(trace["x"]) for trace in charts["dropout"].data if trace["name"] in ("complete", "pruned"))
    assert shown == len(thousand.shown)


def test_curves_have_gaps_between_trials_and_every_score_of_storage() -> None:
    view = view_of(synthetic_study(40))
    chart = learning_curves(view)
    assert chart is not None
    lines = [trace for trace in chart.data if trace["mode"] == "lines"]
    drawn = [score for trace in lines for score in trace["y"] if score is not None]
    assert len(drawn) == sum(len(trial.intermediate_values) for trial in view.trials)
    pruned = next(trace for trace in lines if trace["name"] == "pruned")
    faded = {trace["name"]: trace["opacity"] for trace in lines}
    assert faded["pruned"] < faded["complete"] < faded["best"]
    assert pruned["y"].count(None) == len(view.pruned)


def test_bars_hold_all_steps(thousand: View) -> None:
    chart, savings = pruning(thousand), pruning_savings(thousand.table)
    assert chart is not None
    heights = {trace["name"]: sum(trace["y"]) for trace in chart.data}
    assert heights["made"] == savings.steps_done
    assert heights["saved by stopping early"] >= savings.steps_saved
    assert f"{savings.share_saved:.0%}" in chart.title


def test_work_is_told_by_worker() -> None:
    view = view_of(synthetic_study(40, workers=4))
    done = work(view)
    assert {each.worker for each in done} == {0, 1, 2, 3}
    assert done[0].start == 0.0 and done[0].place == "node1, process 4100"
    for worker in range(4):
        own = [each for each in done if each.worker == worker]
        assert all(before.end <= after.start for before, after in pairwise(own))
    assert span(view) == max(each.end for each in done)
    took = float(view.table["seconds"].sum())
    assert seconds_by_device(view) == {"NVIDIA H100 80GB HBM3": pytest.approx(took)}
    # 1.4 s at each trial's end, 0.6 s between two of the same worker's 10.
    found = overhead(view)
    assert found is not None
    assert found[0] == pytest.approx(40 * 1.4 + 36 * 0.6, abs=0.5)


def test_trials_of_another_tool_that_overlap_stand_one_below_the_other() -> None:
    view = view_of(synthetic_study(12, workers=3))
    foreign = optuna.create_study(direction="maximize")
    foreign.add_trials(view.trials)
    seen = view_of(foreign)
    assert {each.worker for each in work(seen)} == {0, 1, 2}
    assert {each.place for each in work(seen)} == {""}
    assert overhead(seen) is None
    assert seconds_by_device(seen) == {}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a <b>c</b> & d", "a &lt;b&gt;c&lt;/b&gt; &amp; d"),
        ("x" * 60, "x" * 14 + "…" + "x" * 13),
        ("\x1b[31mred\n ", "\\x1b[31mred"),
    ],
)
def test_text_of_others_has_no_tags_in_a_figure(text: str, shown: str) -> None:
    assert label(text) == shown
