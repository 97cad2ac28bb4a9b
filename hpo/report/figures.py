"""The report's figures, each drawn from the trials in storage, or None where there is too little to see.

Draws on `Figure` objects only: no window, no global state of pyplot.
"""

import io
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from hpo.report import formats, tables
from hpo.report.expected import expected_best, expected_best_at_random
from hpo.report.importance import importances, trials_used
from hpo.report.tables import NONE, PARAM, StepBars, View

# Okabe and Ito's palette, which survives colour blindness and grey printing.
BLUE, ORANGE, RED, GREY, BLACK = "#0072B2", "#E69F00", "#D55E00", "#8C8C8C", "#222222"
PALE: Final = "#D9D9D9"
DPI: Final = 120
MOST_COMPARED: Final = 40
# More would be one block of colour, and take long to draw.
MOST_CURVES: Final = 200
MOST_BARS: Final = 400
# Of more than these, points become smaller, or they would hide each other.
MANY_POINTS: Final = 500
Style = dict[str, Any]
COMPLETE: Final[Style] = {"marker": "o", "s": 30, "facecolor": BLUE, "edgecolor": "white", "linewidth": 0.6}
PRUNED: Final[Style] = {"marker": "v", "s": 26, "facecolor": "none", "edgecolor": GREY, "linewidth": 0.9}
BEST: Final[Style] = {"marker": "o", "s": 64, "facecolor": RED, "edgecolor": "white", "linewidth": 0.8, "zorder": 5}
DEFAULT: Final[Style] = {"marker": "D", "s": 44, "facecolor": "white", "edgecolor": BLACK, "zorder": 6}


