"""Rows of input and label from the Hub, a file, or a file inside an installed package.

A source that cannot be read exactly as declared is a `DataError`: no row is skipped and no value is guessed.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hpo.cells import Cells, as_list, is_missing, plain
from hpo.data.files import first_line, is_conll, read_conll, read_table
from hpo.data.inputs import Input
from hpo.errors import DataError
from hpo.references import local_path
from hpo.spec import DataSpec, SplitSource
from hpo.tasks.base import Task


@dataclass(frozen=True)
class Rows:
    """The labelled inputs of one source, in its order."""

    inputs: list[Input]
    labels: list[Any]
    """As the task reads them."""
    label_names: tuple[str, ...] | None
    """The names that a Hub data set gives to its integer labels, or the columns that they stand in."""
    origin: str
    """The source in words, for messages."""
    label_column: str = "label"


def read_rows(task: Task, source: SplitSource, split: str, data: DataSpec) -> Rows:
    """Read the rows of `source`, which is to be our `split` (`train`, `validation` or `test`)."""
    columns = data.label_columns
    frame, label_names, origin = _read_frame(task, source, split, split, data, columns)
    inputs = _inputs(task, frame, data, origin)
    of_labels = _cells(frame, columns[0], origin)
    if len(columns) > 1:
        together = list(zip(*(frame[column] for column in columns), strict=True))
        of_labels, label_names = Cells(together, of_labels.numbers, ", ".join(columns), origin, columns), columns
    labels = task.labels.read(of_labels)
    if task.words:
        differ = [len(words) != len(tags) for words, tags in zip(inputs, labels, strict=True)]
        of_labels.refuse(differ, f"have as many tags as words in `{data.text_columns[0]}`", "more or fewer")
    return Rows(inputs, labels, label_names, origin, of_labels.column)


def read_inputs(task: Task, source: SplitSource, data: DataSpec) -> list[Input]:
    """Read the inputs of `data.unlabelled`."""
    frame, _, origin = _read_frame(task, source, "unlabelled", "train", data, ())
    return _inputs(task, frame, data, origin)


def _read_frame(
    task: Task, source: SplitSource, split: str, hub_split: str, data: DataSpec, label_columns: Sequence[str]
) -> tuple[pd.DataFrame, tuple[str, ...] | None, str]:
    """The rows that `where` keeps, with the columns that are needed; the names of a Hub set's integer labels; the
    source in words.

    Args:
        hub_split: of a Hub data set, where the source names none.
    """
    path = local_path(source.source)
    label_names = None
    if path is None:
        hub_split = source.split or hub_split
        subset = f", subset {source.subset}" if source.subset else ""
        origin = f"the Hub's {source.source}{subset}, split {hub_split}"
        frame, label_names = _read_hub(source, hub_split, data.label_columns[0], origin, f"data.{split}")
    else:
        origin = source.source
        for key, given in (("split", source.split), ("subset", source.subset), ("revision", source.revision)):
            if given is not None:
                raise DataError(
                    f"`{key}` is for Hub data sets, but got {key}={given} for the file {origin} "
                    f"(data.{split}). Remove it; `where` keeps some rows of a file."
                )
        conll = task.words and is_conll(path)
        names = (data.text_columns[0], data.label_columns[0])
        frame = read_conll(path, names, origin) if conll else read_table(path, origin)
    if frame.empty:
        raise DataError(f"{split} must have rows, but {origin} has none. Give a source with rows.")
    for column, key in (
        *((column, "data.text_column") for column in data.text_columns),
        *((column, "data.label_column") for column in label_columns),
        *((column, f"data.{split}.where") for column in source.where),
    ):
        require_column(frame, column, key, origin)
    for column, value in source.where.items():
        frame = frame[[str(plain(cell)) == str(value) for cell in frame[column]]]
        if frame.empty:
            raise DataError(
                f"`where` must keep some rows, but got {dict(source.where)} for {origin} (data.{split}), "
                f"and no row is left at `{column}: {value}`. Correct the value."
            )
    return frame, label_names, origin


def _inputs(task: Task, frame: pd.DataFrame, data: DataSpec, origin: str) -> list[Input]:
    """What a model reads of each row."""
    return list(inputs_of_columns([_cells(frame, column, origin) for column in data.text_columns], words=task.words))


def _cells(frame: pd.DataFrame, column: str, origin: str) -> Cells:
    return Cells(list(frame[column]), [int(number) + 1 for number in frame.index], column, origin)


def _read_hub(
    source: SplitSource, hub_split: str, label_column: str, origin: str, key: str
) -> tuple[pd.DataFrame, tuple[str, ...] | None]:
    import datasets  # 2 s: a study on files, and `--help`, do without it

    try:
        rows = datasets.load_dataset(source.source, name=source.subset, split=hub_split, revision=source.revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"a data set must exist on the Hub and be public, but got {origin}: {first_line(error)}. "
            "Check its name; write a file as a path, with `./` before it."
        ) from error
    except ConnectionError as error:
        raise DataError(
            f"{origin} is not in the local cache and the Hub cannot be reached: {first_line(error)}. "
            "Connect, or name a file."
        ) from error
    # ValueError: no such split or subset. RuntimeError: a data set that is a script. OSError: files missing.
    except (datasets.exceptions.DatasetsError, ValueError, RuntimeError, OSError) as error:
        raise DataError(
            f"{origin} cannot be loaded: {first_line(error)}. Correct `split` or `subset` of {key}."
        ) from error
    # Only a ClassLabel has names; it may stand in a column that the study does not ask for, or in a list.
    feature = rows.features.get(label_column)
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return rows.to_pandas(), tuple(names) if names else None


def require_column(frame: pd.DataFrame, column: str, key: str, origin: str) -> None:
    """Raises `DataError`, with the way out, where a table has no such column; `key` is where it was named."""
    there = [str(name) for name in frame.columns]
    if column not in there:
        close = difflib.get_close_matches(column, there, n=1)
        hint = f"Did you mean `{close[0]}`?" if close else f"Set {key} to one of them."
        raise DataError(
            f"the column `{column}` ({key}) must exist in {origin}, "
            f"but got the columns {', '.join(f'`{name}`' for name in there) or '(none)'}. {hint}"
        )


def inputs_of_columns(columns: Sequence[Cells], *, words: bool) -> Sequence[Input]:
    """What a model reads of each row: a text, a pair of them, or words.

    Raises:
        DataError: a cell is no text, or no list of words.
    """
    if words:
        return _words(columns[0])
    texts = [_texts(cells) for cells in columns]
    return texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))


def _texts(cells: Cells) -> list[str]:
    values = cells.values
    cells.refuse([is_missing(cell) for cell in values], "have a text", "no value")
    cells.refuse([not isinstance(cell, str) for cell in values], "be text", "another type")
    texts = [str(cell) for cell in values]
    cells.refuse([not text.strip() for text in texts], "have a text", "an empty one")
    return texts


def _words(cells: Cells) -> list[tuple[str, ...]]:
    found = [as_list(cell) for cell in cells.values]
    wrong = [row is None or not all(isinstance(word, str) for word in row) for row in found]
    cells.refuse(wrong, "have a list of words", "another type")
    cells.refuse([not row for row in found], "have words", "none")
    rows = [tuple(map(str, row or ())) for row in found]
    cells.refuse([not all(word.strip() for word in row) for row in rows], "have words", "an empty one among them")
    return rows
