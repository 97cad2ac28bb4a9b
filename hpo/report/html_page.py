"""The report as one HTML file that asks the network for nothing: texts, data, plotly, style and script are within it.

Every text of others is escaped by the template; data stand in JSON in which no tag can begin; only the scripts that are
named by their hash may run, and nothing may be loaded.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from optuna.trial import FrozenTrial

from hpo.plain_text import printable
from hpo.report import formats, tables
from hpo.report.answers import LOSSES, state_of
from hpo.report.charts import data_size, finals, outlook, parameters, search
from hpo.report.charts.chart import Chart, charts_of, figures_json
from hpo.report.contents import MOST_EXAMPLES, Contents, score_columns
from hpo.report.tables import PARAM, View, metric_columns

# Where `python -m hpo.ui` serves, unless told otherwise.
MLFLOW = "http://127.0.0.1:5000"


def page(view: View, said: Contents) -> str:
    """The page of one study."""
    drawn = {
        "winner": charts_of(view, [finals.differences, finals.finalists]),
        "search": charts_of(
            view,
            [search.history, outlook.expected, outlook.expected_by_time, search.learning_curves, search.timeline],
        ),
        "data_size": charts_of(view, [data_size.data_size]),
        "mattered": charts_of(view, [parameters.importance]),
        "parameters": parameters.parameters(view),
        "cost": charts_of(view, [search.pruning]),
    }
    address = mlflow_address(view)
    trials = _trials(view) if len(view.table) else None
    return document(
        "report.html.j2",
        [chart for group in drawn.values() for chart in group],
        trials={"address": address, **trials} if trials else None,
        said=said,
        charts=drawn,
        metric=view.metric,
        mlflow=address if address != MLFLOW else None,
        most_examples=MOST_EXAMPLES,
        parent=_run(view, view.attributes.get("mlflow_parent_run_id")),
        address=address,
    )


def mlflow_address(view: View) -> str:
    """Where its runs are looked at: the server that they were logged to, else that of `python -m hpo.ui`."""
    known = str(view.attributes.get("mlflow_address", ""))
    if not re.fullmatch(r"https?://[!-~]+", known):  # nor is a SQLite file one
        return MLFLOW
    return re.sub(r"//[^/@]*@", "//", known).rstrip("/")  # its user and masked password


def document(template: str, drawn: list[Chart], *, trials: dict[str, Any] | None = None, **said: Any) -> str:
    """A whole page, with its style, scripts and data."""
    scripts = {"plotly": plotly_script() if drawn else "", "script": _file("report.js")}
    text = (
        _environment()
        .get_template(template)
        .render(
            style=Markup(_file("report.css")),
            hashes=" ".join(f"'sha256-{_digest(text)}'" for text in scripts.values() if text),
            **{name: Markup(text) for name, text in scripts.items()},
            figures=Markup(in_script(figures_json(drawn))),
            trials=Markup(in_script(_json(trials))) if trials else "",
            **said,
        )
    )
    return text.strip() + "\n"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hpo.report"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_plain,
    )
    environment.filters |= {"first_up": formats.first_up, "tied": _tied, "joined": _joined, "broken": _broken}
    return environment


def in_script(text: str) -> str:
    """JSON in which no tag, comment or entity can begin or end, the same to who parses it."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def plotly_script() -> str:
    """plotly.js, as the package has it."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8").strip()


def _plain(given: Any) -> Any:
    """Without what changes the order of the letters around it, or ends a page."""
    return given if isinstance(given, Markup) or not isinstance(given, str) else printable(given)


def _joined(texts: Sequence[str], by: str = " ") -> str:
    """Jinja's own `join` would escape them, and what comes after it once more."""
    return by.join(texts)


def _tied(sentence: str) -> str:
    """With no line's end between a number and its unit, nor within `p = 0.01`."""
    return re.sub(r"(?<=\d) (?=(?:s|min|h|%)(?!\w))|(?<=\bp) (?=[=<])|(?<=[=<]) (?=\d)", "\N{NO-BREAK SPACE}", sentence)


