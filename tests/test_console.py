"""What the terminal shows, in 80 columns, on a terminal and in a pipe."""

import dataclasses
import io
import re
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from hpo.console import StudyConsole, fold, parameters, short, ui_command
from hpo.events import Evaluated, StepDone, TrialEnded, TrialStarted, Waits
from hpo.facts import DataFacts, MachineFacts, ModelFacts, StudyFacts
from hpo.live import format_seconds, score_text
from hpo.spec import StudySpec

FACTS = StudyFacts(
    DataFacts({"train": 2400, "validation": 1000, "test": 1066}, ["neg", "pos"], "f" * 64, ["a note"]),
    ModelFacts("some/model", 22_713_986, "sha256:0", ["classifier", "bert.pooler"]),
    MachineFacts("a CPU", "bf16", {}),
    {"some/model": "sha256:0"},
)


def shown(spec: StudySpec, *, terminal: bool, notice: str | None = None) -> tuple[StudyConsole, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=terminal, highlight=False, color_system=None)
    return StudyConsole(spec, Path("mlruns"), notice, console), stream


def ended(number: int, state: str, score: float | None, reason: str | None = None) -> TrialEnded:
    return TrialEnded(number, state, reason, score, {"eval/f1_macro": 0.5}, 0.25, 61.0, number == 0, None)


def test_header_says_what_runs_on_what(spec: StudySpec) -> None:
    console, stream = shown(spec, terminal=False, notice="FALLBACK: another study runs")
    console.header(optuna.create_study(direction="maximize"), FACTS, ["another note"])
    text = stream.getvalue()
    for said in ("tiny", "2,400 train", "1,000 validation", "1,066 test", "22.7 M", "a CPU", "bf16", "3 trials"):
        assert said in text
    for said in ("FALLBACK", "a note", "another note", "new weights: classifier, bert.pooler"):
        assert said in text


def test_nothing_of_the_data_reaches_the_terminal_as_more_than_text(spec: StudySpec) -> None:
    hostile = "[red]a[/] \x1b[31mb\x1b]8;;x\x07 \x9b2J\r\u202ec \\"
    data = dataclasses.replace(FACTS.data, labels=[hostile, "pos"], notes=[hostile])
    model = dataclasses.replace(FACTS.model, name=hostile, new_weights=[hostile])
    facts = dataclasses.replace(FACTS, data=data, model=model)
    source = spec.data.train.model_copy(update={"source": hostile})
    data_spec = spec.data.model_copy(update={"train": source})
    console, stream = shown(
        spec.model_copy(update={"description": hostile, "data": data_spec}), terminal=False, notice=hostile
    )
    console.console.width = 200
    console.header(optuna.create_study(direction="maximize"), facts, [hostile])
    text = stream.getvalue()
    assert not set(text) & set("\x1b\x9b\x07\r\u202e")
    assert text.count(r"[red]a[/] \x1b[31mb\x1b]8;;x\x07 \x9b2J\r\u202ec") == 8


def test_one_line_a_trial(spec: StudySpec) -> None:
    console, stream = shown(spec, terminal=False)
    console.header(optuna.create_study(direction="maximize"), FACTS, [])
    stream.seek(0)
    stream.truncate()
    with console.running() as on_event:
        for number, (state, score, reason) in enumerate(
            [
                ("COMPLETE", 0.8, None),
                ("PRUNED", 0.6, "fell behind"),
                ("COMPLETE", 0.7, None),
                ("FAIL", None, "crashed"),
            ]
        ):
            on_event(TrialStarted(number, {}))
            on_event(StepDone(number, 1, 10))
            on_event(Evaluated(number, 1, 0.5))
            on_event(ended(number, state, score, reason))
    lines = [line for line in stream.getvalue().splitlines() if "trial" in line]
    assert len(lines) == 4
    assert "complete" in lines[0] and "0.8000" in lines[0] and "1:01" in lines[0] and "default" in lines[0]
    assert "best" in lines[0] and "best" not in lines[2]
    assert "fell behind at 25%" in lines[1]
    assert "failed" in lines[3] and "crashed" in lines[3]
    assert max(map(len, lines)) <= 80


def test_a_trial_that_waits_for_memory_says_so_once(spec: StudySpec) -> None:
    console, stream = shown(spec, terminal=False)
    console.header(optuna.create_study(direction="maximize"), FACTS, [])
    with console.running() as on_event:
        for number, need in ((1, None), (2, 1000.0), (3, 81_559.0)):
            on_event(TrialStarted(number, {}))
            for _ in range(3):
                on_event(Waits(number, need, 1234.5))
    lines = stream.getvalue().splitlines()[-3:]
    assert lines == [
        "trial 1   waits     until the trials before it have taken their memory",
        "trial 2   waits     until the trials before it have taken their memory",
        "trial 3   waits     for memory: it takes 81,559 MiB, 1,234 are free",
    ]


def test_a_batch_in_parts_is_said(spec: StudySpec) -> None:
    console, stream = shown(spec, terminal=False)
    console.header(optuna.create_study(direction="maximize"), FACTS, [])
    with console.running() as on_event:
        on_event(dataclasses.replace(ended(0, "PRUNED", 0.8, "fell behind"), micro_batch_size=16))
    line = stream.getvalue().splitlines()[-1]
    assert "16 at once" in line and len(line) <= 80


