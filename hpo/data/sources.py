"""Rows of text and label from the Hub, a file, or a file inside an installed package.

A source that cannot be read exactly as declared is a `DataError`: no row is skipped and no value is guessed.
"""

import csv
import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from hpo.errors import DataError
from hpo.references import DATA_SUFFIXES, local_path
from hpo.spec import DataSpec, SplitSource

Label = str | int


@dataclass(frozen=True)
class Rows:
    """The labelled texts of one source, in its order."""

    texts: list[str]
    labels: list[Label]
    """All integers, or all text."""
    label_names: tuple[str, ...] | None
    """The names that a Hub data set gives to its integer labels."""
    origin: str
    """The source in words, for messages."""


def read_rows(source: SplitSource, split: str, data: DataSpec) -> Rows:
    """Read the rows of `source`, which is to be our `split` (`train`, `validation` or `test`)."""
    path = local_path(source.source)
    label_names = None
    if path is None:
        hub_split = source.split or split
        subset = f", subset {source.subset}" if source.subset else ""
        origin = f"the Hub's {source.source}{subset}, split {hub_split}"
        frame, label_names = _read_hub(source, hub_split, data.label_column, origin, f"data.{split}")
    else:
        origin = source.source
        for key, given in (("split", source.split), ("subset", source.subset)):
            if given is not None:
                raise DataError(
                    f"`{key}` is for Hub data sets, but got {key}={given} for the file {origin} "
                    f"(data.{split}). Remove it; `where` keeps some rows of a file."
                )
        frame = _read_file(path, origin)
    if frame.empty:
        raise DataError(f"{split} must have rows, but {origin} has none. Give a source with rows.")
    for column, key in (
        (data.text_column, "data.text_column"),
        (data.label_column, "data.label_column"),
        *((column, f"data.{split}.where") for column in source.where),
    ):
        _require_column(frame, column, key, origin)
    for column, value in source.where.items():
        frame = frame[[str(_plain(cell)) == str(value) for cell in frame[column]]]
        if frame.empty:
            raise DataError(
                f"`where` must keep some rows, but got {dict(source.where)} for {origin} (data.{split}), "
                f"and no row is left at `{column}: {value}`. Correct the value."
            )
    numbers = [int(number) + 1 for number in frame.index]
    texts = _texts(list(frame[data.text_column]), numbers, data.text_column, origin)
    labels = _labels(list(frame[data.label_column]), numbers, data.label_column, origin)
    return Rows(texts, labels, label_names, origin)


def _read_file(path: Path, origin: str) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if path.is_dir() or suffix not in DATA_SUFFIXES:
        raise DataError(
            f"a data file must end in one of {', '.join(DATA_SUFFIXES)}, but got {origin}. "
            "Convert it, or name a file inside the folder."
        )
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path).reset_index(drop=True)
        if suffix in (".jsonl", ".json"):
            content = path.read_text(encoding="utf-8-sig")
            return pd.DataFrame(json.loads(content) if suffix == ".json" else _json_lines(content))
        separator = "\t" if suffix == ".tsv" else ","
        # A tab-separated file has no quoting: GLUE's texts hold single, unbalanced quotes.
        quoting: Literal[0, 3] = csv.QUOTE_NONE if suffix == ".tsv" else csv.QUOTE_MINIMAL
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, delimiter=separator, quoting=quoting), [])
        if repeated := [name for name in header if header.count(name) > 1]:  # pandas would rename the second
            raise ValueError(f"two columns are named `{repeated[0]}`")
        frame = pd.read_csv(
            path,
            sep=separator,
            quoting=quoting,
            dtype=str,  # a text that looks like a number, or like `NA`, is a text
            keep_default_na=False,
            encoding="utf-8-sig",
        )
    except pd.errors.EmptyDataError:
        raise DataError(f"a data file must have rows, but {origin} is empty.") from None
    except Exception as error:  # pandas, pyarrow, csv and json raise anything for a broken file: RecursionError, ...
        raise DataError(f"{origin} cannot be read as {suffix[1:]}: {_first_line(error)}. Repair it.") from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes a superfluous first cell as the row's name
        raise DataError(
            f"a row must have as many cells as the header, but got more in {origin}. "
            "Put texts that hold the separator in double quotes, or write .jsonl."
        )
    return frame


def _json_lines(content: str) -> list[Any]:
    # Not pandas' own reader, which makes dates of columns by their names, nor `splitlines`, which splits texts.
    records = []
    for number, line in enumerate(content.split("\n"), start=1):
        try:
            records += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: {error.msg}") from error
    return records


