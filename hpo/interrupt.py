"""Ctrl-C, heard where it breaks nothing: between two steps.

Raised wherever it falls, it can leave a database with half a transaction, for whose end this very process then waits.
And Python drops it altogether while garbage is collected: a study of short steps would lose every other Ctrl-C to that.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class CtrlC:
    """Within it the first Ctrl-C waits until somebody looks, at the latest for its end; a second one raises at once."""

    def __init__(self) -> None:
        self._pressed = False

    def __enter__(self) -> Self:
        if self._is_main:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_main:
            signal.signal(signal.SIGINT, self._before)
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
