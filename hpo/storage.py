"""Where Optuna keeps studies: opening it, checked, and the lock under which a study changes hands."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy.exc import DatabaseError

from hpo.errors import StorageError
from hpo.output import opening

_opened: dict[Path, BaseStorage] = {}


def open_storage(output: Path) -> BaseStorage:
    """`optuna.db` in the output folder. Raises `StorageError` if it is damaged or cannot be written."""
    path = output / "optuna.db"
    try:
        if path.is_file():
            _check_pages(path)
        with opening(path):
            # Waiting for another process's write is right; `database is locked` after 5 s is not.
            database = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
        # Keeps the trials that ended, so that a study is read once, and then what is new in it. Optuna wraps a database
        # so for every study that it loads: each trial would read all others again.
        storage = get_storage(database)
        storage.get_all_studies()  # or another program's tables of the same names would show later
    except (DatabaseError, sqlite3.DatabaseError, StorageInternalError, RuntimeError, AssertionError, OSError) as error:
        reason = str(getattr(error, "orig", error))
        raise StorageError(
            f"{path} must be a database of Optuna that can be written, but got: {reason}. "
            "Move it away, or give another folder with --output."
        ) from error
    _opened[output] = storage
    return storage


def storage_of(output: Path) -> BaseStorage:
    """The storage that this process opened last in the output folder, so that a trial reads what is new in it only."""
    return _opened.get(output) or open_storage(output)


def _check_pages(path: Path) -> None:
    """Raises `sqlite3.DatabaseError` if a page is damaged: opening reads the first ones only. Takes 2 ms a megabyte."""
    connection = sqlite3.connect(path, timeout=60)
    try:
        (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    finally:
        connection.close()
    if answer != "ok":
        raise sqlite3.DatabaseError(f"damaged pages ({' '.join(answer.split())})")


def study_names(storage: BaseStorage) -> list[str]:
    return sorted(study.study_name for study in storage.get_all_studies())


@contextmanager
def exclusive(output: Path, name: str) -> Iterator[None]:
    """Held by one process at a time, of all that work on the study of that name; its end frees it, however it comes."""
    with FileLock(output / f".{name}.claim.lock"):
        yield
