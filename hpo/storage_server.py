"""Optuna's studies on a PostgreSQL server: opening it, waiting while it is away, and a lock that it keeps.

Whenever a connection breaks, what was asked is done once: a commit whose answer was lost is looked up by its number;
any other broken transaction has left nothing behind and is made again.
"""

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial, wraps
from hashlib import blake2b
from inspect import isfunction
from multiprocessing import parent_process
from typing import Any, TypeVar
from weakref import finalize

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from hpo.addresses import masked
from hpo.errors import StorageError

T = TypeVar("T")
_told_away: set[str] = set()

AWAY_SECONDS = 300.0
"""How long a study waits for a server that it has reached before."""
OPENING_SECONDS = 5.0
"""The same for one that it has not. An attempt takes up to `connect_timeout` more."""
# A server whose machine is gone sends no word of it: libpq has to ask. Both ends do, for the server keeps row locks and
# advisory locks for a client that is gone until it knows.
CLIENT_SETTINGS = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms
}
SERVER_SETTINGS = (
    "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; "
    "SET idle_in_transaction_session_timeout = '60s'"
)
# What a server says when it will say the same again. Whatever else it refuses a connection with may pass: it says so
# while it starts, shuts down or has no connection left, in several ways.
FINAL = ("password", "authentication failed", "does not exist", "pg_hba.conf", "permission denied", "not permitted")
# connection_exception, admin_shutdown, crash_shutdown, cannot_connect_now, too_many_connections, deadlock_detected:
# https://www.postgresql.org/docs/current/errcodes-appendix.html
PASSING = ("08", "57P01", "57P02", "57P03", "53300", "40P01")
OWN_DRIVERS = ("postgresql", "postgresql+psycopg")
WAYS_OUT = {
    "no studies": "Give the storage that they are kept in.",
    "names no file": "Give that of the studies, as in sqlite:///FILE.",
    "not a database": "Give that of the studies.",
    "nor a journal": "Give that of the studies.",
    "damaged": "Give a copy from before.",
    "malformed": "Give a copy from before.",
    "readonly database": "Copy it, with its `-journal` or `-wal`, and let the Optuna that wrote it open the copy once.",
    "unable to open": "Mend its rights, or copy it to a folder that can be written.",
    "Permission denied": "Mend its rights, or copy it to a folder of your own.",
    "password": "Give the right one in OPTUNA_STORAGE, PGPASSWORD or ~/.pgpass.",
    "does not exist": "Create it (`createdb`, `createuser`), or name another one.",
    "permission denied for table": "Let the user read its tables (`GRANT SELECT ON ALL TABLES`).",
    "permission denied": "Let the user create tables there, or own the database.",
    "storage upgrade": "Upgrade a copy of it if the Optuna that wrote it is still to read it, or use that Optuna.",
    "no longer compatible": "Use the Optuna that wrote it, or another database.",
}


def open_server(url: str, *, makes_tables: bool = True) -> RDBStorage:
    """The studies of a PostgreSQL database.

    Args:
        makes_tables: if it has none.

    Raises:
        StorageError: the address is none, the driver is missing, or the server refuses or cannot be reached in 10 s.
    """
    address = _parsed(url)
    # Of two that find no tables, one would die making them.
    lock = server_lock(url, "tables", OPENING_SECONDS) if makes_tables else nullcontext()
    try:
        with lock:
            return patiently(lambda: _ServerStorage(address, masked(url), makes_tables), masked(url), OPENING_SECONDS)
    except (SQLAlchemyError, StorageInternalError, RuntimeError, AssertionError) as error:
        raise refused(masked(url), words(error)) from error


@contextmanager
def server_lock(url: str, name: str, seconds: float = AWAY_SECONDS) -> Iterator[None]:
    """Held by one process of all that use the database; the server frees it when its holder's connection ends.

    So does a restart of the server: then another process may come in before the holder has left.
    """
    address = _parsed(url)
    connection = patiently(lambda: _locked_connection(address, name), masked(url), seconds)
    try:
        yield
    finally:
        connection.close()


def _locked_connection(address: URL, name: str) -> Any:
    key = int.from_bytes(blake2b(f"hpo/{name}".encode(), digest_size=8).digest(), signed=True)
    kind: Any = address.get_dialect()
    dialect = kind(dbapi=kind.import_dbapi())
    arguments, keywords = dialect.create_connect_args(address)
    connection = dialect.connect(*arguments, **keywords)
    try:
        connection.autocommit = True  # or it would be idle in a transaction
        connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
        connection.execute("SELECT pg_advisory_lock(%s)", (key,))
    except BaseException:
        connection.close()
        raise
    return connection


def patiently(action: Callable[[], T], address: str, seconds: float = AWAY_SECONDS) -> T:
    """Does it again for as long as the server is away, at growing intervals. A longer absence is told on stderr.

    By the driver, once, whatever of its threads notices: workers notice when it does.

    Raises:
        StorageError: the server refuses the connection, or was away for so many seconds.
    """
    away_since, pause = None, 0.05
    while True:
        try:
            result = action()
        except Exception as error:
            reason = _away(error)
            if reason is None:
                raise
            if _refuses(reason):
                raise refused(address, reason) from error
            away_since = away_since or time.monotonic()
            away = time.monotonic() - away_since
            if away >= seconds:
                _told_away.discard(address)
                raise StorageError(
                    f"the storage must answer within {seconds:.0f} s, but got {address}: {reason}. "
                    "Start the server, or mend the address; the same command goes on."
                ) from error
            if away > 1 and address not in _told_away:
                _told_away.add(address)
                _tell(f"{address} does not answer ({reason}); waiting for it, up to {seconds:.0f} s")
            # At random, or all workers would come back at once.
            time.sleep(min(pause * random.uniform(0.5, 1.0), seconds - away))
            pause = min(5.0, pause * 2)
        else:
            if away_since and address in _told_away:
                _told_away.discard(address)
                _tell(f"{address} answers again, after {time.monotonic() - away_since:.0f} s")
            return result