def test_a_resumed_study_remembers_its_best(spec: StudySpec) -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=0.9))
    console, stream = shown(spec, terminal=False)
    console.header(study, FACTS, [])
    with console.running() as on_event:
        on_event(ended(1, "COMPLETE", 0.8))
    assert "(1 done)" in stream.getvalue()
    assert "best" not in stream.getvalue().splitlines()[-1]


def test_an_interrupted_trial_is_not_counted(spec: StudySpec) -> None:
    console, stream = shown(spec, terminal=False)
    console.header(optuna.create_study(direction="maximize"), FACTS, [])
    with console.running() as on_event:
        on_event(dataclasses.replace(ended(0, "FAIL", None, "interrupted"), retried=True))
        assert console.search.done == 0
        assert re.search(r"trial 0 +stopped .* interrupted at 25%", stream.getvalue())
        on_event(ended(1, "FAIL", None, "crashed"))
        assert console.search.done == 1


def screen(text: str) -> list[str]:
    """The lines of a stream for a terminal, without what moves its cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()


def test_the_live_view_shows_steps_scores_the_median_and_the_time_left(spec: StudySpec) -> None:
    console, stream = shown(spec, terminal=True)
    console.header(optuna.create_study(direction="maximize"), FACTS, [])
    with console.running() as on_event:
        on_event(TrialStarted(0, {}))
        on_event(Evaluated(0, 1, 0.7))
        on_event(ended(0, "COMPLETE", 0.8))
        on_event(TrialStarted(1, {}))
        on_event(Evaluated(1, 1, 0.6))
        on_event(StepDone(1, 5, 10))
    lines = screen(stream.getvalue())
    assert any(re.fullmatch(r"search +\S+ +1/3 50% 0s so far, about \d.* left *", line) for line in lines)
    assert any(re.fullmatch(r"trial 1 +\S+ +5/10 50% 0.6000 \(median 0.7000, below\) *", line) for line in lines)
    assert any(re.fullmatch(r"best +trial 0  0.8000 *", line) for line in lines)
    assert any(re.fullmatch(r"last +trial 0  complete  0.8000 *", line) for line in lines)
    assert max(len(line) for line in lines) <= 80


def test_a_second_series_has_names_totals_and_scores_of_its_own(spec: StudySpec) -> None:
    console, stream = shown(spec, terminal=True)
    console.header(optuna.create_study(direction="maximize"), FACTS, [])
    with console.running() as on_event:
        on_event(TrialStarted(0, {}))
        on_event(ended(0, "COMPLETE", 0.8))
    stream.seek(0)
    stream.truncate()
    with console.running("finalists", total=4, done=1) as on_event:
        on_event(TrialStarted(0, {}, label="finalist 12, seed 3"))
        on_event(Waits(0, None, 0.0))
        on_event(Evaluated(0, 1, 0.9))
        on_event(dataclasses.replace(ended(0, "COMPLETE", 0.9), label="finalist 12, seed 3", is_default=False))
        on_event(TrialStarted(1, {}, label="finalist 12, seed 4"))
    lines = [line.rstrip() for line in screen(stream.getvalue())]
    assert any(re.fullmatch(r"finalists +\S+ +2/4 50% 0s so far, about .* left", line) for line in lines)
    assert "finalist 12, seed 3 waits     until the trials before it have taken their memory" in lines
    assert "finalist 12, seed 3 complete  accuracy 0.9000   1:01" in lines  # of several seeds none is the best
    assert not any(re.search(r"best|trial \d", line) for line in lines)
    assert console.search.done == 1 and console.search.best == ("trial 0", 0.8)


def test_the_time_left_of_the_finalists_ends_with_their_timeout(spec: StudySpec) -> None:
    """Of 12 trainings that take 100 s each, within 390 s the fourth is the last to start."""
    for timeout, left in ((None, "20:00"), (390.0, "8:10")):
        console, stream = shown(spec, terminal=True)
        console.search.take(dataclasses.replace(ended(0, "COMPLETE", 0.8), share=1.0, seconds=100.0))
        with console.running("finalists", total=12, timeout=timeout):
            pass
        assert f"0s so far, about {left} left" in stream.getvalue()


def test_a_log_is_told_what_runs_while_nothing_else_is_said(spec: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.live.SILENCE", 0.1)
    console, stream = shown(spec, terminal=False)
    console.header(optuna.create_study(direction="maximize"), FACTS, [])
    with console.running() as on_event:
        on_event(TrialStarted(0, {}))
        on_event(StepDone(0, 5, 10))
        on_event(Evaluated(0, 1, 0.6))
        wait_until(lambda: stream.getvalue().count("so far") >= 2)
    lines = stream.getvalue().splitlines()
    assert any(re.fullmatch(r"search    0 of 3 trials, 17%, 0s so far, about \d+s left", line) for line in lines)
    assert "running   trial 0 step 5/10, 0.6000" in lines
    assert "\x1b" not in stream.getvalue()


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (48, "48s"), (59.6, "1:00"), (185, "3:05"), (3723, "1:02:03")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_numbers_are_short() -> None:
    assert short(2.3456e-05) == "2.35e-05"
    assert short(16) == "16"
    assert short("none") == "none"
    assert score_text(float("nan")) == "-"
    assert score_text(0.81234) == "0.8123"
    assert fold("constant_with_warmup") == "constant_\nwith_warmup"
    assert fold("linear") == "linear"
    assert parameters(18_530) == "18,530"


def test_ui_command_names_another_folder() -> None:
    assert ui_command(Path("mlruns")) == "python -m hpo.ui"
    assert ui_command(Path("my runs")) == "python -m hpo.ui --output 'my runs'"
