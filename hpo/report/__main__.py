"""`python -m hpo.report --study NAME` writes a study's report anew from storage, also while the study runs."""

import argparse
import sys
from pathlib import Path

from hpo.command_line import add_output, add_storage, exit_code, hide_arguments, storage_address
from hpo.output import require_written, study_folder
from hpo.plain_text import printable
from hpo.report import write_report
from hpo.storage import open_storage
from hpo.study import load_study


def main(arguments: list[str] | None = None) -> int:
    hide_arguments()
    parser = argparse.ArgumentParser(prog="python -m hpo.report", description=__doc__)
    parser.add_argument("--study", required=True, metavar="NAME", help="the name of a study that was run")
    add_output(parser)
    add_storage(parser)
    options = parser.parse_args(arguments)
    return exit_code(lambda: report(options.study, options.output, storage_address(options.storage)))


def report(name: str, output: Path, storage: str | None) -> int:
    """Writes report, table and figures. Raises `StorageError` if there is no such study."""
    import optuna

    if storage is None:
        require_written(output / "optuna.db")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    files = write_report(load_study(open_storage(output, storage), name), study_folder(output, name))
    print(printable(f"report  {files.markdown}\ntable   {files.table}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