def _tell(text: str) -> None:
    if parent_process() is None:
        print(text, file=sys.stderr, flush=True)  # rich shows it above its bar


def _away(error: BaseException | None) -> str | None:
    """What is said of a server that is not there, if that is at the bottom of an error."""
    import psycopg

    while error is not None:
        found = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(found, "sqlstate", None)
        lost = code is None or code.startswith(PASSING)
        if isinstance(found, psycopg.OperationalError) and lost:
            return words(found)
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return words(error)
        error = error.__cause__ or error.__context__
    return None


def _refuses(reason: str) -> bool:
    return reason.startswith("connection to server") and any(word in reason for word in FINAL)


def words(error: BaseException) -> str:
    """The database's own, in one line."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    first = str(getattr(cause, "orig", cause)).strip().partition("\n")[0]
    if "version_info" in first and "denied" not in first:  # the table that Optuna looks for first
        return "it holds no studies of Optuna"
    return first.removeprefix("connection failed: ")


def refused(address: str, reason: str, way_out: str | None = None) -> StorageError:
    """Of a database that is no use, with what is to be done."""
    known = (way for word, way in WAYS_OUT.items() if word in reason)
    way_out = way_out or next(known, "Check the address and the server.")
    reason = reason.rstrip(".")
    return StorageError(f"--storage must be a database that Optuna can use, but got {address}: {reason}. {way_out}")


def _parsed(url: str) -> URL:
    """The address, checked, with our dialect. Raises `StorageError`."""
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise _no_address(url) from None
    if address.get_backend_name() == "sqlite":
        raise StorageError(
            f"--storage must be the address of a server, but got {masked(url)}. "
            "A study is kept in optuna.db of the folder that --output names, without --storage."
        )
    if address.drivername not in OWN_DRIVERS:
        raise _no_address(url)
    require_password(address, url)
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise StorageError(
            f"PostgreSQL needs a driver that is not installed ({error}). Run `pip install 'hpo[postgres]'`."
        ) from error
    return address.set(drivername="postgresql+hpo")


def require_password(address: URL, url: str) -> None:
    """Raises `StorageError` if it is masked in an address, as everything that is shown has it."""
    if address.password == "***":
        raise StorageError(
            f"the password in --storage is masked: {masked(url)}. Write it, or take it out and give it in PGPASSWORD "
            "or ~/.pgpass, or give the whole address in OPTUNA_STORAGE."
        )


def _no_address(url: str) -> StorageError:
    return StorageError(
        "--storage must be an address such as postgresql://user@host:5432/database, "
        f"but got {masked(url) or 'nothing'}. "
        "Of the servers that Optuna knows only PostgreSQL is taken, with psycopg 3 as its driver."
    )


class _Dialect(PGDialect_psycopg):
    """psycopg, but for a commit whose answer was lost: it counts by what became of it."""

    supports_statement_cache = True

    def connect(self, *arguments: Any, **keywords: Any) -> Any:
        self._connect = partial(super().connect, *arguments, **CLIENT_SETTINGS | keywords)
        connection = self._connect()
        connection.execute(SERVER_SETTINGS)
        connection.commit()
        return connection

    def do_commit(self, dbapi_connection: Any) -> None:
        (number,) = dbapi_connection.execute("SELECT txid_current_if_assigned()").fetchone()
        try:
            dbapi_connection.commit()
        except Exception:
            if not dbapi_connection.broken or number is None or not self._was_committed(number):
                raise

    def _was_committed(self, number: int) -> bool:
        def status() -> Any:
            with closing(self._connect()) as connection:
                return connection.execute("SELECT txid_status(%s)", (number,)).fetchone()[0]

        while (found := patiently(status, "the storage")) == "in progress":  # for a client that is not known to be gone
            time.sleep(0.5)
        return bool(found == "committed")


class _ServerStorage(RDBStorage):
    """Optuna's, each of whose methods that talk to the database waits for the server and is made again."""

    def __init__(self, address: URL, shown: str, makes_tables: bool) -> None:
        self.shown = shown
        try:
            super().__init__(address.render_as_string(hide_password=False), skip_table_creation=not makes_tables)
        finally:
            if hasattr(self, "engine"):
                finalize(self, self.engine.dispose)  # which also one that was not finished leaves open


def _patient(method: Callable[..., T]) -> Callable[..., T]:
    @wraps(method)
    def call(storage: _ServerStorage, *arguments: Any, **keywords: Any) -> T:
        return patiently(lambda: method(storage, *arguments, **keywords), storage.shown)

    return call


for _name, _method in vars(RDBStorage).items():
    if isfunction(_method) and "_create_scoped_session" in _method.__code__.co_names:
        setattr(_ServerStorage, _name, _patient(_method))

registry.register("postgresql.hpo", __name__, "_Dialect")
