"""The winner against the default, as figures: their differences on test, and the finalists on validation."""

from collections.abc import Sequence

from hpo.report import answers, formats
from hpo.report.charts.chart import Chart, Json, intervals, label, rounded, score_axis
from hpo.report.expected import is_share
from hpo.report.figures import BLACK, BLUE, GREY, RED
from hpo.report.tables import View


def differences(view: View) -> Chart | None:
    """Winner less default on the test split, of all scores that lie between 0 and 1."""
    reading = view.reading
    words_of = answers.shown_scores(view, reading) if reading else {}
    found = {name: reading.differences[name] for name in words_of if reading and name in reading.differences}
    for name in answers.LOSSES - {"calibration_error"}:  # in units of their own
        found.pop(name, None)
    if reading is None or not found:
        return None
    calibrated = "calibration_error" in found
    single, own = len(reading.seeds) == 1, answers.headline_metric(view, reading)
    names = list(reversed(found))
    shown = {name: label(formats.first_up(words_of[name])) for name in names}
    excludes = [not found[name].low <= 0 <= found[name].high for name in names]
    data = []
    for kind, colour, words in (
        (False, GREY, "its interval includes zero"),
        (True, BLUE, "its interval excludes zero"),
    ):
        places = [at for at in range(len(names)) if excludes[at] == kind]
        if places:
            values = [found[names[at]] for at in places]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": words,
                    "x": [rounded(each.value) for each in values],
                    "y": places,
                    "marker": {"color": colour, "size": 9},
                    "text": [f"{formats.difference(each)}, {formats.p_value(each.p_value)}" for each in values],
                    "hovertemplate": "%{text}<extra></extra>",
                    "error_x": intervals(values, colour),
                }
            )
    return Chart(
        name="differences",
        title="Test split: how much better the winner is than the untuned default, with 95\u00a0% intervals",
        caption=(
            "An interval that crosses the line at zero could as well be no difference. "
            + ("Of the calibration error, less is better; of all others, more." if calibrated else "More is better.")
            + f" {answers.many_scores(view, reading)}".rstrip()
            + (" Intervals over the examples of one seed: another seed may turn any of them round." if single else "")
        ),
        height=110 + 32 * len(names),
        data=data,
        layout={
            "xaxis": {
                "title": {"text": "Winner less default" + (" (points of 0 to 1)" if is_share(view) else "")},
                "zeroline": True,
                "zerolinewidth": 2,
                "zerolinecolor": BLACK,
            },
            "yaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": [f"<b>{words}</b>" if name == own else words for name, words in shown.items()],
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
    searched = [(at, each.searched) for at, each in enumerate(ordered) if each.searched is not None]
    shared: Json = {"type": "scatter", "mode": "markers"}
    hover = "%{text}: %{x:.4f}<extra></extra>"
    choice = _by_seed("seed for the choice", view.finals.seeds, [each.scores for each in ordered])
    choice |= {"marker": {"color": BLUE, "size": 8}, "opacity": 0.6, "hovertemplate": hover}
    test = _by_seed("seed for the test split", view.finals.test_seeds, [each.test_scores for each in ordered], -0.22)
    test |= {"marker": {"color": GREY, "size": 7, "symbol": "diamond"}, "opacity": 0.8, "hovertemplate": hover}
    return Chart(
        name="finalists",
        title="The finalists on validation: by seed, on average, and as the search saw them",
        caption=(
            "The score of the search is one run's. The best was chosen by it, and is expected to look too good. The "
            "mean over seeds chose the winner, and is a little too good of it."
            + (" The other seeds chose nothing: with them the test split was read." if test["x"] else "")
        ),
        height=120 + 42 * len(ordered),
        data=[
            shared | choice,
            *([shared | test] if test["x"] else []),
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
            "xaxis": {"title": {"text": score_axis(view)}},
            "yaxis": {
                "tickvals": list(range(len(ordered))),
                "ticktext": names,
                "automargin": True,
                "range": [-0.6, len(ordered) - 0.4],
                "zeroline": False,
            },
        },
    )


def _by_seed(name: str, seeds: Sequence[int], scores: Sequence[Sequence[float]], aside: float = 0) -> Json:
    """The scores of each finalist, so far aside of its line."""
    points = [(at + aside, seed, score) for at, of_one in enumerate(scores) for seed, score in enumerate(of_one)]
    return {
        "name": name,
        "x": [rounded(score) for *_, score in points],
        "y": [at for at, *_ in points],
        "text": [f"seed {seeds[seed] if seed < len(seeds) else seed}" for _, seed, _ in points],
    }
