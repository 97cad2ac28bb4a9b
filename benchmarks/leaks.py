"""What leaks do to a validation score: rows held out at random, the same without leaks, and whole sentences.

python -m benchmarks.leaks                      # rotten_tomatoes
python -m benchmarks.leaks --sst2 FOLDER        # and SST-2, from GLUE's train.tsv and dev.tsv; five minutes

TF-IDF with logistic regression is trained on each train split and scored on its validation split and on the test split.
What the validation score is above the test score, a search would take for a better model. The first two ways hold out
the same rows, so that they differ in nothing but the rows of train that are relatives of these.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import ROOT, SIGNIFICANT, interleaved, machine, software
from benchmarks.table import add_common_options, parse
from hpo.data.splits import Splits, load_splits
from hpo.spec import DataSpec
from hpo.study_file import read_study

STUDIES = ROOT / "studies"
WAYS: dict[str, dict[str, Any]] = {
    "rows": {"hold_out": "rows"},
    "rows, `leaks: drop`": {"hold_out": "rows", "leaks": "drop"},
    "sentences": {"hold_out": "sentences"},
}
QUICK = {"seeds": 2}


@dataclass(frozen=True)
class Scored:
    """One model on one draw of the splits, in per cent of rows."""

    train_rows: int
    validation: float
    test: float


@dataclass(frozen=True)
class Mean:
    """Over the draws, with its 95 % interval by Student's t."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def mean(values: Sequence[float]) -> Mean:
    from scipy.stats import t

    value = statistics.mean(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = float(t.ppf(1 - SIGNIFICANT / 2, len(values) - 1)) * error
    return Mean(value, value - reach, value + reach)


def score(splits: Splits) -> Scored:
    """Trains on train, and scores on the other two."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10, solver="liblinear"))
    model.fit(splits.train.texts, splits.train.labels)
    validation, test = (
        100 * float(model.score(split.texts, split.labels)) for split in (splits.validation, splits.test)
    )
    return Scored(len(splits.train), validation, test)


def measure(data: DataSpec, seeds: int) -> dict[str, list[Scored]]:
    """Each way on each draw."""
    settings = {way: DataSpec.model_validate(data.model_dump() | changed) for way, changed in WAYS.items()}
    return interleaved({way: partial(_draw, data) for way, data in settings.items()}, seeds)


def _draw(data: DataSpec, seed: int) -> Scored:
    return score(load_splits("sequence_classification", data, seed))


def data_sets(sst2: Path | None) -> dict[str, DataSpec]:
    """By name; SST-2 as its study has it, from files."""
    found = {"rotten_tomatoes": read_study(STUDIES / "rotten_tomatoes.yaml").data}
    if sst2 is not None:
        files = {"train": {"source": str(sst2 / "train.tsv")}, "test": {"source": str(sst2 / "dev.tsv")}}
        shipped = read_study(STUDIES / "sst2.yaml").data.model_dump()
        found["SST-2"] = DataSpec.model_validate(shipped | files)
    return found


def rows_of(name: str, scored: Mapping[str, Sequence[Scored]]) -> list[tuple[str, ...]]:
    """The table's rows of one data set: the first way, and each other with its validation score less the first's."""
    baseline = [run.validation for run in next(iter(scored.values()))]
    table: list[tuple[str, ...]] = []
    for way, runs in scored.items():
        above = mean([run.validation - run.test for run in runs])
        moved = mean([run.validation - first for run, first in zip(runs, baseline, strict=True)])
        table.append(
            (
                f"{name}: {way}",
                f"{statistics.median(run.train_rows for run in runs):,.0f}",
                f"{statistics.mean(run.validation for run in runs):.2f} %",
                f"{statistics.mean(run.test for run in runs):.2f} %",
                str(above),
                str(moved) if table else "",
            )
        )
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaks", description=__doc__.split("\n")[0])
    add_common_options(parser)
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="draws of the splits (default: 10)")
    parser.add_argument("--sst2", type=Path, metavar="FOLDER", help="with GLUE's train.tsv and dev.tsv")
    options = parse(parser, QUICK, arguments)
    if options.seeds < 2:
        parser.error("--seeds must be 2 or more: an interval needs two draws")
    table = Table(title="What leaks do to a validation score, in points", title_justify="left")
    for column in ("held out", "train rows", "validation", "test", "validation - test", "validation - first"):
        table.add_column(column, overflow="fold")
    for name, data in data_sets(options.sst2).items():
        for row in rows_of(name, measure(data, options.seeds)):
            table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 150)
    console.print(table)
    for note in (f"n = {options.seeds} draws; intervals are 95 %", machine(), software()):
        console.print(note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
