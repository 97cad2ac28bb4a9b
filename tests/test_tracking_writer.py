"""The thread that sends: order is kept, what waits leaves together, nothing is lost, and errors find the caller."""

import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest

from hpo.tracking_writer import MAX_WAITING, Batch, Writer


class Store:
    """What has been sent. It is slow while it is `closed`, as a database that another process writes to."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, Batch]] = []
        self.busy, self._open = threading.Event(), threading.Event()
        self._open.set()

    def send(self, run_id: str, batch: Batch) -> None:
        self.batches.append((run_id, batch))
        self.busy.set()
        assert self._open.wait(30)

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def metrics(self, run_id: str) -> list[int]:
        return [metric for run, batch in self.batches if run == run_id for metric in batch.metrics]


@pytest.fixture
def store() -> Store:
    return Store()


def test_order_is_kept_and_nothing_dropped(store: Store) -> None:
    writer = Writer(store.send)
    for step in range(5000):
        writer.log("run", metrics=[step])
    writer.flush()
    assert store.metrics("run") == list(range(5000))


def test_what_waits_for_a_run_leaves_as_one_batch(store: Store) -> None:
    writer = Writer(store.send)
    store.close()
    writer.log("a", metrics=[0])
    assert store.busy.wait(30)
    writer.log("a", params=["p"])
    writer.log("b", metrics=[10])
    writer.log("a", metrics=[1, 2], tags=["t"])
    writer.log("a", metrics=[3])
    store.open()
    writer.flush()
    assert store.batches == [
        ("a", Batch(metrics=[0])),
        ("a", Batch(metrics=[1, 2, 3], params=["p"], tags=["t"])),
        ("b", Batch(metrics=[10])),
    ]


def test_what_is_logged_leaves_without_being_asked_for(store: Store) -> None:
    Writer(store.send).log("run", metrics=[0])
    assert store.busy.wait(30)


def test_an_action_comes_after_what_was_logged_before_it(store: Store) -> None:
    writer = Writer(store.send)
    seen: list[list[int]] = []
    for step in range(100):
        writer.log("run", metrics=[step])
        if step in (10, 50):
            writer.later(lambda: seen.append(store.metrics("run")))
    writer.flush()
    first, second = seen
    assert first[:11] == list(range(11)) and second[:51] == list(range(51))


def test_who_logs_waits_when_too_much_is_waiting() -> None:
    sizes: list[int] = []

    def slow(run_id: str, batch: Batch) -> None:
        sizes.append(len(batch))
        threading.Event().wait(0.01)

    writer = Writer(slow)
    for _ in range(50):
        writer.log("run", metrics=list(range(1000)))
    writer.flush()
    assert sum(sizes) == 50_000
    assert max(sizes) <= MAX_WAITING + 1000


def test_an_error_is_raised_with_its_traceback_and_once(store: Store) -> None:
    def send(run_id: str, batch: Batch) -> None:
        raise ZeroDivisionError("in the thread")

    writer = Writer(send)
    with pytest.raises(ZeroDivisionError, match="in the thread") as raised:
        writer.log("run", metrics=[0])
        writer.flush()
    assert "send" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    writer.flush()


def test_a_call_that_tells_of_an_error_is_done_all_the_same(store: Store) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    writer = Writer(store.send)
    store.close()
    writer.log("run", metrics=[0])
    writer.later(fail)  # does not fail yet, for the thread is busy
    store.open()
    writer._thread.submit(int).result()
    with pytest.raises(ZeroDivisionError):
        writer.log("run", metrics=[1])
    writer.flush()
    assert store.metrics("run") == [0, 1]


PROGRAM = """
import signal, sys, time
from pathlib import Path
from hpo.tracking_writer import Writer

signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell started the tests with `&`, it is ignored

def send(run_id, batch):
    time.sleep(0.1)
    if batch.tags:
        raise ZeroDivisionError
    with Path(sys.argv[1]).open("a") as file:
        file.writelines(f"{metric}\\n" for metric in batch.metrics)

writer = Writer(send)
for step in range(100):
    writer.log("run", metrics=[step])
writer.later(lambda: send("run", type("Last", (), {"metrics": ["end"], "tags": []})))
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
