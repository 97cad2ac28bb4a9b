"""The report of one study: `trials.csv`, `report.md` and its figures, written anew from storage each time.

The sentences that need a choice are made here; the rest of the page stands in `templates/report.md.j2`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jinja2
import optuna
import pandas as pd

from hpo.errors import StorageError
from hpo.output import output_option, write_atomically
from hpo.plain_text import code_fence, markdown, markdown_cell, markdown_code, shell_word
from hpo.report import tables
from hpo.report.figures import FIGURES, png
from hpo.report.tables import METRICS, PARAM, View
from hpo.spec import DataSpec
from hpo.study import remaining_trials, total_trials

# Rows of the page's table; a longer one is no reading, and all are in `trials.csv`.
MOST_TRIALS = 200


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Where a report was written."""

    markdown: Path
    table: Path
    figures: tuple[Path, ...]
    """Those that could be drawn."""


def write_report(study: optuna.Study, folder: Path) -> ReportFiles:
    """Writes `trials.csv`, `report.md` and `figures/*.png`; figures that no longer apply are removed.

    Raises:
        StorageError: the folder cannot be written.
    """
    view = tables.view_of(study)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        drawn = _write_figures(view, folder / "figures")
        tables.write_csv(view.table, folder / "trials.csv")
        write_atomically(folder / "report.md", render(view, folder, set(drawn)).encode())
    except OSError as error:
        raise StorageError(
            f"the report's folder must be one that can be written, but got {folder}: {error.strerror or error}. "
            "Free space, change its permissions, or give another folder with --output."
        ) from error
    return ReportFiles(markdown=folder / "report.md", table=folder / "trials.csv", figures=tuple(drawn.values()))


def _write_figures(view: View, folder: Path) -> dict[str, Path]:
    drawn = {}
    for name, draw in FIGURES.items():
        path, figure = folder / f"{name}.png", draw(view)
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, png(figure))
            drawn[name] = path
    return drawn


def render(view: View, folder: Path, drawn: set[str]) -> str:
    """The page as Markdown; `drawn` are the names of the figures that are there."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hpo.report"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown: the `md` filter escapes what users wrote.
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown, "code": markdown_code, "time": _time, "count": count}
    attributes = view.study.user_attrs
    return environment.get_template("report.md.j2").render(
        view=view,
        spec=view.spec,
        source=_source(view.spec.data) if view.spec else "",
        answer=list(_answer(view)),
        progress=_progress(view),
        trials=_trials(view),
        most_trials=MOST_TRIALS,
        drawn=drawn,
        savings=tables.pruning_savings(view.table),
        failures=_failures(view.table),
        data=attributes.get("data", {}),
        model=attributes.get("model", {}),
        machine=attributes.get("machine", {}),
        **_places(view, folder),
    )


def _source(data: DataSpec) -> str:
    train = data.train
    parts = [train.subset or "", *(f"{column} = {value}" for column, value in train.where.items())]
    chosen = ", ".join(filter(None, parts))
    return f"{train.source} ({chosen})" if chosen else train.source


def _answer(view: View) -> Iterator[str]:
    best = _row(view, view.best)
    if best is None:
        yield "No trial is complete yet, so there is no best one and nothing to compare."
        return
    so_far = " so far" if _unfinished(view) else ""
    score, rows = f"{view.metric} {_score(best['score'], _error(view, best))}", _validation_rows(view)
    yield f"**The best trial{so_far} is trial {view.best}: {score}**" + (
        f" (one binomial standard error on {rows:,} validation rows)." if _error(view, best) is not None else "."
    )
    yield against_default(view)
    yield _caveat(view, best)


def against_default(view: View) -> str:
    """How the best trial stands to the untuned default, in a sentence."""
    best = _row(view, view.best)
    if best is None:
        return "No trial is complete yet."
    default = _row(view, view.default)
    if default is None:
        return "The untuned default has not started."
    if default["state"] != "COMPLETE":
        return f"The untuned default (trial {view.default}) is not complete: {_state(default)}."
    if view.default == view.best:
        return "The untuned default is itself the best: no trial is better."
    gain = best["score"] - default["score"]
    change = f"{abs(gain):.4f} {'lower' if gain < 0 else 'higher'}" if gain else "the same"
    error = _error(view, default)
    return f"The untuned default (trial {view.default}) has {_score(default['score'], error)}; the best is {change}."


def _caveat(view: View, best: "pd.Series[Any]") -> str:
    """What the best validation score is not; by Blom's approximation of the largest of n normal draws."""
    count, error = len(view.complete), _error(view, best)
    unread = "The test split has not been read."
    if count == 1:
        return unread
    size = ""
    if error is not None:
        expected = NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) * error
        size = f": had all been equally good, the best would still look about {expected:.4f} better than it is"
    return f"As the best of {count} complete trials on the rows that chose it, it is optimistic{size}. {unread}"


def _progress(view: View) -> dict[str, Any]:
    """The states in words, the trials still to end (None if the study file is not known), and the time spent."""
    counts = tables.state_counts(view.table)
    pruned = view.table.loc[view.table["state"] == "PRUNED", "reason"].value_counts()
    why = ", ".join(f"{count} {markdown_cell(str(reason))}" for reason, count in pruned.items())
    words = {"COMPLETE": "complete", "PRUNED": f"pruned ({why})" if len(pruned) > 1 else "pruned"}
    words |= {"FAIL": "failed", tables.RETRIED: "tried again", "RUNNING": "running"}
    return {
        "states": ", ".join(f"{counts[state]} {word}" for state, word in words.items() if state in counts),
        "left": remaining_trials(view.study, view.spec) if view.spec else None,
        "total": total_trials(view.spec) if view.spec else None,
        "pruned": int(counts.get("PRUNED", 0)),
        "seconds": float(view.table["seconds"].sum()),
    }


