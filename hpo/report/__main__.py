"""`python -m hpo.report --study NAME` writes a study's report anew from storage, also while the study runs.

`--compare NAME NAME ...` puts several studies side by side. With `--storage` they may be another tool's.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from hpo.command_line import add_output, add_storage, exit_code, hide_arguments, storage_address
from hpo.output import FINALISTS, is_taken, require_written, study_folder
from hpo.plain_text import printable
from hpo.report import write_report
from hpo.report.compare import write_comparison
from hpo.storage import open_storage
from hpo.storage_reader import open_to_read
from hpo.study import load_study


def main(arguments: list[str] | None = None) -> int:
    hide_arguments()
    parser = argparse.ArgumentParser(prog="python -m hpo.report", description=(__doc__ or "").splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--study", metavar="NAME", help="the name of a study that was run")
    which.add_argument("--compare", nargs="+", metavar="NAME", help="several, side by side, into the output folder")
    add_output(parser)
    add_storage(
        parser,
        "read the studies of any storage that Optuna opens instead of optuna.db in --output, and leave it as it is: "
        "postgresql://user@host/database, sqlite:///FILE, the file of a JournalStorage",
    )
    options = parser.parse_args(arguments)
    storage = storage_address(options.storage)
    if options.compare:
        return exit_code(lambda: comparison(options.compare, options.output, storage))
    return exit_code(lambda: report(options.study, options.output, storage))


def report(name: str, output: Path, storage: str | None) -> int:
    """Writes page, table and figures. Raises `StorageError` if there is no such study."""
    study = load_study(_opened(output, storage), name)
    files = write_report(study, study_folder(output, _folder_name(name)))
    print(printable(f"report  {files.page}\n        {files.markdown}\ntable   {files.table}"))
    return 0


def _folder_name(name: str) -> str:
    """The study's own, but for what only other tools call theirs: a path, or as something else in the output folder."""
    name = re.sub(r"[/\\]", "_", name)
    return f"{name}_" if is_taken(name.removesuffix(FINALISTS)) else name


def comparison(names: Sequence[str], output: Path, storage: str | None) -> int:
    """Writes the comparison. Raises `StorageError` if there is no such study."""
    opened = _opened(output, storage)
    files = write_comparison([load_study(opened, name) for name in dict.fromkeys(names)], output)
    print(printable(f"report  {files.page}\n        {files.markdown}"))
    return 0


def _opened(output: Path, storage: str | None) -> BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage is not None:
        return open_to_read(storage)
    require_written(output / "optuna.db")
    return open_storage(output)


if __name__ == "__main__":
    sys.exit(main())
