"""Ctrl-C, heard wherever it falls.

Python drops an exception that is raised while garbage is collected or a finalizer runs, and tells it as `Exception
ignored in ...`. A study of short steps loses every other Ctrl-C to that.
"""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self


class CtrlC:
    """Within it Ctrl-C raises KeyboardInterrupt as always, and is remembered until somebody looks."""

    def __init__(self) -> None:
        self._pressed = False

    def __enter__(self) -> Self:
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._drop
        if self._is_main:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        sys.unraisablehook = self._hook
        if self._is_main:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raises the KeyboardInterrupt that was dropped, if one was."""
        if self._pressed:
            raise KeyboardInterrupt

    @property
    def _is_main(self) -> bool:
        return threading.current_thread() is threading.main_thread()  # no other one may take signals

    def _press(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        raise KeyboardInterrupt

    def _drop(self, told: "sys.UnraisableHookArgs") -> None:
        if not issubclass(told.exc_type, KeyboardInterrupt):
            self._hook(told)
