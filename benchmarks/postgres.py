"""A PostgreSQL server of one's own, for the tests and the soak: on 127.0.0.1 and a free port, with a password."""

import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

PASSWORD = "s3cr@t/%:word"  # with what an address has to encode


class NotInstalled(Exception):
    """There is no PostgreSQL on this machine."""


def binaries() -> Path:
    """The folder of the newest server that Debian's packages or the PATH have. Raises `NotInstalled` without one."""
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = newest[-1] if newest else shutil.which("initdb")
    if found is None:
        raise NotInstalled("PostgreSQL is not installed: apt-get install postgresql")
    return Path(found).parent


def free_port() -> int:
    """One that no connection is given for its own end while the server is down: below those that systems hand out."""
    while True:
        port = random.randrange(20_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class PostgresServer:
    """One that can be stopped and started again; its data stay, but nothing waits for the disk."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.folder = binaries(), folder
        self.port = free_port()
        # PostgreSQL refuses to run as root.
        self.as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(folder, "postgres", "postgres")
        (folder / "password").write_text(PASSWORD)
        initdb = [f"{self.bin}/initdb", f"--pgdata={folder}/data", "--username=hpo", f"--pwfile={folder}/password"]
        settings = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run([*initdb, *settings], stdin=subprocess.DEVNULL, capture_output=True, check=True, **self.as_user)
        self.process: subprocess.Popen[bytes] | None = None
        self.numbers = itertools.count()

    def url(self, database: str) -> str:
        return f"postgresql://hpo:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Returns once it answers."""
        assert self.process is None
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        command = [f"{self.bin}/postgres", "-D", f"{self.folder}/data"]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        for _ in range(20):
            with (self.folder / "log").open("ab") as log:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.as_user)
            while process.poll() is None:
                with suppress(psycopg.OperationalError):
                    self.connect().close()
                    self.process = process
                    return
                time.sleep(0.05)
            time.sleep(0.5)  # something of its last life was still in its way
        raise AssertionError((self.folder / "log").read_text())

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends every connection. SIGQUIT: without a checkpoint, as a power cut would."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait()
        self.process = None

    def restart(self, down_seconds: float = 0.0, how: signal.Signals = signal.SIGINT) -> None:
        self.stop(how)
        time.sleep(down_seconds)
        self.start()

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A connection of one's own, to look behind the program."""
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=10)

    @contextmanager
    def database(self, template: str = "template1") -> Iterator["Database"]:
        """A new one, with the tables of another; gone afterwards, whoever is still connected."""
        name = f"test_{next(self.numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield Database(self, name)
        finally:
            if self.process is None:
                self.start()
            with self.connect() as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass(frozen=True)
class Database:
    """One of its databases, and the server that it is on."""

    server: PostgresServer
    name: str

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    def connect(self) -> psycopg.Connection[Any]:
        return self.server.connect(self.name)

    def start(self) -> None:
        self.server.start()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        self.server.stop(how)

    def restart(self, down_seconds: float = 0.0, how: signal.Signals = signal.SIGINT) -> None:
        self.server.restart(down_seconds, how)


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Starts one in a folder that its user can reach, which pytest's are not for another user."""
    with tempfile.TemporaryDirectory(prefix="hpo-postgres-") as folder:
        server = PostgresServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            if server.process:
                server.stop(signal.SIGQUIT)
