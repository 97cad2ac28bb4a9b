"""What MLflow could not take yet, kept on disk: a file a process in `spool/`, on each line one thing to be done.

Doing a thing twice changes nothing. So a file whose sender was killed is sent from its beginning again.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

LOG_BATCH = "log_batch"
CHUNK = 1000  # lines that are read at once


@dataclass(frozen=True)
class Entry:
    """One thing to be done in MLflow, as data."""

    do: str
    """A method of `tracking_store.TrackingStore`."""
    run: str
    """The run's id, or a stand-in for it."""
    arguments: dict[str, Any]

    @property
    def points(self) -> int:
        """What it takes in memory, in metrics, params and tags."""
        return sum(map(len, self.arguments.values())) if self.do == LOG_BATCH else 1


class SpoolFile:
    """Entries in the order in which they came. They are sent by who holds its lock, which no dead process does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_suffix(".lock")
        # Not of a thread: one appends, another sends, and at exit a third may be the last to know it.
        self._lock = FileLock(self._lock_path, thread_local=False)
        self._sent = self._end = 0

    @classmethod
    def create(cls, folder: Path, address: str) -> "SpoolFile":
        folder.mkdir(exist_ok=True)
        made = cls(folder / f"{time.time_ns():020}-{os.getpid()}-{uuid4().hex[:8]}.jsonl")
        made.lock()
        made._append([{"for": address}])
        return made

    def lock(self) -> bool:
        """Whether nobody else is at it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    @property
    def address(self) -> str:
        """What it is to be sent to; nothing if its process was killed before it had written that."""
        with self.path.open("rb") as file:
            return str(_parsed(file.readline()).get("for", ""))

    def append(self, entries: Iterable[Entry]) -> None:
        self._append(map(asdict, entries))

    def _append(self, records: Iterable[dict[str, Any]]) -> None:
        left = memoryview("".join(json.dumps(record) + "\n" for record in records).encode())
        with self.path.open("ab", buffering=0) as file:
            whole = file.tell()
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(whole)  # or what comes next would continue half a line
                raise

    def sync(self) -> None:
        """Waits until it is on the disk itself."""
        for path in (self.path, self.path.parent):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def next(self) -> list[Entry]:
        """The entries that come next, none at the end; the same again until `advance`.

        Half a line at the end is not there, nor is a line that a power failure made unreadable.
        """
        entries, self._end = list[Entry](), self._sent
        with self.path.open("rb") as file:
            file.seek(self._sent)
            for line in file:
                if len(entries) == CHUNK or not line.endswith(b"\n"):
                    break
                self._end += len(line)
                record = _parsed(line)
                if "do" in record:
                    entries.append(Entry(**record))
        return entries

    def advance(self) -> None:
        """What `next` gave is sent."""
        self._sent = self._end

    def __len__(self) -> int:
        """The entries that are not sent yet."""
        with self.path.open("rb") as file:
            file.seek(self._sent)
            return sum("do" in _parsed(line) for line in file if line.endswith(b"\n"))

    def release(self) -> None:
        self._lock.release()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.release()
        self._lock_path.unlink(missing_ok=True)


class Spool:
    """The spool folder as one process sees it: its own file, while there is one, and those that dead ones left."""

    def __init__(self, folder: Path, address: str) -> None:
        """`address` is what the entries are for, without a password."""
        self.folder, self.address = folder, address
        self._own: SpoolFile | None = None
        self._is_synced = True

    @property
    def is_empty(self) -> bool:
        """Of what this process has to send."""
        return self._own is None

    def append(self, entries: Iterable[Entry]) -> None:
        if self._own is None:
            self._own = SpoolFile.create(self.folder, self.address)
        self._is_synced = False
        self._own.append(entries)

    def sync(self) -> None:
        """Waits until all of it is on the disk itself."""
        if self._own is not None and not self._is_synced:
            self._own.sync()
            self._is_synced = True

    def next(self) -> list[Entry]:
        """As `SpoolFile.next`, of this process's own file, which goes with its last entry."""
        entries = self._own.next() if self._own is not None else []
        if self._own is not None and not entries:
            self._own.remove()
            self._own = None
        return entries

    def advance(self) -> None:
        assert self._own is not None
        self._own.advance()

    def left(self) -> Iterator[SpoolFile]:
        """The files of dead processes for this address, the oldest first, each locked while it is looked at."""
        for file in self._unlocked():
            if file.address in ("", self.address):
                yield file

    def _unlocked(self) -> Iterator[SpoolFile]:
        for path in sorted(self.folder.glob("*.jsonl")):
            if self._own is not None and path == self._own.path:
                continue
            file = SpoolFile(path)
            if not file.lock():
                continue
            try:
                if path.exists():
                    yield file
            finally:
                file.release() if path.exists() else file.remove()

    def waiting(self) -> Counter[str]:
        """How many entries wait for each address, those of other living processes left out."""
        found = Counter[str]()
        for file in self._unlocked() if self.folder.is_dir() else ():
            found[file.address] += len(file)
        if self._own is not None:
            found[self.address] += len(self._own)
        return +found


def _parsed(line: bytes) -> dict[str, Any]:
    """The record of a line, an empty one if it is damaged."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
