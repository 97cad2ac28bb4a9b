"""A data file as a table: its rows as they stand there, none skipped and no value guessed."""

import csv
import json
import re
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from hpo.errors import DataError
from hpo.references import CONLL_SUFFIXES, DATA_SUFFIXES


def is_conll(path: Path) -> bool:
    """Whether it is a file with a word a line, by its name."""
    return path.is_file() and path.suffix.lower() in CONLL_SUFFIXES


def read_conll(path: Path, names: tuple[str, str], origin: str) -> pd.DataFrame:
    """A CoNLL file: a word a line, the word first and its tag last, sentences apart by empty lines.

    Args:
        names: of the columns of the result, words and tags: in the file they have none.
        origin: the file in words, for messages.

    Raises:
        DataError: it is no such file.
    """
    sentences: list[list[tuple[str, str]]] = [[]]
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{origin} cannot be read as text: {error}. Save it as UTF-8.") from error
    for number, line in enumerate(lines, start=1):
        # A tab may have words with a space before it.
        # Not at any white space: a no-break one stands within words.
        columns = line.split("\t") if "\t" in line else re.split(" +", line.strip(" \r"))
        columns = [column.strip(" \r") for column in columns]
        if not any(columns):
            sentences.append([])
        elif columns[0] != "-DOCSTART-":
            if len(columns) < 2 or not (columns[0] and columns[-1]):
                raise DataError(
                    f"every line of a conll file must have a word and a tag, or be empty, but got {line[:40]!r} in "
                    f"line {number:,} of {origin}. Repair it."
                )
            sentences[-1].append((columns[0], columns[-1]))
    rows = [tuple(zip(*sentence, strict=True)) for sentence in sentences if sentence]
    return pd.DataFrame(rows, columns=list(names))


def read_table(path: Path, origin: str) -> pd.DataFrame:
    """A file of rows and named columns: csv, tsv, jsonl, json or parquet.

    Raises:
        DataError: it is no such file, or a broken one.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or suffix not in DATA_SUFFIXES:
        raise DataError(
            f"a data file must end in one of {', '.join(DATA_SUFFIXES)}, or, of words and tags, in "
            f"{', '.join(CONLL_SUFFIXES)}, but got {origin}. Convert it, or name a file inside the folder."
        )
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path).reset_index(drop=True)
        if suffix in (".jsonl", ".json"):
            content = path.read_text(encoding="utf-8-sig")
            # Cells as they stand there: beside a row without it, an integer would become a float.
            return pd.DataFrame(json.loads(content) if suffix == ".json" else _json_lines(content), dtype=object)
        separator = "\t" if suffix == ".tsv" else ","
        # A tab-separated file has no quoting: GLUE's texts hold single, unbalanced quotes.
        quoting: Literal[0, 3] = csv.QUOTE_NONE if suffix == ".tsv" else csv.QUOTE_MINIMAL
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, delimiter=separator, quoting=quoting), [])
        if len(header) == 1 and (others := [mark for mark in ";\t|," if mark != separator and mark in header[0]]):
            told, found = ({"\t": "tabs", ",": "commas"}.get(mark, f"`{mark}`") for mark in (separator, others[0]))
            raise ValueError(f"columns are separated by {told}, but its first row has {found}")
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
        raise DataError(f"{origin} cannot be read as {suffix[1:]}: {first_line(error)}. Repair it.") from error
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


def first_line(error: BaseException) -> str:
    """What another library's error says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
