"""`python -m hpo.doctor`: what is stale or unfinished in an output folder, or told otherwise by Optuna and MLflow."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from hpo.addresses import masked
from hpo.command_line import (
    add_output,
    add_storage,
    add_verbose,
    exit_code,
    hide_arguments,
    importing,
    quiet,
    storage_address,
)
from hpo.output import output_option, require_written
from hpo.plain_text import markup, shell_word


def main(arguments: list[str] | None = None) -> int:
    hide_arguments()
    parser = argparse.ArgumentParser(prog="python -m hpo.doctor", description=__doc__)
    parser.add_argument("--fix", action="store_true", help="end what nobody runs any more, and send what waits")
    add_output(parser)
    add_storage(parser)
    add_verbose(parser)
    options = parser.parse_args(arguments)
    quiet(options.verbose)
    console = Console(highlight=False, soft_wrap=True)
    return exit_code(lambda: examine(options.output, storage_address(options.storage), options.fix, console))


def examine(output: Path, storage: str | None, fix: bool, console: Console) -> int:
    """Prints what it finds, and mends it if asked to. Returns 1 if something is left to mend.

    Raises:
        StorageError: a database is damaged or cannot be reached, which is a finding of its own.
    """
    if storage is None:
        require_written(output / "optuna.db")
    with importing():
        from hpo.examination import findings, waiting
        from hpo.storage import open_storage, study_names
        from hpo.tracking import tracker_of

    opened, tracker, left = open_storage(output, storage), tracker_of(output), 0
    examined = {name: findings(opened, tracker, output, name, storage) for name in study_names(opened)}
    for name, found in {"tracking": waiting(tracker), **examined}.items():
        for finding in found:
            mark = "[yellow]found [/]" if finding.mend else "[dim]note  [/]"
            if fix and finding.mend:
                finding.mend()
                mark = "[green]mended[/]"
            elif finding.mend:
                left += 1
            console.print(f"{mark}  [bold]{markup(name)}[/]  {markup(finding.text)}")
    tracker.flush()
    if left:
        where = output_option(output) + (f" --storage {shell_word(masked(storage))}" if storage else "")
        console.print(f"[dim]mend    python -m hpo.doctor --fix{markup(where)}[/]")
    else:
        console.print("Nothing is left to mend.")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
