"""Where Optuna keeps studies: opening it, checked, and the lock under which a study changes hands."""

import sqlite3
from contextlib import AbstractContextManager, closing
from pathlib import Path

from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy.exc import DatabaseError

from hpo.errors import StorageError
from hpo.output import opening
from hpo.storage_server import open_server, server_lock

_opened: dict[tuple[Path, str | None], BaseStorage] = {}


def open_storage(output: Path, url: str | None = None) -> BaseStorage:
    """The database of that address, or `optuna.db` in the output folder.

    Raises:
        StorageError: it is damaged or cannot be written, or the server cannot be used.
    """
    # Keeps the trials that ended, so that a study is read once, and then what is new in it. Optuna wraps a database so
    # for every study that it loads: each trial would read all others again.
    storage = get_storage(_open_file(output / "optuna.db") if url is None else open_server(url))
    _opened[output, url] = storage
    return storage


def storage_of(output: Path, url: str | None = None) -> BaseStorage:
    """The storage that this process opened last for both, so that a trial reads what is new in it only."""
    return _opened.get((output, url)) or open_storage(output, url)


def _open_file(path: Path) -> RDBStorage:
    try:
        with opening(path):
            _prepare(path)
            # Waiting for another process's write is right; `database is locked` after 5 s is not.
            database = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
        database.get_all_studies()  # or another program's tables of the same names would show later
    except (DatabaseError, sqlite3.DatabaseError, StorageInternalError, RuntimeError, AssertionError, OSError) as error:
        reason = str(getattr(error, "orig", error))
        raise StorageError(
            f"{path} must be a database of Optuna that can be written, but got: {reason}. "
            "Move it away with its `-wal`, or give another folder with --output."
        ) from error
    return database


def _prepare(path: Path) -> None:
    """Checks all pages, for opening reads the first ones only (2 ms a megabyte), and lets readers pass writers.

    With the write-ahead log a write is about twice as fast, beside others too: one file is synced, not two. That is at
    every commit still: `synchronous=NORMAL` would save up to half of what is left, and lose trials in a power cut.

    Raises:
        sqlite3.DatabaseError: a page is damaged.
    """
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        require_whole(connection)
        connection.execute("PRAGMA journal_mode = WAL")


def require_whole(connection: sqlite3.Connection) -> None:
    """Raises `sqlite3.DatabaseError` if a page is damaged."""
    (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise sqlite3.DatabaseError(f"damaged pages ({' '.join(answer.split())})")


def study_names(storage: BaseStorage) -> list[str]:
    return sorted(study.study_name for study in storage.get_all_studies())


def was_run(name: str, output: Path, url: str | None) -> bool:
    """Whether there is a study of this name; no database is made to look."""
    if url is None and not (output / "optuna.db").is_file():
        return False
    return name in study_names(open_storage(output, url))


def exclusive(output: Path, name: str, url: str | None = None) -> AbstractContextManager[object]:
    """Held by one process at a time, of all that work on the study of that name; its end frees it, however it comes.

    In a file of the output folder, or by the server of that address: see `server_lock`.
    """
    return FileLock(output / f".{name}.claim.lock") if url is None else server_lock(url, f"study {name}")
