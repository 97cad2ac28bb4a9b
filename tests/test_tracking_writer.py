"""The thread that sends: order is kept, what waits leaves together, nothing is lost, and errors find the caller."""

import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpo import tracking_writer
from hpo.tracking_spool import Entry, Spool
from hpo.tracking_writer import MAX_BATCH, MAX_WAITING, Writer


class Store:
    """What has been sent. It is slow while it is `closed`, as a database that another process writes to."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.is_away = False
        self.busy, self._open = threading.Event(), threading.Event()
        self._open.set()

    def send(self, entry: Entry) -> None:
        self.busy.set()
        if self.is_away:
            raise ConnectionError
        if "bad" in entry.arguments.get("tags", ()):
            raise ZeroDivisionError("in the store")
        self.entries.append(entry)
        assert self._open.wait(30)

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def metrics(self, run_id: str) -> list[int]:
        batches = [entry.arguments.get("metrics", ()) for entry in self.entries if entry.run == run_id]
        return [metric for batch in batches for metric in batch]


@pytest.fixture
def store() -> Store:
    return Store()


MakeWriter = Callable[..., Writer]


@pytest.fixture
def make(tmp_path: Path) -> MakeWriter:
    def make(send: Callable[[Entry], object]) -> Writer:
        spool = Spool(tmp_path / "spool", "http://server")
        return Writer(send, lambda error: isinstance(error, ConnectionError), spool)

    return make


def batch(run: str, **arguments: Any) -> Entry:
    return Entry("log_batch", run, {"metrics": [], "params": [], "tags": []} | arguments)


def test_order_is_kept_and_nothing_dropped(store: Store, make: MakeWriter) -> None:
    writer = make(store.send)
    for step in range(5000):
        writer.log("run", metrics=[step])
    writer.flush()
    assert store.metrics("run") == list(range(5000))


def test_what_waits_for_a_run_leaves_as_one_batch(store: Store, make: MakeWriter, tmp_path: Path) -> None:
    writer = make(store.send)
    store.close()
    writer.log("a", metrics=[0])
    assert store.busy.wait(30)
    writer.log("a", params=["p"])
    writer.log("b", metrics=[10])
    writer.log("a", metrics=[1, 2], tags=["t"])
    writer.log("a", metrics=[3])
    store.open()
    writer.flush()
    assert store.entries == [
        batch("a", metrics=[0]),
        batch("a", metrics=[1, 2, 3], params=["p"], tags=["t"]),
        batch("b", metrics=[10]),
    ]
    assert not (tmp_path / "spool").exists()  # nothing is written to disk while the store answers


def test_what_is_logged_leaves_without_being_asked_for(store: Store, make: MakeWriter) -> None:
    make(store.send).log("run", metrics=[0])
    assert store.busy.wait(30)


def test_an_action_comes_after_what_was_logged_before_it(store: Store, make: MakeWriter) -> None:
    writer = make(store.send)
    store.close()
    for step in range(100):
        writer.log("run", metrics=[step])
        if step in (10, 50):
            writer.later(Entry("set_terminated", "run", {"status": str(step)}))
    store.open()
    writer.flush()
    seen = list[int]()
    ends = {}
    for entry in store.entries:
        seen += entry.arguments.get("metrics", ())
        if entry.do == "set_terminated":
            ends[entry.arguments["status"]] = list(seen)
    assert ends == {"10": list(range(11)), "50": list(range(51))}
    assert seen == list(range(100))


def test_who_logs_waits_when_too_much_is_waiting(make: MakeWriter) -> None:
    sizes: list[int] = []
    writer: Writer

    def slow(entry: Entry) -> None:
        sizes.append(entry.points)
        assert writer._points <= MAX_WAITING + 1000
        threading.Event().wait(0.01)

    writer = make(slow)
    for _ in range(50):
        writer.log("run", metrics=list(range(1000)))
    writer.flush()
    assert sum(sizes) == 50_000
    assert max(sizes) <= MAX_BATCH


def test_an_error_is_raised_with_its_traceback_and_once(make: MakeWriter) -> None:
    def send(entry: Entry) -> None:
        raise ZeroDivisionError("in the thread")

    writer = make(send)
    with pytest.raises(ZeroDivisionError, match="in the thread") as raised:
        writer.log("run", metrics=[0])
        writer.flush()
    assert "send" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    writer.flush()


def test_a_call_that_tells_of_an_error_is_done_all_the_same(store: Store, make: MakeWriter) -> None:
    writer = make(store.send)
    store.close()
    writer.log("run", metrics=[0])
    writer.log("run", tags=["bad"])  # does not fail yet, for the thread is busy
    store.open()
    writer._thread.submit(int).result()
    with pytest.raises(ZeroDivisionError):
        writer.log("run", metrics=[1])
    writer.flush()
    assert store.metrics("run") == [0, 1]


def test_what_is_refused_spoils_nothing_that_waits_beside_it(store: Store, make: MakeWriter) -> None:
    writer = make(store.send)
    store.close()
    writer.log("other", metrics=[0])
    assert store.busy.wait(30)
    for step in range(5):
        writer.log("run", metrics=[step], tags=["bad"] if step == 2 else [])
    store.open()
    with pytest.raises(ZeroDivisionError):
        writer.flush()
    assert store.metrics("run") == [0, 1, 3, 4]


def test_nobody_waits_while_the_store_is_away_and_then_all_is_sent_in_order(
    store: Store, make: MakeWriter, tmp_path: Path
) -> None:
    writer = make(store.send)
    writer.log("run", metrics=[0])
    writer.flush()
    store.is_away = True
    for step in range(1, 3000):
        writer.log("run", metrics=[step])
        if step % 1000 == 0:
            writer.flush()
    assert writer.is_away and store.metrics("run") == [0]
    (file,) = (tmp_path / "spool").glob("*.jsonl")
    assert file.read_bytes().count(b"log_batch") > 1500  # some went in one batch, before it was known
    writer.later(Entry("set_terminated", "run", {"status": "FINISHED"}))
    writer.flush()
    assert not writer.catch_up()
    store.is_away = False
    assert not writer.catch_up()  # it was in vain just now
    writer.log("run", metrics=[3000])  # still after the others
    deadline = time.monotonic() + 40
    while writer.is_away:  # without being asked
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.log("run", metrics=[3001])
    writer.flush()
    assert store.metrics("run") == list(range(3002))
    assert store.entries[-3].do == "set_terminated"
    assert list((tmp_path / "spool").iterdir()) == []
    assert max(entry.points for entry in store.entries) <= MAX_BATCH


def test_it_can_be_asked_to_try_now(store: Store, make: MakeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_writer, "FIRST_DELAY", 1000)
    writer = make(store.send)
    for step, recent in enumerate([0, 1000]):
        monkeypatch.setattr(tracking_writer, "RECENT", recent)
        store.is_away = True
        writer.log("run", metrics=[step])
        writer.flush()
        store.is_away = False
        assert writer.catch_up(answers=recent > 0)
    assert store.metrics("run") == [0, 1]


def test_what_the_disk_does_not_take_either_is_told_and_stays_in_memory(
    store: Store, make: MakeWriter, tmp_path: Path
) -> None:
    (tmp_path / "spool").write_text("no folder")
    writer = make(store.send)
    store.is_away = True
    with pytest.raises(FileExistsError):
        writer.log("run", metrics=[0])
        writer.flush()
    store.is_away = False
    writer.log("run", metrics=[1])
    writer.flush()
    assert store.metrics("run") == [0, 1]


PROGRAM = """
import signal, sys, time
from pathlib import Path
from hpo.tracking_spool import Entry, Spool
from hpo.tracking_writer import Writer

signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell started the tests with `&`, it is ignored

def send(entry):
    time.sleep(0.1)
    if entry.arguments.get("tags"):
        raise ZeroDivisionError
    with Path(sys.argv[1]).open("a") as file:
        file.writelines(f"{metric}\\n" for metric in entry.arguments.get("metrics", ["end"]))

writer = Writer(send, lambda error: False, Spool(Path(sys.argv[1] + "-spool"), "http://server"))
for step in range(100):
    writer.log("run", metrics=[step])
writer.later(Entry("set_terminated", "run", {}))
"""


def end_by(last_line: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM + last_line, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize(
    ("last_line", "code"),
    [("", 0), ("sys.exit(3)", 3), ("raise ValueError", 1), ("signal.raise_signal(signal.SIGINT)", -2)],
)
def test_nothing_is_lost_at_exit(tmp_path: Path, last_line: str, code: int) -> None:
    assert end_by(last_line, tmp_path / "sent").returncode == code
    assert (tmp_path / "sent").read_text().split() == [*map(str, range(100)), "end"]


def test_an_error_after_the_last_call_is_told_at_exit(tmp_path: Path) -> None:
    told = end_by("writer.log('run', tags=['bad'])", tmp_path / "sent").stderr
    assert "in send" in told and "ZeroDivisionError" in told


@pytest.mark.parametrize("last_line", ["", "sys.exit(3)", "raise ValueError", "signal.raise_signal(signal.SIGINT)"])
def test_the_end_of_the_program_waits_for_no_store_that_is_away(tmp_path: Path, last_line: str) -> None:
    path = tmp_path / "sent"
    program = PROGRAM.replace("lambda error: False", "lambda error: True") + "writer.log('run', tags=['bad'])\n"
    command = [sys.executable, "-c", program + last_line, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=Path(__file__).parent.parent)
    spool = Spool(Path(f"{path}-spool"), "http://server")
    (file,) = spool.left()
    left = file.next()
    assert left[-1].arguments["tags"] == ["bad"]
    sent = path.read_text().split() if path.exists() else []
    waiting = [str(metric) for entry in left for metric in entry.arguments.get("metrics", ["end"])]
    assert [step for step in sent if step not in waiting] + waiting == [*map(str, range(100)), "end"]
    (told,) = [line for line in done.stderr.splitlines() if "does not answer" in line]
    assert told.startswith(f"MLflow (http://server) does not answer: {len(left)} entries wait in {spool.folder}. ")
