"""Studies to read, in any storage that Optuna opens, such as another tool's: nothing is written to it.

Addresses are those of Optuna's own command line: a URL, or the file of a `JournalStorage`.
"""

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from hpo.addresses import masked
from hpo.errors import StorageError
from hpo.storage import require_whole
from hpo.storage_server import OWN_DRIVERS, open_server, refused, require_password, words

# How a database of SQLite begins; the 19th byte says whether it has a write-ahead log.
SQLITE, WITH_LOG = b"SQLite format 3\0", 2
# What Optuna raises for what is no storage of its own. Of a journal it says nothing itself: these are of what it does.
NO_DATABASE = (SQLAlchemyError, sqlite3.DatabaseError, StorageInternalError, RuntimeError, AssertionError, OSError)
NO_JOURNAL = (ValueError, KeyError, TypeError, AttributeError, AssertionError, OSError)


def open_to_read(url: str) -> BaseStorage:
    """The storage of that address, as it is.

    Raises:
        StorageError: it is none, or cannot be reached or read.
    """
    path = Path(url)
    if "://" not in url:
        if not _is_there(path):
            reason = "it is neither an address nor a file that is there"
            raise refused(url or "nothing", reason, "Give sqlite:///FILE, a server's, or the path of a journal.")
        return _file(path, url) if _begin(path).startswith(SQLITE) else _journal(path)
    if url.startswith("redis"):
        return _redis(url)
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise refused(masked(url), "it is no address") from None
    require_password(address, url)
    if address.get_backend_name() == "sqlite":
        return _file(_named(address, url), url)
    if address.drivername in OWN_DRIVERS:
        return get_storage(open_server(url, makes_tables=False))
    return _server(url)


def _named(address: URL, url: str) -> Path:
    """The file of an address, which is there. Raises `StorageError`."""
    name = address.database or ""
    path = Path(unquote(name.removeprefix("file:")) if "uri" in address.query else name)
    if not name or name == ":memory:":
        raise refused(url, "it names no file")
    if not _is_there(path):
        raise StorageError(
            f"--storage must be an address that names a file that is there, but got {url}: there is no {path}. "
            "Mend the path: `sqlite:////` begins one from the root, `sqlite:///` one from here."
        )
    return path


def _file(path: Path, url: str) -> BaseStorage:
    """A database of SQLite, opened so that it cannot be written."""
    query = {"mode": "ro", "uri": "true"}
    try:
        if _begin(path)[18:19] == bytes([WITH_LOG]) and not path.with_name(f"{path.name}-wal").exists():
            # Nobody has it open. Who opens it makes a log, and who only reads cannot remove it; nor make it, perhaps.
            query["immutable"] = "1"
        location = f"file:{quote(str(path.absolute()))}"
        options = "&".join(f"{name}={value}" for name, value in query.items())
        with closing(sqlite3.connect(f"{location}?{options}", timeout=60, uri=True)) as connection:
            require_whole(connection)
        address = URL.create("sqlite", database=location, query=query).render_as_string()
        database = RDBStorage(address, {"connect_args": {"timeout": 60}}, skip_table_creation=True)
        database.get_all_studies()
    except NO_DATABASE as error:
        raise refused(url, words(error)) from error
    return get_storage(database)


def _server(url: str) -> BaseStorage:
    """A database that SQLAlchemy has a driver for."""
    try:
        database = RDBStorage(url, skip_table_creation=True)
        database.get_all_studies()
    except (ImportError, NoSuchModuleError) as error:
        way_out = "Install that driver, or name another one, as in mysql+pymysql://. A journal is given by its path."
        raise refused(masked(url), words(error.__cause__ or error), way_out) from error
    except NO_DATABASE as error:
        raise refused(masked(url), words(error)) from error
    return get_storage(database)


def _journal(path: Path) -> BaseStorage:
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except NO_JOURNAL as error:
        reason = f"neither a database of SQLite nor a journal of Optuna ({type(error).__name__}: {error})"
        raise refused(str(path), reason) from error


def _redis(url: str) -> BaseStorage:
    try:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            return JournalStorage(JournalRedisBackend(url))
    except Exception as error:  # of a library that need not be there
        way_out = "Start the server, or mend the address; its driver is `pip install redis`."
        raise refused(masked(url), words(error), way_out) from error


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise refused(str(path), str(error.strerror)) from error


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(20)
