"""The output folder: its default, whether it can be written, and files that are there whole or not at all."""

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

from hpo.errors import StorageError
from hpo.plain_text import shell_word

OUTPUT = Path("mlruns")
# Below this a study cannot keep its databases, let alone a model.
MIN_FREE_MIB = 64
# What stands in the output folder beside the studies, or may stand there; `Default` is an experiment of MLflow's own.
OWN_NAMES = {"artifacts", "cache", "checkpoints", "default", "spool"}
DATABASES = ("mlflow.db", "optuna.db")
# Of the study that a study's finalists are, whose folder is in that one's.
FINALISTS = ".finalists"
CLAIM = ".claim"  # `.NAME.claim.lock` is a lock of the study NAME, as `.NAME.lock` is
# Of the disk or its rights: nothing that a traceback would explain.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG}

# As libraries in Rust tell it, such as safetensors.
RUST_ERROR = re.compile(r"\(os error (\d+)\)")


def output_option(output: Path) -> str:
    """What a command needs to find this folder: nothing for the default one."""
    return "" if output == OUTPUT else f" --output {shell_word(output.as_posix())}"


def is_taken(name: str) -> bool:
    """Whether a study of this name would stand where something else does, also where a disk ignores the case."""
    name = name.lower()
    return name in OWN_NAMES or name.startswith(DATABASES) or name.endswith((CLAIM, FINALISTS))


def study_folder(output: Path, name: str) -> Path:
    """The folder of a study. Raises `StorageError` if that would not be one within the output folder.

    A study file has no such name, but the database of others, or the command line, may.
    """
    searched = name.removesuffix(FINALISTS)
    if Path(searched).name != searched or searched in {"", ".", ".."} or is_taken(searched):
        raise StorageError(f"a study's name must be that of a folder of its own in {output}, but got `{name}`.")
    return output / searched / FINALISTS[1:] if searched != name else output / name


def require_addressable(output: Path) -> None:
    """Raises `StorageError` if a database in this folder would have another address than it is meant to have."""
    if set("?%") & set(str(output.resolve())):
        raise StorageError(
            "--output must be a path without `?` and `%`, which mean something else in a database's address, but got "
            f"{output.resolve()}. Give another one."
        )


def prepare_output(output: Path) -> None:
    """Makes the output folder and writes to it once.

    Raises:
        StorageError: it cannot be written, or the disk is full.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / f".probe-{uuid4().hex[:8]}"
        probe.write_bytes(bytes(2**16))
        probe.unlink()
        free_mib = os.statvfs(output).f_bavail * os.statvfs(output).f_frsize / 2**20
    except OSError as error:
        raise StorageError(
            f"--output must be a folder that can be written, but got {output}: {error.strerror}. "
            "Give another one, or make room."
        ) from error
    if free_mib < MIN_FREE_MIB:
        raise StorageError(
            f"--output must have at least {MIN_FREE_MIB} MiB free, but {output} has {free_mib:.0f}. "
            "Make room, or give another folder."
        )


@contextmanager
def opening(database: Path) -> Iterator[None]:
    """Held while a database is opened: the first to open one creates its tables, and of two at once one would die."""
    if not database.parent.is_dir():  # the lock would make it, and a mistyped --output would look like an empty one
        raise NotADirectoryError(f"there is no folder {database.parent}")
    with FileLock(database.with_name(f".{database.name}.lock")):
        yield


def require_written(database: Path) -> None:
    """Raises `StorageError` if no study has been run in this output folder."""
    if not database.is_file():
        raise StorageError(
            f"there is no {database} yet: run `python -m hpo.run` first, or name its folder with --output."
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives another path to write to, which takes the place of `path` at the end, on disk, if nothing was raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Machines that share the folder may have processes of the same number.
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # or after a power cut the new name may have no content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporaries(path: Path) -> Iterator[Path]:
    """What is being written to take the place of `path`, and what a killed process left of it."""
    return (other for other in path.parent.glob(".*.tmp") if is_temporary(other, path))


def is_temporary(path: Path, of: Path) -> bool:
    """Whether `replacing` gave this path to somebody who writes `of`."""
    return re.fullmatch(rf"\.{re.escape(of.name)}\.[0-9a-f]+\.tmp", path.name) is not None


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never half of one."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def disk_error(error: BaseException | None) -> str | None:
    """The disk's own words, if a full or forbidden disk is at the bottom of an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return str(error)
        if (rust := RUST_ERROR.search(str(error))) and int(rust[1]) in DISK_ERRORS:
            return str(error)
        if isinstance(error, sqlite3.OperationalError) and any(
            words in str(error) for words in ("disk is full", "disk I/O error", "readonly database")
        ):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def disk_refusal(error: BaseException) -> StorageError | None:
    """The same for the user, who knows the way out."""
    if (cause := disk_error(error)) is None:
        return None
    return StorageError(
        f"the disk refused to go on: {cause}. Make room or mend the rights; the same command continues."
    )
