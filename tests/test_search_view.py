"""The live view as text: 80 columns, many trials, no colour, and no more than ASCII where there is no more."""

import io

import pytest
from rich.console import Console

from hpo.events import Evaluated, StepDone, TrialEnded, TrialStarted, Waits
from hpo.progress import StudyProgress
from hpo.search_view import MOST_ROWS, drawn, told


def a_search(running: int, label: str | None = None) -> StudyProgress:
    """One that has ended two trials; of those that run the first loads, and the second waits."""
    progress = StudyProgress(40, "maximize", workers=running)
    for number, state in enumerate(("COMPLETE", "PRUNED")):
        progress.take(TrialStarted(number, {}))
        progress.take(Evaluated(number, 1, 0.7))
        reason = "fell behind" if number else None
        progress.take(TrialEnded(number, state, reason, 0.7, {}, 0.25 if number else 1.0, 61.0, False, None))
    for number in range(2, 2 + running):
        progress.take(TrialStarted(number, {}, label))
        if number == 3:
            progress.take(Waits(number, None, 0.0))
        if number > 3:
            progress.take(Evaluated(number, 1, 0.6 + 0.02 * number))
            progress.take(StepDone(number, 12_000 + number, 60_000))
    return progress


def lines(progress: StudyProgress, encoding: str = "utf-8") -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=80, color_system=None, force_terminal=True).print(drawn(progress))
    stream.seek(0)
    return [line.rstrip() for line in stream.read().splitlines()]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("label", [None, "finalist 12, seed 3"])
def test_many_trials_fit(encoding: str, label: str | None) -> None:
    shown = lines(a_search(12, label), encoding)
    assert max(map(len, shown)) <= 80
    name = label or "trial"
    rows = [line for line in shown if line.startswith(name)]
    assert len(rows) == MOST_ROWS
    assert len(shown) == MOST_ROWS + 5
    assert "and 4 more running" in shown
    assert rows[0].endswith("loads") and rows[1].endswith("waits for memory")
    assert rows[2].endswith("12004/60000 20% 0.6800 (median 0.7000, below)")


def test_before_the_first_trial() -> None:
    shown = lines(StudyProgress(3, "maximize"))
    assert shown[1].split()[0] == "search" and shown[1].endswith("0/3 0% 0s so far")
    assert shown[2:] == ["no trial runs yet"]


def test_a_log_is_told_in_two_lines() -> None:
    for running in (0, 1, 2, 12):
        text = told(a_search(running), 80).replace("[dim]", "").replace("[/]", "")
        assert max(map(len, text.splitlines())) <= 80
        assert text.startswith("search    2 of 40 trials, 5%, 0s so far, about ") or running > 2
        assert len(text.splitlines()) == 2 - (running == 0)
    assert "trial 2 0%, trial 3 0%, trial 4 20% 0.6800 below, " in text and text.endswith(" more")


def test_of_one_that_runs_a_log_is_told_all() -> None:
    progress = StudyProgress(4, "minimize")
    progress.take(TrialStarted(0, {}))
    assert told(progress, 80).splitlines()[1] == "[dim]running   trial 0 loads[/]"
    progress.take(StepDone(0, 3, 10))
    assert told(progress, 80).splitlines()[1] == "[dim]running   trial 0 step 3/10, not scored yet[/]"
    progress.take(Evaluated(0, 1, 0.25))
    assert told(progress, 80).splitlines()[1] == "[dim]running   trial 0 step 3/10, 0.2500[/]"
