"""What all commands share: quiet libraries, errors without a traceback, exit codes.

0 done, 1 no trial completed, 2 a mistake of the user's, 130 Ctrl-C. A bug of ours keeps its traceback.
"""

import argparse
import atexit
import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hpo.errors import HpoError
from hpo.interrupt import sigterm_as_ctrl_c
from hpo.output import OUTPUT, disk_error
from hpo.plain_text import printable


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="DIR", help="where everything is written (default: mlruns)"
    )


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
    """Runs a command; a mistake of the user's is told on stderr and is 2, Ctrl-C is 130."""
    atexit.register(gc.freeze)  # or the interpreter, as it ends, looks for garbage in all libraries: two seconds
    try:
        with sigterm_as_ctrl_c():
            return command()
    except HpoError as error:
        print(printable(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        cause = disk_error(error)
        if cause is None:
            raise
        print(
            f"the disk refused to go on: {printable(cause)}. Make room or mend the rights; the same command continues.",
            file=sys.stderr,
        )
        return 2
