"""What the terminal shows, in 80 columns, on a terminal and in a pipe."""

import dataclasses
import io
import re
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
        assert console.done == 0
        assert re.search(r"trial 0 +stopped .* interrupted at 25%", stream.getvalue())
        on_event(ended(1, "FAIL", None, "crashed"))
        assert console.done == 1


def test_live_bar_shows_trial_step_scores_and_time_left(spec: StudySpec) -> None:
    console, stream = shown(spec, terminal=True)
    console.header(optuna.create_study(direction="maximize"), FACTS, [])
    with console.running() as on_event:
        on_event(ended(0, "COMPLETE", 0.8))
        on_event(TrialStarted(1, {}))
        on_event(Evaluated(1, 1, 0.6))
        on_event(StepDone(1, 5, 10))
    text = stream.getvalue()
    assert "trial 1 step 5/10 now 0.6000 best 0.8000" in text
    assert "1:32 left" in text  # one trial and a half of a minute and a second


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