def _broken(name: str) -> Markup:
    """Where a long name may go on in the next line."""
    return Markup("_<wbr>").join(printable(name).split("_"))


def _file(name: str) -> str:
    return (files("hpo.report") / "templates" / name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(given: Any) -> str:
    return json.dumps(given, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _trials(view: View) -> dict[str, Any]:
    """What the table of trials and their sections are made from in the browser, best first."""
    scores = score_columns(view)
    params = [column for column in view.table.columns if column.startswith(PARAM)]
    ranked = tables.leaderboard(view.table, "score", view.direction)
    by_number = {trial.number: trial for trial in view.trials}
    shown: list[Any] = [
        {name: value for name, value in _trial(view, row, by_number[int(row["number"])], scores, params)}
        for _, row in ranked.iterrows()
    ]
    return {
        "scores": [formats.first_up(formats.metric(name)) for name in scores],
        "params": [printable(name.removeprefix(PARAM)) for name in params],
        "metric": view.metric,
        "budget": view.spec.training.num_evaluations if view.spec else None,
        # Of each score: another may be shown beside a loss.
        "lower": [name in LOSSES or (name == "score" and view.direction == "minimize") for name in scores],
        "best": view.best,
        "default": view.default,
        "trials": shown,
    }


def _trial(
    view: View, row: "pd.Series[Any]", trial: FrozenTrial, scores: list[str], params: list[str]
) -> Iterator[tuple[str, Any]]:
    """A trial's row and section; what it has not is left out."""
    attributes = trial.user_attrs if view.spec else {}
    result = attributes.get("result", {})
    yield "number", trial.number
    yield "state", "RETRIED" if row["retried"] else trial.state.name
    yield "told", printable(state_of(row))
    yield "scores", [_number(row[name]) for name in scores]
    yield "params", [_value(row[name]) for name in params]
    words_of = {name: formats.metric(name) for name in metric_columns(view.spec)}
    metrics = {formats.first_up(words): _number(row[name]) for name, words in words_of.items()}
    curve = {step: value for step, value in sorted(trial.intermediate_values.items()) if math.isfinite(value)}
    steps = [row["optimizer_steps"], row["total_steps"]]
    known = {
        "seconds": _number(row["seconds"]),
        "metrics": {words: value for words, value in metrics.items() if value is not None} or None,
        "curve": [list(curve), [float(f"{value:.6g}") for value in curve.values()]] if curve else None,
        "started": f"{trial.datetime_start:%Y-%m-%d %H:%M:%S}" if trial.datetime_start else None,
        "steps": None if any(map(pd.isna, steps)) else [int(step) for step in steps],
        # Of these, 0 is one that was not measured.
        "speed": _number(row["examples_per_second"]) or None,
        "memory": _number(row["peak_memory_mib"]) or None,
        "trained": int(row["trained_parameters"]) if pd.notna(row["trained_parameters"]) else None,
        "device": (attributes.get("machine") or {}).get("device"),
        "seed": (attributes.get("config") or {}).get("seed"),
        "repeats": None if pd.isna(row["retry_of"]) else int(row["retry_of"]),
        "message": result.get("message"),
        "run": _run(view, attributes.get("mlflow_run_id")),
    }
    for name, value in known.items():
        if value is not None:  # a number may well be 0
            yield name, printable(value) if isinstance(value, str) else value


def _run(view: View, run: str | None) -> str | None:
    """A run's id in MLflow; None for one that MLflow had not heard of when the trial ended."""
    found = view.attributes.get("mlflow_run_ids", {}).get(run, run)
    return found if found and found.isalnum() else None


def _number(value: Any) -> float | None:
    return float(f"{value:.6g}") if pd.notna(value) and math.isfinite(value) else None


def _value(value: Any) -> Any:
    """A parameter: a number, a text, or nothing where the trial did not search it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value)
    return value if isinstance(value, int) else _number(value) if isinstance(value, float) else printable(str(value))
