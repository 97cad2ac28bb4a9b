"""Several studies side by side: `comparison.html` and `comparison.md`, from what storage holds of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import optuna
import pandas as pd

from hpo.errors import StorageError
from hpo.output import write_atomically
from hpo.report import answers, formats, html_page, page, tables, worktime
from hpo.report.charts.chart import Chart, Json, intervals, label, rounded
from hpo.report.figures import BLACK, BLUE, ORANGE, RED
from hpo.report.parts import COMPARISON, Table
from hpo.report.tables import View
from hpo.results import Estimate

# Okabe and Ito's, in the order in which they differ most; beyond them, dashes.
COLOURS: Final = (BLUE, RED, "#009E73", ORANGE, "#CC79A7", BLACK)
DASHES: Final = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is said of several studies."""

    names: Sequence[str]
    headline: Sequence[str]
    warnings: Sequence[str]
    """Why their scores cannot be compared."""
    scores: Table
    configurations: Table
    links: Sequence[tuple[str, str]]
    """A study and the page of its own, from the comparison's folder."""


@dataclass(frozen=True, kw_only=True)
class ComparisonFiles:
    """Where a comparison was written."""

    page: Path
    markdown: Path


def write_comparison(studies: Sequence[optuna.Study], output: Path) -> ComparisonFiles:
    """Writes the comparison into the output folder.

    Raises:
        StorageError: the folder cannot be written, or a study has several objectives.
    """
    views = [tables.view_of(study) for study in studies]
    said = compare(views)
    files = ComparisonFiles(page=output / COMPARISON, markdown=(output / COMPARISON).with_suffix(".md"))
    drawn = [chart for chart in (on_test(views), by_trials(views), by_time(views)) if chart]
    try:
        write_atomically(files.page, html_page.document("compare.html.j2", drawn, said=said, charts=drawn).encode())
        write_atomically(files.markdown, page.markdown_of("compare.md.j2", said=said).encode())
    except OSError as error:
        raise StorageError(
            f"a comparison is written to the output folder, but {output} refused it: {error.strerror or error}. "
            "Free space, change its permissions, or give another folder with --output."
        ) from error
    return files


def compare(views: Sequence[View]) -> Comparison:
    """What there is to say of them."""
    warnings = list(_warnings(views))
    return Comparison(
        names=[view.name for view in views],
        headline=list(_headline(views, comparable=not warnings)),
        warnings=warnings,
        scores=_scores(views),
        configurations=_configurations(views),
        links=[(view.name, f"{quote(view.name, safe='')}/report.html") for view in views],
    )


def _warnings(views: Sequence[View]) -> Iterator[str]:
    metrics = list(dict.fromkeys(view.metric for view in views))
    if len(metrics) > 1:
        yield f"They were searched for different scores: {', '.join(metrics)}."
    elif len({view.direction for view in views}) > 1:  # as of another tool's studies, of which the score has no name
        yield "Of one the highest score is the best, of another the lowest."
    prints = {view.attributes.get("data", {}).get("fingerprint") for view in views}
    if len(prints) > 1:
        yield "Their data or splits differ: a score of one is not to be held against a score of another."
    elif None in prints:
        yield "Whether they have the same data is not known."


