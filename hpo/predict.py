"""`python -m hpo.predict --model FOLDER FILE`: labels the rows of a file with a trained model."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from hpo.cells import Cells, is_missing
from hpo.command_line import add_verbose, exit_code, importing, quiet
from hpo.errors import DataError
from hpo.interrupt import CtrlC
from hpo.output import replacing
from hpo.plain_text import markup

if TYPE_CHECKING:  # pandas takes a second
    import pandas as pd

    from hpo.labelling import Answers
    from hpo.training.trained import TrainedModel

LABELLED = ".labelled"
WRITTEN = (".csv", ".tsv", ".parquet", ".jsonl")
# Labels that are counted for the terminal.
MOST_TOLD = 8


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hpo.predict", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="csv, tsv, jsonl, json, parquet, or conll")
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="mlruns/STUDY/model, for instance")
    parser.add_argument("--text", nargs="+", default=[], metavar="COLUMN", help="if it is called otherwise here")
    parser.add_argument("--output", type=Path, metavar="FILE", help="what to write (default: FILE.labelled)")
    add_verbose(parser)
    options = parser.parse_args(arguments)
    quiet(options.verbose)
    return exit_code(lambda: predict(options, Console(highlight=False)))


def predict(options: argparse.Namespace, console: Console) -> int:
    """Labels a file and says where that stands and how often which label came out.

    Raises:
        DataError: model or file cannot be used, or the file to write is there already.
    """
    source: Path = options.file
    if not source.is_file():
        raise DataError(f"a data file must exist, but got {source}. Check the path.")
    target: Path = options.output or source.with_name(f"{source.stem}{LABELLED}{_suffix(source)}")
    if target.suffix.lower() not in WRITTEN:
        raise DataError(f"--output must end in one of {', '.join(WRITTEN)}, but got {target}. Choose one.")
    if target.exists():
        raise DataError(f"a file is not written over, but got {target}. Remove it, or name another: --output FILE.")
    with importing():
        from hpo.data.files import is_conll, read_conll, read_table
        from hpo.data.sources import require_column
        from hpo.labelling import label
        from hpo.training.trained import read_trained

    trained = read_trained(options.model)
    columns = tuple(options.text) or trained.config.data.text_columns
    if len(columns) != len(trained.config.data.text_columns):
        wanted = "two columns" if trained.form == "pair" else "one column"
        raise DataError(f"the model reads {wanted}, but got --text {' '.join(columns)}. Name as many.")
    conll = trained.task.words and is_conll(source)
    frame = read_conll(source, (columns[0], "tag"), str(source)) if conll else read_table(source, str(source))
    if frame.empty:
        raise DataError(f"a data file must have rows, but got none in {source}. Check the path.")
    for column in columns:
        require_column(frame, column, "--text", str(source))
    with CtrlC() as ctrl_c, Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task("labelling", total=None)
        answers, n_truncated = label(trained, _inputs(frame, columns, trained, str(source)), ctrl_c.check)
    _write(frame, answers, target)
    console.print(f"model   {markup(str(options.model))}: {markup(trained.config.model.name)}")
    console.print(f"rows    {len(frame):,} of {markup(str(source))}")
    if n_truncated:
        limit = trained.config.training.max_length
        console.print(f"cut     {n_truncated:,} rows are longer than the {limit} tokens that the model reads of each")
    console.print(f"labels  {markup(_counted(answers['prediction']))}")
    console.print(f"wrote   {markup(str(target))}", soft_wrap=True)
    return 0


def _inputs(frame: pd.DataFrame, columns: tuple[str, ...], trained: TrainedModel, origin: str) -> list[Any]:
    from hpo.data.sources import inputs_of_columns

    numbers = range(1, len(frame) + 1)
    cells = [Cells(list(frame[column]), numbers, column, origin) for column in columns]
    return list(inputs_of_columns(cells, words=trained.task.words))


def _suffix(source: Path) -> str:
    """Of what is written: a conll file's tags go into lists of JSON lines, and so do the rows of a JSON file."""
    return source.suffix if source.suffix.lower() in WRITTEN else ".jsonl"


def _write(frame: pd.DataFrame, answers: Answers, target: Path) -> None:
    """The file's own columns as they are, and behind them the answers; a name that is taken gets an underscore."""
    import pandas as pd

    taken, added = {str(name) for name in frame.columns}, {}
    for name, values in answers.items():
        while name in taken:
            name += "_"
        taken.add(name)
        added[name] = values
    labelled = pd.concat([frame, pd.DataFrame(added, index=frame.index)], axis=1)
    suffix = target.suffix.lower()
    with replacing(target) as temporary:
        if suffix == ".csv":
            labelled.to_csv(temporary, index=False)
        elif suffix == ".tsv":  # as it is read: quotes are letters
            try:
                labelled.to_csv(temporary, index=False, sep="\t", quoting=csv.QUOTE_NONE)
            except csv.Error as error:
                raise DataError(
                    f"a .tsv holds no tabs or line breaks within a cell, but a row has some, so {target} was not "
                    f"written. Name another file: --output {target.stem}.jsonl."
                ) from error
        elif suffix == ".parquet":
            labelled.to_parquet(temporary)
        else:
            rows = labelled.to_dict(orient="records")
            lines = [json.dumps(_plain(row), ensure_ascii=False) for row in rows]
            Path(temporary).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _plain(cell: Any) -> Any:
    """As JSON has it; what a row does not have stays away, and so do pandas' own words for nothing."""
    match cell:
        case dict():
            return {str(name): _plain(value) for name, value in cell.items() if value is None or not is_missing(value)}
        case list() | tuple():
            return [_plain(value) for value in cell]
    if hasattr(cell, "tolist"):  # numpy's
        return _plain(cell.tolist())
    return cell if isinstance(cell, str | int | float | None) else str(cell)


def _counted(predictions: list[Any]) -> str:
    """How many rows have which label, the most frequent first; of numbers their range."""
    if predictions and isinstance(predictions[0], float):
        return f"{min(predictions):.4g} to {max(predictions):.4g}"
    if predictions and isinstance(predictions[0], list):
        tags = Counter(tag for row in predictions for tag in row)
        return ", ".join(f"{tag} {count:,} words" for tag, count in tags.most_common(MOST_TOLD))
    return ", ".join(
        f"{name or '(none)'} {count:,}" for name, count in Counter(map(str, predictions)).most_common(MOST_TOLD)
    )


if __name__ == "__main__":
    sys.exit(main())
