"""What goes on, on a terminal in place and in a log now and then: no work is long without a word of how far it is."""

import io
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from hpo.plain_text import markup, printable

# Times a second that a terminal is drawn anew. Drawing takes the driver some milliseconds, and it may be training.
REFRESHES = 2
# Seconds of silence after which a log is told how far it is; and at the latest, however much else is said meanwhile.
SILENCE, TOLD_EVERY = 60.0, 300.0
# The same for the first word of work that tells no events, which mostly takes no longer.
PATIENCE = 3.0


def standard_output() -> Console:
    """The terminal, pipe or file that this program writes to. What its encoding does not have is spelt out."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False, soft_wrap=False)


class Ongoing:
    """Within it, something is shown to go on: drawn in place on a terminal, and told as lines anywhere else."""

    def __init__(
        self,
        console: Console,
        drawn: Callable[[], RenderableType],
        told: Callable[[], str],
        *,
        first: float | None = None,
    ) -> None:
        """
        Args:
            drawn: what a terminal shows, asked for from another thread.
            told: lines in rich's markup for a log, asked for from another thread.
            first: seconds of silence before the first line; default: as before every other one.
        """
        self._console, self._told = console, told
        self._left = threading.Event()
        now = time.monotonic()
        self._said = now if first is None else now + first - SILENCE
        self._last_told = now
        self._live: Live | None = None
        self._thread: threading.Thread | None = None
        if console.is_interactive:
            self._live = Live(
                get_renderable=drawn,
                console=console,
                refresh_per_second=REFRESHES,
                transient=True,
                redirect_stderr=False,
            )
        else:
            self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start(refresh=True)
        elif self._thread:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._left.set()
        if self._live:
            self._live.stop()
        elif self._thread:
            self._thread.join()

    def print(self, line: str) -> None:
        """A line above what goes on, in rich's markup."""
        self._said = time.monotonic()
        self._console.print(line)

    def _tell(self) -> None:
        while not self._left.wait(max(0.0, self._due - time.monotonic())):
            if time.monotonic() >= self._due:  # nothing else was said meanwhile
                self.print(self._told())
                self._last_told = self._said

    @property
    def _due(self) -> float:
        return min(self._said + SILENCE, self._last_told + TOLD_EVERY)


class Status:
    """What is being done while no trial runs, until something else is shown."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._ongoing: Ongoing | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def tell(self, text: str) -> None:
        """Shows a line such as `reading data and models`, with its time. In a log only if it takes its time."""
        self.close()
        began = time.monotonic()

        def took() -> str:
            return format_seconds(time.monotonic() - began)

        self._ongoing = Ongoing(
            self.console,
            lambda: Text.assemble(("now     ", "dim"), f"{printable(text)}  ", (took(), "dim"), overflow="ellipsis"),
            lambda: f"[dim]now[/]     {markup(text)} ({took()} so far)",
            first=PATIENCE,
        )
        self._ongoing.__enter__()

    def close(self) -> None:
        """Shows nothing any more."""
        if self._ongoing:
            self._ongoing.__exit__(None, None, None)
            self._ongoing = None


def format_seconds(seconds: float) -> str:
    """`48s`, `3:05`, `1:02:03`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def score_text(score: float | None) -> str:
    """Four digits, or a dash where there is no score."""
    return "-" if score is None or score != score else f"{score:.4f}"
