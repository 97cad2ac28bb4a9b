"""Ctrl-C, and a scheduler's SIGTERM, heard between two steps, where they break nothing.

Raised wherever it falls, it can leave a database with half a transaction, for whose end this very process then waits.
And Python drops it altogether while garbage is collected: a study of short steps would lose every other Ctrl-C to that.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class CtrlC:
    """Within it the first Ctrl-C waits until somebody looks, at the latest for its end; a second one raises at once."""

    def __init__(self) -> None:
        self._pressed = False

    def __enter__(self) -> Self:
        if self._is_main:
            self._before = [signal.signal(number, self._press) for number in SIGNALS]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_main:
            for number, before in zip(SIGNALS, self._before, strict=True):
                signal.signal(number, before)
        if error is None:
            self.check()

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed."""
        if self._pressed:
            raise KeyboardInterrupt

    @property
    def _is_main(self) -> bool:
        return threading.current_thread() is threading.main_thread()  # no other one may take signals

    def _press(self, number: int, frame: FrameType | None) -> None:
        self.check()
        self._pressed = True


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Within it SIGTERM is a Ctrl-C where nobody waits for it: what runs is ended, and told."""

    def press(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
