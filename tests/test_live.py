"""Work without events is told of all the same, on a terminal and in a log, in whatever that can hold."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from hpo import live
from hpo.live import Status

ROOT = Path(__file__).parent.parent


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=80, force_terminal=terminal, highlight=False, color_system=None), stream


def test_a_log_is_told_of_long_work_and_not_of_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.2)
    made, stream = console(terminal=False)
    with Status(made) as status:
        status.tell("something short")
        status.tell("reading [data]")
        deadline = time.monotonic() + 10
        while "so far" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        status.tell("something short again")
    assert stream.getvalue() == "now     reading [data] (0s so far)\n"


def test_a_terminal_shows_all_of_it_and_is_left_as_it_was() -> None:
    made, stream = console(terminal=True)
    with Status(made) as status:
        status.tell("loading libraries")
        status.tell("reading \x1b[31mdata")
        status.close()
        status.close()
    text = stream.getvalue()
    assert "now     loading libraries  0s" in text and r"reading \x1b[31mdata  0s" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 2  # the cursor
    assert text.endswith("\x1b[2K")


def test_a_mistake_meanwhile_ends_it() -> None:
    made, stream = console(terminal=True)
    with pytest.raises(ValueError), Status(made) as status:
        status.tell("reading data")
        raise ValueError
    assert stream.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_encoding_of_a_log_does_not_have_is_spelt_out(encoding: str) -> None:
    program = "from hpo.live import standard_output; standard_output().print('caf\\u00e9 \\u4e2d')"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "café 中".encode(encoding, errors="backslashreplace")


def test_a_dumb_terminal_is_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(live, "PATIENCE", 0.0)
    made, stream = console(terminal=True)
    with Status(made) as status:
        status.tell("reading data")
        deadline = time.monotonic() + 10
        while not stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert re.fullmatch(r"now     reading data \(0s so far\)\n", stream.getvalue())
