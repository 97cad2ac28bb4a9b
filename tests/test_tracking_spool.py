"""The spool: what is in it stays in order and whole, whoever dies; nobody sends what another one sends."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.tracking_spool import CHUNK, Entry, Spool, SpoolFile


def entries(steps: range) -> list[Entry]:
    return [Entry("log_batch", "run", {"metrics": [["loss", 0.1 * step, 5, step]]}) for step in steps]


def rest(spool: Spool | SpoolFile) -> list[Entry]:
    found = list[Entry]()
    while some := spool.next():
        assert len(some) <= CHUNK
        found += some
        spool.advance()
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", "http://server")


def test_what_comes_in_comes_out_in_order_and_then_nothing_is_left(spool: Spool) -> None:
    assert spool.is_empty and spool.next() == [] and not spool.folder.exists()
    spool.append(entries(range(1500)))
    assert not spool.is_empty
    first = spool.next()
    assert spool.next() == first  # sending it failed
    spool.append(entries(range(1500, 2500)))
    spool.sync()
    assert rest(spool) == entries(range(2500))
    assert spool.is_empty and list(spool.folder.iterdir()) == []
    spool.append(entries(range(3)))
    assert rest(spool) == entries(range(3))


def test_values_that_json_does_not_know_come_back(spool: Spool) -> None:
    values = [float("inf"), float("-inf"), 0.1 + 0.2, 1e-300]
    spool.append([Entry("log_batch", "run", {"metrics": [["ü\n{", value, 5, 1] for value in values]})])
    assert [point[1] for point in spool.next()[0].arguments["metrics"]] == values


def test_a_process_sees_what_dead_ones_left_for_its_address_and_not_what_living_ones_have(tmp_path: Path) -> None:
    mine, other, elsewhere, dead = (
        Spool(tmp_path / "spool", address) for address in ("http://a", "http://a", "http://b", "http://a")
    )
    for number, spool in enumerate((mine, other, elsewhere, dead)):
        spool.append(entries(range(number + 1)))
    assert list(mine.left()) == []
    assert mine.waiting() == {"http://a": 1}
    for spool in (elsewhere, dead):
        assert spool._own is not None
        spool._own.release()
    assert mine.waiting() == {"http://a": 1 + 4, "http://b": 3}
    for file in mine.left():
        assert rest(file) == entries(range(4))
        assert list(other.left()) == []  # for it is being sent
        file.remove()
    assert list(mine.left()) == []
    assert mine.waiting() == {"http://a": 1, "http://b": 3}


def test_who_stops_on_the_way_leaves_it_to_others(spool: Spool) -> None:
    left = SpoolFile.create(spool.folder, "http://server")
    left.append(entries(range(2000)))
    left.release()
    with pytest.raises(ConnectionError):
        for file in spool.left():
            file.next()
            file.advance()
            raise ConnectionError
    (again,) = spool.left()
    assert rest(again) == entries(range(2000))  # all of it, for who knows what became of the rest


def test_half_a_line_and_a_damaged_one_are_left_out(spool: Spool) -> None:
    for content in (b'{"do": "log_batch", "run', b"", b'{"for": "http'):
        left = SpoolFile.create(spool.folder, "http://server")
        if content == b'{"for": "http':
            left.path.write_bytes(content)  # killed before it had written anything else
        else:
            left.append(entries(range(3)))
            left.path.write_bytes(left.path.read_bytes() + b"\0\0\0\n[1]\n" + content)
        left.release()
    assert spool.waiting() == {"http://server": 6}
    found = []
    for file in spool.left():
        found += rest(file)
        file.remove()
    assert found == entries(range(3)) * 2
    assert list(spool.folder.iterdir()) == []


def test_a_full_disk_leaves_no_half_line(spool: Spool) -> None:
    spool.append(entries(range(10)))
    assert spool._own is not None
    size = spool._own.path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(OSError):
            spool.append(entries(range(10, 20)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert spool._own.path.stat().st_size == size
    spool.append(entries(range(20, 30)))
    assert rest(spool) == [*entries(range(10)), *entries(range(20, 30))]


KILLED = """
import sys
from pathlib import Path
from hpo.tracking_spool import Entry, Spool

spool = Spool(Path(sys.argv[1]), "http://server")
for step in range(10**6):
    spool.append([Entry("log_batch", "run", {"metrics": [["loss", 0.1 * step, 5, step]]})])
    if step == 1000:
        print("many", flush=True)
"""


def test_sigkill_while_it_is_written_costs_at_most_the_last_line(spool: Spool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(spool.folder)], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
    )
    assert process.stdout is not None and process.stdout.readline() == b"many\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (file,) = spool.left()
    found = rest(file)
    assert len(found) > 1000 and found == entries(range(len(found)))