def _unfinished(view: View) -> bool:
    running = bool((view.table["state"] == "RUNNING").any())
    return running or (view.spec is not None and remaining_trials(view.study, view.spec) > 0)


def _trials(view: View) -> str:
    """The trials, best first, rounded for reading: the first `MOST_TRIALS`, and the default."""
    metric = view.spec.metric.removeprefix("eval/") if view.spec else "score"
    scores = dict.fromkeys([metric, "accuracy", "f1_macro"])
    params = [column for column in view.table.columns if column.startswith(PARAM)]
    header = ["Trial", "State", *(_first_up(METRICS.get(name, name)) for name in scores)]
    ranked = tables.leaderboard(view.table, "score", view.direction)
    ranked = ranked[(ranked.index < MOST_TRIALS) | (ranked["number"] == view.default)]
    body = []
    for _, row in ranked.iterrows():
        number = f"**{row['number']} (best)**" if row["number"] == view.best else str(row["number"])
        mark = " (default)" if row["is_default"] else ""
        cells = [f"{number}{mark}", _state(row), *(_score(row[name]) for name in scores)]
        body.append([*cells, *(markdown_cell(_value(row[name])) for name in params), _time(row["seconds"])])
    return _markdown_table([*header, *(markdown_cell(name.removeprefix(PARAM)) for name in params), "Time"], body)


def _state(row: "pd.Series[Any]") -> str:
    """`complete`, `pruned at 3 of 10`, `failed: out of memory`, ..."""
    of = f" of {row['num_evaluations']}" if pd.notna(row["num_evaluations"]) else ""
    reason = markdown_cell(str(row["reason"]).replace("_", " ")) if pd.notna(row["reason"]) else ""
    match row["state"]:
        case "PRUNED":
            return f"{'diverged' if reason == 'diverged' else 'pruned'} at {row['evaluations']}{of}"
        case "FAIL":
            return f"failed: {reason}" if reason else "failed"
        case "RUNNING":
            return f"running, {row['evaluations']}{of}"
    return "complete"


def _failures(table: pd.DataFrame) -> str:
    failed = table[table["state"] == "FAIL"]
    repeats = dict(zip(table["retry_of"].dropna(), table.loc[table["retry_of"].notna(), "number"], strict=True))
    body = []
    for _, row in failed.iterrows():
        steps = "" if pd.isna(row["optimizer_steps"]) else f"{row['optimizer_steps']} of {row['total_steps']}"
        repeated = f"trial {repeats[row['number']]}" if row["number"] in repeats else ""
        body.append([str(row["number"]), _state(row).removeprefix("failed: "), steps, repeated])
    return _markdown_table(["Trial", "Reason", "Steps made", "Repeated as"], body)


def _places(view: View, folder: Path) -> dict[str, str]:
    """What the commands on the page are called with, quoted for a shell."""
    stands_in_for = view.spec.fallback_for if view.spec else None
    call = view.study.user_attrs.get("call") or ["--study", stands_in_for or view.study.study_name]
    if stands_in_for and "--fallback" not in call:  # or it would be the other study, once the Hub is there again
        call = [*call, "--fallback", "always"]
    places = {
        "call": " ".join(map(shell_word, call)),
        "output": output_option(folder.parent),
        "best_yaml": shell_word((folder / "best.yaml").as_posix()),
    }
    return places | {"fence": code_fence("".join(places.values()))}


def _row(view: View, number: int | None) -> "pd.Series[Any] | None":
    return None if number is None else view.table[view.table["number"] == number].iloc[0]


def _validation_rows(view: View) -> int:
    return int(view.study.user_attrs.get("data", {}).get("rows", {}).get("validation", 0))


def _error(view: View, row: "pd.Series[Any]") -> float | None:
    """The binomial standard error of an accuracy; None for other metrics or an unknown number of rows.

    With two rows right and two wrong added (Agresti and Coull 1998), or a perfect score would be a certain one.
    """
    rows = _validation_rows(view)
    if view.spec is None or view.spec.metric != "eval/accuracy" or not rows:
        return None
    share = (row["score"] * rows + 2) / (rows + 4)
    return math.sqrt(share * (1 - share) / (rows + 4))


def _markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of Markdown cells, or nothing if it has no rows; the first two columns are words, the others numbers."""
    rule = ["---" if index < 2 else "---:" for index in range(len(header))]
    lines = [" | ".join(cells) for cells in (header, rule, *body)]
    return "\n".join(f"| {line} |" for line in lines) if body else ""


def _value(value: object) -> str:
    """Three digits are enough to read: 2.35e-05, 0.15."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 32 else f"{text[:15]}…{text[-16:]}"


def _score(value: float, error: float | None = None) -> str:
    if not math.isfinite(value):
        return ""
    return f"{value:.4f}" + (f" ± {error:.4f}" if error is not None else "")


def _time(seconds: float) -> str:
    """`48 s`, `3 min 5 s`, `1 h 2 min`."""
    if math.isnan(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(number: float, noun: str) -> str:
    """`1 trial`, `16 trials`, `0.5 epochs`."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _first_up(text: str) -> str:
    return text[:1].upper() + text[1:]
