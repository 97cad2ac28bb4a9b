"""The table that every script prints, and its options."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Finished, Spread, machine, ratios, software, spread, use_cores


@dataclass(frozen=True)
class Row:
    """One claim: what was measured, on both sides, and whether it reaches its goal."""

    what: str
    ours: str
    theirs: str
    result: str
    n: int
    goal: str = ""
    reached: bool | None = None
    """None where there is no goal."""


@dataclass(frozen=True)
class Check:
    """Something that must hold, and what was found."""

    what: str
    passed: bool
    found: str
    values: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{'ok    ' if self.passed else 'FAILED'} {self.what}: {self.found}"


def ratio_row(
    what: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str,
    *,
    higher_is_better: bool,
    goal: float | None = None,
) -> Row:
    """How many times better we are, round by round; 1 is a draw."""
    times = ratios(ours, theirs) if higher_is_better else ratios(theirs, ours)
    return Row(
        what=what,
        ours=_quantity(spread(ours), unit),
        theirs=_quantity(spread(theirs), unit),
        result=f"{times.median:.2f}x ({times.low:.2f} to {times.high:.2f})",
        n=times.n,
        goal="" if goal is None else f"{goal:g}x",
        reached=None if goal is None else times.median >= goal,
    )


def memory_row(what: str, ours: Sequence[Finished], theirs: Sequence[Finished]) -> Row:
    """How many times less resident memory our processes took at their peak; not more is the goal."""
    peaks, peer_peaks = ([process.peak_memory_mib for process in processes] for processes in (ours, theirs))
    return ratio_row(what, peaks, peer_peaks, "MiB", higher_is_better=False, goal=1.0)


def _quantity(values: Spread, unit: str) -> str:
    return f"{values.median:,.{0 if values.median >= 100 else 1}f} {unit}"


def print_table(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
    """The table, with what it was measured on."""
    table = Table(title=title, title_justify="left", caption_justify="left", show_lines=False)
    for column in ("", "ours", "theirs", "median (min to max)"):
        table.add_column(column, overflow="fold")
    for column in ("n", "goal", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        verdict = {None: "", True: "reached", False: "MISSED"}[row.reached]
        table.add_row(row.what, row.ours, row.theirs, row.result, str(row.n), row.goal, verdict)
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 150)  # a pipe has none, and a cut table says nothing
    console.print(table)
    for note in [*notes, machine(), software()]:
        console.print(note)


def add_common_options(parser: argparse.ArgumentParser, cores: int = 2) -> None:
    told = f"CPU cores for everybody (default: {cores})"
    parser.add_argument("--cores", type=int, default=cores, metavar="N", help=told)
    parser.add_argument("--quick", action="store_true", help="a few minutes: does it run? The numbers mean nothing")


def parse(
    parser: argparse.ArgumentParser, quick: Mapping[str, Any], arguments: Sequence[str] | None
) -> argparse.Namespace:
    """The options; `--quick` changes the defaults, and what is given beside it still holds. Takes the cores."""
    options = parser.parse_args(arguments)
    if options.quick:
        parser.set_defaults(**quick)
        options = parser.parse_args(arguments)
    use_cores(options.cores)
    return options
