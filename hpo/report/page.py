"""The report of one study: `report.html`, `report.md` with figures, `trials.csv`, written anew from storage each time.

What is said stands in `contents.py`, how it looks in `templates/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import optuna

from hpo.errors import StorageError
from hpo.output import write_atomically
from hpo.plain_text import code_fence, markdown, markdown_cell, markdown_code
from hpo.report import html_page, tables
from hpo.report.contents import MOST_TRIALS, Contents, contents
from hpo.report.figures import FIGURES, png
from hpo.report.parts import Table
from hpo.report.tables import View

__all__ = ["MOST_TRIALS", "ReportFiles", "render", "write_report"]


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Where a report was written."""

    page: Path
    markdown: Path
    table: Path
    figures: tuple[Path, ...]
    """Those that could be drawn."""


def write_report(study: optuna.Study, folder: Path) -> ReportFiles:
    """Writes `report.html`, `trials.csv`, `report.md` and `figures/*.png`; figures that no longer apply are removed.

    Raises:
        StorageError: the folder cannot be written.
    """
    view = tables.view_of(study)
    said = contents(view, folder)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        drawn = _write_figures(view, folder / "figures")
        tables.write_csv(view.table, folder / "trials.csv")
        write_atomically(folder / "report.md", markdown_page(said, set(drawn), view.metric).encode())
        write_atomically(folder / "report.html", html_page.page(view, said).encode())
    except OSError as error:
        raise StorageError(
            f"the report's folder must be one that can be written, but got {folder}: {error.strerror or error}. "
            "Free space, change its permissions, or give another folder with --output."
        ) from error
    return ReportFiles(
        page=folder / "report.html",
        markdown=folder / "report.md",
        table=folder / "trials.csv",
        figures=tuple(drawn.values()),
    )


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
    return markdown_page(contents(view, folder), drawn, view.metric)


def markdown_page(said: Contents, drawn: set[str], metric: str) -> str:
    """The same of contents that are made already."""
    fence = code_fence("".join(command for _, command in said.commands) + said.configuration)
    return markdown_of("report.md.j2", said=said, metric=metric, drawn=drawn, most_trials=MOST_TRIALS, fence=fence)


def markdown_of(template: str, **said: Any) -> str:
    """A page of Markdown."""
    return _environment().get_template(template).render(**said).rstrip() + "\n"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hpo.report"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown: the filters escape what users wrote.
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown, "cell": markdown_cell, "code": markdown_code, "table": markdown_table}
    return environment


def markdown_table(table: Table) -> str:
    """A table of Markdown cells, or nothing if it has no rows."""
    if not table.rows:
        return ""
    rule = ["---" if index < table.words else "---:" for index in range(len(table.header))]
    body = [_cells(row, strong=at in table.strong) for at, row in enumerate(table.rows)]
    lines = [" | ".join(cells) for cells in (_cells(table.header), rule, *body)]
    return "\n".join(f"| {line} |" for line in lines)


def _cells(texts: Sequence[str], *, strong: bool = False) -> list[str]:
    first, *others = map(markdown_cell, texts)
    return [f"**{first}**" if strong else first, *others]
