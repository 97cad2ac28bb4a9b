"""Ctrl-C within `CtrlC`: remembered, heard at the latest at its end, and at once when pressed again."""

import signal

import pytest

from hpo.interrupt import CtrlC


def test_it_is_heard_when_somebody_looks() -> None:
    with pytest.raises(KeyboardInterrupt), CtrlC() as ctrl_c:
        ctrl_c.check()
        signal.raise_signal(signal.SIGINT)
        ctrl_c.check()
        pytest.fail("heard nothing")


def test_it_is_heard_at_the_end_where_nobody_looks_any_more() -> None:
    """Such as in the last evaluation of `hpo.train`."""
    reached = False
    with pytest.raises(KeyboardInterrupt), CtrlC():
        signal.raise_signal(signal.SIGINT)
        reached = True
    assert reached


def test_an_error_of_the_time_between_is_told() -> None:
    with pytest.raises(ValueError, match="ours"), CtrlC():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("ours")


def test_pressed_again_it_raises_at_once() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), CtrlC():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        reached = True
    assert not reached


def test_afterwards_it_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with CtrlC():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
