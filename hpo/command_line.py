"""What all commands share: quiet libraries, errors without a traceback, exit codes, and passwords that nobody sees.

0 done, 1 no trial completed, 2 a mistake of the user's, 130 Ctrl-C. A bug of ours keeps its traceback.
"""

import argparse
import atexit
import gc
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from setproctitle import setproctitle

from hpo.addresses import hide_passwords, masked
from hpo.errors import HpoError
from hpo.interrupt import sigterm_as_ctrl_c
from hpo.output import OUTPUT, disk_refusal
from hpo.plain_text import printable

# What --storage does, of the commands that write to it.
KEPT = "keep studies in PostgreSQL, postgresql://user@host/database, instead of optuna.db in --output"


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="DIR", help="where everything is written (default: mlruns)"
    )


def add_storage(parser: argparse.ArgumentParser, what: str = KEPT) -> None:
    parser.add_argument(
        "--storage",
        metavar="URL",
        help=f"{what}; the variable OPTUNA_STORAGE says the same and keeps a password out of the list of processes",
    )


def storage_address(given: str | None) -> str | None:
    """`--storage`, or else OPTUNA_STORAGE; also where it is given masked, as a report repeats it."""
    known = os.environ.get("OPTUNA_STORAGE")
    return known if known and given in (None, masked(known)) else given


def hide_arguments() -> None:
    """Masks the passwords in this process's command line, which every user of the machine can read.

    They stand there until now, a moment after its start.
    """
    shown = [hide_passwords(argument) for argument in sys.orig_argv]
    if shown != sys.orig_argv:
        setproctitle(shlex.join(shown))


def add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="let the libraries talk")


def quiet(verbose: bool) -> None:
    """Silences the libraries, before they are imported, which is when they look."""
    if verbose:
        return
    os.environ |= {
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "HF_HUB_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)  # what they log before they raise is told by what they raise


@contextmanager
def importing() -> Iterator[None]:
    """Around imports that take seconds: they make no garbage, and looking for it is a quarter of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor will any of it ever be garbage
        gc.enable()


def exit_code(command: Callable[[], int]) -> int:
    """Runs a command; a mistake of the user's is told on stderr and is 2, Ctrl-C is 130. No password is shown."""
    sys.excepthook = _show_traceback
    atexit.register(gc.freeze)  # or the interpreter, as it ends, looks for garbage in all libraries: two seconds
    try:
        with sigterm_as_ctrl_c():
            return command()
    except HpoError as error:
        print(printable(hide_passwords(str(error))), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        refusal = disk_refusal(error)
        if refusal is None:
            raise
        print(printable(hide_passwords(str(refusal))), file=sys.stderr)
        return 2


def _show_traceback(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """In full, but for the passwords: drivers repeat in their errors what they were called with."""
    sys.stderr.write(hide_passwords("".join(traceback.format_exception(kind, error, at))))
