"""The cells of a column as a file or the Hub has them, and how one that breaks a rule is refused."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo.errors import DataError

# pandas' own words for nothing, which are not imported for a look at their name.
_MISSING = ("NAType", "NaTType")


@dataclass(frozen=True)
class Cells:
    """One column of a source."""

    values: Sequence[object]
    numbers: Sequence[int]
    """Of their rows, of which the first is 1."""
    column: str
    origin: str
    """The source in words, for messages."""
    names: tuple[str, ...] = ()
    """Of the columns, where there are several; `values` are tuples then."""

    def refuse(self, wrong: Sequence[bool], rule: str, given: str) -> None:
        """Raises `DataError` with the numbers of the rows that are `wrong`; the rule is read after `every row must`."""
        rows = [number for number, is_wrong in zip(self.numbers, wrong, strict=True) if is_wrong]
        if rows:
            shown = ", ".join(map(str, rows[:3])) + (f" and {len(rows) - 3:,} more" if len(rows) > 3 else "")
            raise DataError(
                f"every row must {rule}, but got {given} in column `{self.column}` of {self.origin} at row"
                f"{'s' if len(rows) > 1 else ''} {shown} ({len(rows):,} in all; the first row is 1). "
                "Repair or remove them."
            )


def is_missing(cell: object) -> bool:
    """Whether a cell has no value; an empty text is one."""
    return cell is None or type(cell).__name__ in _MISSING or (isinstance(cell, float) and cell != cell)


def is_blank(cell: object) -> bool:
    """Whether a cell has no value, or white space alone."""
    return is_missing(cell) or not str(cell).strip()


def plain(cell: object) -> object:
    """A numpy or pandas scalar as Python's own, and a whole float (what a missing value makes of 1) as an integer."""
    value = cell.item() if isinstance(cell, np.generic) else cell
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_list(cell: object) -> list[object] | None:
    """A cell that holds several values, as a list of plain ones; None where it is no list."""
    if isinstance(cell, np.ndarray):
        cell = cell.tolist()
    return [plain(each) for each in cell] if isinstance(cell, list | tuple) else None
