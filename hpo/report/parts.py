"""What the sections of a report are made of: plain texts, which each template renders in its own way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# A page that holds several against each other: studies in the output folder, or teachers and students in a study's own.
COMPARISON = "comparison.html"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of plain texts."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    """The first columns are words, the others numbers."""
    strong: frozenset[int] = frozenset()
    """Rows that stand out."""
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A confusion matrix: rows by label, columns by prediction."""

    labels: Sequence[str]
    rows: Sequence[Sequence[float]]

    def share(self, label: int, prediction: int) -> float:
        """Of the label's rows, those predicted so."""
        total = math.fsum(self.rows[label])
        return self.rows[label][prediction] / total if total else 0.0

    def table(self) -> Table:
        """The same where cells have no colour."""
        body = [[name, *(f"{found:,.1f}" for found in row)] for name, row in zip(self.labels, self.rows, strict=True)]
        return Table(header=["", *self.labels], rows=body)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Sentences and tables of one subject."""

    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