def _read_hub(
    source: SplitSource, hub_split: str, label_column: str, origin: str, key: str
) -> tuple[pd.DataFrame, tuple[str, ...] | None]:
    import datasets  # 2 s: a study on files, and `--help`, do without it

    try:
        rows = datasets.load_dataset(source.source, name=source.subset, split=hub_split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"a data set must exist on the Hub and be public, but got {origin}: {_first_line(error)}. "
            "Check its name; write a file as a path, with `./` before it."
        ) from error
    except ConnectionError as error:
        raise DataError(
            f"{origin} is not in the local cache and the Hub cannot be reached: {_first_line(error)}. "
            "Connect, or name a file."
        ) from error
    # ValueError: no such split or subset. RuntimeError: a data set that is a script. OSError: files missing.
    except (datasets.exceptions.DatasetsError, ValueError, RuntimeError, OSError) as error:
        raise DataError(
            f"{origin} cannot be loaded: {_first_line(error)}. Correct `split` or `subset` of {key}."
        ) from error
    # Only a ClassLabel has names; it may stand in a column that the study does not ask for.
    names = getattr(rows.features.get(label_column), "names", None)
    return rows.to_pandas(), tuple(names) if names else None


def _require_column(frame: pd.DataFrame, column: str, key: str, origin: str) -> None:
    there = [str(name) for name in frame.columns]
    if column not in there:
        close = difflib.get_close_matches(column, there, n=1)
        hint = f"Did you mean `{close[0]}`?" if close else f"Set {key} to one of them."
        raise DataError(
            f"the column `{column}` ({key}) must exist in {origin}, "
            f"but got the columns {', '.join(f'`{name}`' for name in there) or '(none)'}. {hint}"
        )


def _texts(cells: Sequence[object], numbers: Sequence[int], column: str, origin: str) -> list[str]:
    _refuse([_is_missing(cell) for cell in cells], numbers, "have a text", "no value", column, origin)
    _refuse([not isinstance(cell, str) for cell in cells], numbers, "be text", "another type", column, origin)
    texts = [str(cell) for cell in cells]
    _refuse([not text.strip() for text in texts], numbers, "have a text", "an empty one", column, origin)
    return texts


def _labels(cells: Sequence[object], numbers: Sequence[int], column: str, origin: str) -> list[Label]:
    values = [_plain(cell) for cell in cells]
    missing = [_is_missing(value) or str(value).strip() == "" for value in values]
    _refuse(missing, numbers, "have a label", "no value", column, origin)
    fractions = [isinstance(value, float) for value in values]
    _refuse(fractions, numbers, "be a name or an integer", "a fraction", column, origin)
    compound = [not isinstance(value, str | int) for value in values]
    _refuse(compound, numbers, "be a name or an integer", "a list or another type", column, origin)
    names = [str(value) for value in values]
    distinct = set(names)
    if any(name != name.strip() and name.strip() in distinct for name in distinct):
        spaced = [name != name.strip() for name in names]
        _refuse(spaced, numbers, "be spelt alike", "white space around", column, origin)
    # A csv file has no types: a column of `0` and `1`, or of `0.0` and `1.0`, holds integers.
    for suffix in ("", ".0"):
        if all(re.fullmatch(rf"(?:0|-?[1-9][0-9]*){re.escape(suffix)}", name) for name in names):
            return [int(name.removesuffix(suffix)) for name in names]
    return list(names)


def _refuse(wrong: Sequence[bool], numbers: Sequence[int], rule: str, given: str, column: str, origin: str) -> None:
    rows = [number for number, is_wrong in zip(numbers, wrong, strict=True) if is_wrong]
    if rows:
        shown = ", ".join(map(str, rows[:3])) + (f" and {len(rows) - 3:,} more" if len(rows) > 3 else "")
        raise DataError(
            f"every row must {rule}, but got {given} in column `{column}` of {origin} at row"
            f"{'s' if len(rows) > 1 else ''} {shown} ({len(rows):,} in all; the first row is 1). "
            "Repair or remove them."
        )


def _is_missing(cell: object) -> bool:
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and cell != cell)


def _plain(cell: object) -> object:
    """A numpy or pandas scalar as Python's own, and a whole float (what a missing value makes of 1) as an integer."""
    value = cell.item() if isinstance(cell, np.generic) else cell
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
