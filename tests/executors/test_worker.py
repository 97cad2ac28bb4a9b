"""What a driver makes of what its workers tell, wherever they are."""

import time

import pytest

from hpo.events import TrialEnded, TrialStarted, Waits
from hpo.executors.worker import Call


def test_a_trial_has_its_time_from_its_start_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    call = Call(limit=30.0)
    clock[0] += 1000  # its worker is new, and imports
    assert not call.hangs
    call.hear(TrialStarted(0, {}))
    clock[0] += 39
    assert not call.hangs
    call.hear(Waits(0, None, 0.0))
    clock[0] += 39
    assert not call.hangs
    clock[0] += 2
    assert call.hangs and call.number == 0
    call.hear(TrialEnded(0, "COMPLETE", None, 1.0, {}, 1.0, 70.0, False, None))
    assert call.hangs and call.number is None  # its worker has still to say that it is free
    assert not Call(limit=None).hangs