def _headline(views: Sequence[View], *, comparable: bool) -> Iterator[str]:
    if not comparable:
        yield f"{len(views)} studies side by side, whose scores cannot be compared with each other."
        return
    tested = _tested(views)
    if len(tested) == len(views):
        lower = _metric(views[0]) in answers.LOSSES
        (first, best), *others = sorted(tested, key=lambda each: each[1].value, reverse=not lower)
        words = f"{'lowest' if lower else 'highest'} test {formats.metric(_metric(views[0]))}"
        yield f"{first} has the {words} of its winner, {formats.estimate(best)} with a 95 % interval."
        overlapping = [name for name, each in others if each.high >= best.low and each.low <= best.high]
        if overlapping:
            yield f"Its interval overlaps with that of {formats.listed(overlapping)}: that may be chance."
        else:
            yield "Its interval overlaps with no other."
        yield from dict.fromkeys(filter(None, (answers.stand_in(v, v.reading) for v in views if v.reading)))
        if single := _of_one_seed(views):
            its = f"Of {formats.listed(single)} the interval is over the examples of one seed"
            yield f"{its}: another may turn it round."
        return
    searched = [(view, answers.row_of(view, view.best)) for view in views]
    known = [(view, float(row["score"])) for view, row in searched if row is not None]
    if not known:
        yield "No trial of any of them is complete yet."
        return
    sign = -1 if views[0].direction == "minimize" else 1
    view, score = max(known, key=lambda each: sign * each[1])
    yield f"The best trial of all is one of {view.name}: {view.metric} {formats.score(score)}."
    unread = "Not all have read the test split."
    if all(view.reading for view in views):
        unread = "Their readings of the test split have not the same scores."
    yield f"Each study's best was chosen by that score, which is the more optimistic the more trials it had. {unread}"


def _metric(view: View) -> str:
    return answers.headline_metric(view, view.reading) if view.reading else ""


def _of_one_seed(views: Sequence[View]) -> list[str]:
    return [view.name for view in views if view.reading and len(view.reading.seeds) == 1]


def _tested(views: Sequence[View]) -> list[tuple[str, Estimate]]:
    """The studies whose winner has read the test split, with its score; none where it is not the same of all."""
    if len({_metric(view) for view in views}) > 1:
        return []
    return [(v.name, v.reading.winner_scores[_metric(v)]) for v in views if v.reading]


def _scores(views: Sequence[View]) -> Table:
    """One column a study."""
    columns = [_column(view) for view in views]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "") for column in columns)] for name in names]
    filled = [row for row in rows if any(row[1:])]
    return Table(header=["", *(view.name for view in views)], rows=filled)


def _column(view: View) -> dict[str, str]:
    best, default = answers.row_of(view, view.best), answers.row_of(view, view.default)
    reading, name = view.reading, _metric(view)
    found = reading.differences.get(name) if reading else None
    words = formats.metric(name)
    tested = {}
    if reading:
        tested[f"Test {words}, winner"] = formats.estimate(reading.winner_scores[name])
        if name in reading.default_scores:
            tested[f"Test {words}, untuned default"] = formats.estimate(reading.default_scores[name])
    return {
        "Model": view.spec.model.name if view.spec else "",
        **tested,
        "Fresh seeds": str(len(reading.seeds)) if reading else "",
        "Difference": formats.difference(found) if found else "",
        "p-value": formats.p_cell(found.p_value) if found else "",
        f"Best {view.metric} of the search": "" if best is None else formats.score(best["score"]),
        f"Default's {view.metric}": "" if default is None else _scored(default),
        "Trials": f"{len(view.table):,}",
        "Time in trials": formats.duration(float(view.table["seconds"].sum())),
    }


def _scored(trial: "pd.Series[Any]") -> str:
    """Its score; of one that did not come to its end, how it ended: its last evaluation is no score of it."""
    return formats.score(trial["score"]) if trial["state"] == "COMPLETE" else answers.state_of(trial)


def _configurations(views: Sequence[View]) -> Table:
    """What the winner of each has of the searched parameters."""
    chosen = [_winner_params(view) for view in views]
    names = list(dict.fromkeys(name for params in chosen for name in params))
    rows = [[name, *(formats.value(params.get(name, "")) for params in chosen)] for name in names]
    return Table(header=["Parameter", *(view.name for view in views)], rows=rows)


def _winner_params(view: View) -> dict[str, Any]:
    number = view.finals.winner if view.finals else view.best
    trial = next((trial for trial in view.trials if trial.number == number), None)
    drawn = trial.params if trial else {}
    return {name: tables.NONE if value is None else value for name, value in drawn.items()}


# Figures