def png(figure: Figure) -> bytes:
    """The figure as a PNG, the same bytes for the same trials."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def history(view: View) -> Figure | None:
    """Each trial's score by its number, with the best so far."""
    if view.shown.empty:
        return None
    figure, axes = one_panel(8, 4.2, "Score of each trial and the best so far", "Trial", formats.first_up(view.metric))
    _scatter_states(axes, view, "number")
    failed = view.table[view.table["state"] == "FAIL"]
    if not failed.empty:
        floor = [0.03] * len(failed)
        across = axes.get_xaxis_transform()
        axes.scatter(failed["number"], floor, marker="x", s=26, color=BLACK, label="failed", transform=across)
    if not view.rivals.empty:
        _running_best(axes, view)
    for score in view.complete.loc[view.complete["number"] == view.default, "score"]:
        axes.axhline(score, color=BLACK, linewidth=1, linestyle=(0, (5, 4)), zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend_below(figure)
    return figure


def _running_best(axes: Axes, view: View) -> None:
    scores = view.rivals["score"]
    best = scores.cummax() if view.direction == "maximize" else scores.cummin()
    numbers = [*view.rivals["number"], view.table["number"].max()]
    axes.step(numbers, [*best, best.iloc[-1]], where="post", color=RED, linewidth=1.4, zorder=1, label="best so far")


def expected(view: View) -> Figure | None:
    """How good the best of so many trials is expected to be: by the search itself, and by draws at random."""
    curve, at_random = expected_best(view), expected_best_at_random(view)
    if curve is None:
        return None
    title = "How good the best trial is expected to be, by trials"
    figure, axes = one_panel(8, 4.0, title, "Trials", f"Expected best {view.metric}")
    axes.fill_between(curve.trials, curve.low, curve.high, color=BLUE, alpha=0.16, linewidth=0, label="95 % interval")
    axes.plot(curve.trials, curve.mean, color=BLUE, linewidth=2, label="this search")
    if at_random is not None:
        axes.plot(
            at_random.trials,
            at_random.mean,
            color=ORANGE,
            linewidth=1.6,
            linestyle=(0, (5, 3)),
            label="its random trials alone",
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend_below(figure)
    return figure


def learning_curves(view: View) -> Figure | None:
    """The score at every evaluation of every trial, over the share of the training budget."""
    curves = {trial.number: _finite(trial.intermediate_values) for trial in view.trials}
    if not any(curves.values()):
        return None
    planned = view.table["num_evaluations"].max()
    budget = 1 if pd.isna(planned) else int(planned)
    unit = "Evaluation" if pd.isna(planned) else "Share of the training budget"
    title = "Score while training: which trials went on, which were stopped"
    every = math.ceil(len(view.trials) / MOST_CURVES)
    if every > 1:
        title = f"Score while training, of one trial in {every}, the best and the default"
    figure, axes = one_panel(8, 4.6, title, unit, formats.first_up(view.metric))
    kinds: dict[str, Style] = {}
    for trial in view.trials:
        curve, style = curves[trial.number], _line_style(view, trial.number, trial.state.name)
        if curve and (trial.number % every == 0 or trial.number in (view.best, view.default)):
            kinds[style["label"]] = style
            steps, scores = [step / budget for step in curve], list(curve.values())
            axes.plot(steps, scores, **style)
            if trial.state.name == "PRUNED":
                axes.plot(steps[-1:], scores[-1:], "x", color=style["color"], markersize=6)
    if pd.isna(planned):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    else:
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes.set_xlim(0, 1.02)
    _legend_below(figure, [_legend_line(style) for style in sorted(kinds.values(), key=lambda style: -style["zorder"])])
    return figure


def _line_style(view: View, number: int, state: str) -> Style:
    # Small markers, or a trial with a single evaluation would not be seen at all.
    style: Style = {"marker": ".", "markersize": 3}
    if number == view.default:
        both = " and best" if number == view.best else ""
        style |= {"color": RED if both else BLACK, "linewidth": 1.8, "linestyle": (0, (4, 2)), "zorder": 6}
        return style | {"label": f"default{both} (trial {number})"}
    if number == view.best:
        return style | {"color": RED, "linewidth": 2.4, "zorder": 5, "label": f"best (trial {number})"}
    if state == "COMPLETE":
        return style | {"color": BLUE, "linewidth": 1, "alpha": 0.65, "zorder": 3, "label": "complete"}
    if state == "PRUNED":
        return style | {"color": GREY, "linewidth": 0.9, "alpha": 0.7, "zorder": 2, "label": "pruned"}
    return style | {"color": ORANGE, "linewidth": 1.2, "linestyle": ":", "zorder": 1, "label": "running or failed"}


def _legend_line(style: Style) -> Line2D:
    return Line2D([], [], **style | {"marker": "x" if style["label"] == "pruned" else "", "markersize": 6})


def importance(view: View) -> Figure | None:
    """How much each parameter decided the score."""
    found = importances(view)
    if found is None:
        return None
    title = f"How much each parameter seems to matter, over {trials_used(view)}"
    label = "Share of the importance (fANOVA), with its 95 % interval"
    figure, axes = one_panel(8, 1.3 + 0.36 * len(found), title, label, "")
    names = [formats.shortened(one.name, 34) for one in reversed(found)]
    values = [one.share for one in reversed(found)]
    axes.barh(range(len(names)), values, height=0.62, color=BLUE)
    for at, one in enumerate(reversed(found)):
        axes.hlines(at, one.low, one.high, color=BLACK, linewidth=1.4)
        after = (max(one.share, one.high), at)
        axes.annotate(
            f"{one.share:.0%}", after, (4, 0), textcoords="offset points", va="center", fontsize=9, color=BLACK
        )
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.1)
    return figure


def parameters(view: View) -> Figure | None:
    """Each searched parameter against the score, one small panel a parameter."""
    kinds: dict[str, BaseDistribution] = {}
    for trial in view.trials:
        kinds |= trial.distributions
    names = [name for name in kinds if view.shown[PARAM + name].notna().any()]
    if not names:
        return None
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(max(6.0, 3.1 * columns), 0.9 + 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, name in zip(panels.flat, names, strict=False):
        _panel(axes, view, name, kinds[name])
    for axes in panels.flat[len(names) :]:
        axes.remove()
    for row in panels:
        row[0].set_ylabel(formats.first_up(view.metric), fontsize=9)
    figure.suptitle("Score against each searched parameter", fontsize=11, x=0.01, ha="left")
    _legend_below(figure, panels[0][0].get_legend_handles_labels()[0])
    return figure


def _panel(axes: Axes, view: View, name: str, kind: BaseDistribution) -> None:
    dress(axes)
    axes.set_xlabel(formats.shortened(name, 34), fontsize=9, parse_math=False)
    if isinstance(kind, CategoricalDistribution):
        labels = [NONE if choice is None else str(choice) for choice in kind.choices]
        _scatter_states(axes, view, PARAM + name, places={label: at for at, label in enumerate(labels)})
        crowded = max(map(len, labels)) * len(labels) > 30
        turn: Style = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(
            range(len(labels)), [formats.shortened(label, 20) for label in labels], parse_math=False, **turn
        )
        axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.grid(axis="x", visible=False)
        return
    _scatter_states(axes, view, PARAM + name)
    if getattr(kind, "log", False):
        axes.set_xscale("log")
    elif isinstance(kind, IntDistribution):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _scatter_states(axes: Axes, view: View, column: str, places: dict[str, int] | None = None) -> None:
    """Pruned, complete, the best and the default, each in its own style; `places` are those of categories."""
    groups = [
        ("pruned (its last score)", PRUNED, view.pruned),
        ("complete", COMPLETE, view.complete),
        ("best", BEST, view.only(view.best)),
        ("untuned default", DEFAULT, view.only(view.default)),
    ]
    for label, style, all_rows in groups:
        rows = all_rows[all_rows[column].notna()]
        across = rows[column] if places is None else jittered(rows, column, places)
        if len(all_rows):
            axes.scatter(list(across), list(rows["score"]), label=label, **_smaller(style, len(rows)))


def _smaller(style: Style, points: int) -> Style:
    if points <= MANY_POINTS:
        return style
    room = MANY_POINTS / points
    return style | {"s": max(5.0, room * style["s"]), "linewidth": max(0.3, room * style["linewidth"])}


def jittered(rows: pd.DataFrame, column: str, places: dict[str, int]) -> list[float]:
    """The place of each category, moved aside by the trial's number so that equal ones do not hide each other."""
    spread = rows["number"].map(lambda number: (number * 0.618034 + 0.5) % 1 - 0.5)  # 0, the default, stays in place
    return [places[str(value)] + 0.44 * aside for value, aside in zip(rows[column], spread, strict=True)]


def two_scores(view: View) -> Figure | None:
    """The two scores that a task shows, such as accuracy and macro F1, of each complete trial, the best on top."""
    ranked = tables.leaderboard(view.complete, "score", view.direction)
    one, other = view.task.shown
    both = ranked.dropna(subset=[one, other])
    if both.empty:
        return None
    shown = both[(both.index < MOST_COMPARED) | (both["number"] == view.default)].iloc[::-1]
    words, others = tables.metric_in_words(one), tables.metric_in_words(other)
    names = f"{words[:1].upper()}{words[1:]} and {others}"
    title = f"{names} of the complete trials, best first"
    if len(shown) < len(both):
        title = f"{names} of the best {MOST_COMPARED} of {len(both)} complete trials"
    figure, axes = one_panel(8, max(2.4, 1.4 + 0.23 * len(shown)), title, "Validation score", "Trial")
    heights = list(range(len(shown)))
    axes.hlines(heights, shown[one], shown[other], color=PALE, linewidth=2, zorder=1)
    axes.scatter(shown[other], heights, s=34, marker="s", color=ORANGE, label=others)
    axes.scatter(shown[one], heights, s=34, color=BLUE, label=words)
    marks = {view.default: " (default)"}
    axes.set_yticks(heights, [f"{number}{marks.get(number, '')}" for number in shown["number"]])
    axes.set_ylim(-0.7, len(shown) - 0.3)
    _legend_below(figure)
    return figure


def labelled(bars: StepBars) -> Iterator[tuple[str, str, "pd.Series[float]"]]:
    """The kinds of steps from the bottom up, each with its colour and name."""
    yield BLUE, "made", bars.made
    yield ORANGE, "made in vain: failed or interrupted", bars.in_vain
    yield PALE, "saved by stopping early", bars.saved


def pruning(view: View) -> Figure | None:
    """Optimizer steps that each ended trial made, and those that it was spared."""
    savings, bars = tables.pruning_savings(view.table), tables.step_bars(view.table, MOST_BARS)
    if bars is None:
        return None
    title = f"Training steps made and saved: {savings.share_saved:.0%} of the plan was not needed"
    width, last = bars.width, max(4, bars.last)
    figure, axes = one_panel(8, 3.6, title, "Trial" if width == 1 else f"Trial ({width} a bar)", "Optimizer steps")
    floor = pd.Series(0.0, index=range(0, last + 1, width))
    for colour, label, heights in labelled(bars):
        if len(heights):
            middles = heights.index + (width - 1) / 2
            axes.bar(middles, heights, bottom=floor[heights.index], width=0.8 * width, color=colour, label=label)
            floor = floor.add(heights, fill_value=0.0)
    axes.set_xlim(-0.7, last + 0.7)
    axes.set_ylim(0, 1.05 * floor.max())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="x", visible=False)
    _legend_below(figure)
    return figure


def one_panel(width: float, height: float, title: str, across: str, up: str) -> tuple[Figure, Axes]:
    """A figure of so many inches with axes that look as all of ours, labelled."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    axes.set_title(title, loc="left", fontsize=11, pad=10)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, axes


def dress(axes: Axes) -> None:
    """Gives axes the look of all our figures."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#EBEBEB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, length=3)


def _legend_below(figure: Figure, handles: list[Any] | None = None) -> None:
    given = {} if handles is None else {"handles": handles}
    figure.legend(
        **given, loc="outside lower center", ncols=6, columnspacing=1.4, handletextpad=0.4, frameon=False, fontsize=9
    )


def _finite(curve: dict[int, float]) -> dict[int, float]:
    return {step: curve[step] for step in sorted(curve) if math.isfinite(curve[step])}


FIGURES: Final[dict[str, Callable[[View], Figure | None]]] = {
    "history": history,
    "expected": expected,
    "learning_curves": learning_curves,
    "importance": importance,
    "parameters": parameters,
    "two_scores": two_scores,
    "pruning": pruning,
}
"""Every figure by the name of its file, in the order of the page."""