def by_trials(views: Sequence[View]) -> Chart | None:
    """The best so far of each study by the number of trials."""
    return _running_best(
        views,
        name="by_trials",
        title="The best so far by the number of trials",
        axis="Trials that have ended (number)",
        places=lambda view: {trial.number: float(at) for at, trial in enumerate(_ended(view), start=1)},
    )


def by_time(views: Sequence[View]) -> Chart | None:
    """The best so far of each study by time."""
    return _running_best(
        views,
        name="by_time",
        title="The best so far by time",
        axis="Time since the study's first trial started (min)",
        places=lambda view: {each.trial.number: each.end / 60 for each in worktime.work(view)},
    )


def _ended(view: View) -> list[Any]:
    return sorted(
        (trial for trial in view.trials if trial.state.is_finished()),
        key=lambda trial: (trial.datetime_complete is None, trial.datetime_complete, trial.number),
    )


def _running_best(views: Sequence[View], *, name: str, title: str, axis: str, places: Any) -> Chart | None:
    data = []
    for at, view in enumerate(views):
        place = places(view)
        rows = view.complete[view.complete["number"].isin(list(place))]
        if rows.empty:
            continue
        found = sorted(zip((place[n] for n in rows["number"]), rows["score"], strict=True))
        better = min if view.direction == "minimize" else max
        across: list[float] = []
        up: list[float] = []
        for x, score in found:
            best = better(score, up[-1]) if up else score
            if not up or best != up[-1]:
                across.append(rounded(x))
                up.append(best)
        across.append(rounded(max(place.values())))
        up.append(up[-1])
        data.append(_line(at, view) | {"x": across, "y": [rounded(score) for score in up]})
    if not data:
        return None
    return Chart(
        name=name,
        title=title,
        caption="Of complete trials, on validation: chosen by what they scored there, and optimistic.",
        height=380,
        data=data,
        layout={
            "xaxis": {"title": {"text": axis}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": formats.first_up(views[0].metric)}},
            "showlegend": True,
        },
    )


def _line(at: int, view: View) -> Json:
    colour, dash = COLOURS[at % len(COLOURS)], DASHES[at // len(COLOURS) % len(DASHES)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label(view.name),
        "line": {"color": colour, "width": 2.2, "dash": dash, "shape": "hv"},
    }


def on_test(views: Sequence[View]) -> Chart | None:
    """Winner and default of each study on the test split."""
    shown = [view for view in reversed(views) if view.reading]
    if not shown or len({_metric(view) for view in shown}) > 1:
        return None
    metric = _metric(shown[0])
    single = _of_one_seed(shown)
    but = f", of {formats.listed(single)} the examples of one seed only" if single else ""
    data = []
    for words, colour, aside in (("winner", BLUE, 0.12), ("untuned default", BLACK, -0.12)):
        scores = [
            (at, (reading.winner_scores if words == "winner" else reading.default_scores).get(metric))
            for at, reading in enumerate(view.reading for view in shown)
            if reading
        ]
        places = [at for at, each in scores if each]
        found = [each for _, each in scores if each]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": words,
                "x": [rounded(each.value) for each in found],
                "y": [at + aside for at in places],
                "text": [formats.estimate(each) for each in found],
                "hovertemplate": "%{text}<extra>" + words + "</extra>",
                "marker": {"color": colour, "size": 9, "symbol": "circle" if words == "winner" else "diamond-open"},
                "error_x": intervals(found, colour),
            }
        )
    return Chart(
        name="on_test",
        title=f"Test {formats.metric(metric)} of each study's winner and default, with 95 % intervals",
        caption=f"Means over fresh seeds; the intervals cover both seeds and examples{but}.",
        height=120 + 48 * len(shown),
        data=data,
        layout={
            "xaxis": {"title": {"text": f"Test {label(formats.metric(metric))}"}},
            "yaxis": {
                "tickvals": list(range(len(shown))),
                "ticktext": [label(view.name) for view in shown],
                "automargin": True,
                "range": [-0.6, len(shown) - 0.4],
                "zeroline": False,
            },
        },
    )
