"""The driver: what it checks first, how it counts, and how it stops."""

import gc
import io
import os
import resource
import shutil
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from mlflow import MlflowClient
from rich.console import Console
from sqlalchemy.orm import Session
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from conftest import StudyMaker
from hpo import facts as facts_module
from hpo import tune as tune_module
from hpo.data.splits import load_splits
from hpo.errors import DataError, StorageError
from hpo.events import Event, OnEvent, StepDone, TrialEnded, TrialStarted
from hpo.export import export_trial
from hpo.facts import StudyFacts
from hpo.output import disk_error, prepare_output
from hpo.storage import open_storage, study_names
from hpo.study import load_study
from hpo.study_file import parse_study
from hpo.tracking import tracking_uri
from hpo.train import train
from hpo.training.setup import Setup, set_up
from hpo.tune import storage_notes, tune
from models import save_tiny


class Recorder:
    """A display that remembers, and may interrupt."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.events: list[Event] = []
        self.notes: list[str] = []
        self.facts: StudyFacts | None = None
        self.interrupt_at = interrupt_at

    def header(self, study: optuna.Study, facts: StudyFacts, notes: list[str]) -> None:
        self.facts, self.notes = facts, notes

    def status(self, text: str) -> None: ...

    @contextmanager
    def running(
        self, title: str = "search", total: int | None = None, done: int = 0, timeout: float | None = None
    ) -> Iterator[OnEvent]:
        yield self.take

    def take(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, StepDone) and event.number == self.interrupt_at and event.step == 5:
            raise KeyboardInterrupt

    @property
    def ended(self) -> list[TrialEnded]:
        return [event for event in self.events if isinstance(event, TrialEnded)]


def test_runs_the_total_and_nothing_more(raw_study: StudyMaker, output: Path) -> None:
    spec = parse_study(raw_study(n_trials=2), "tiny.yaml")
    first, second = Recorder(), Recorder()
    outcome = tune(spec, output, first)
    assert len(first.ended) == 2
    assert first.ended[0].is_default and not first.ended[1].is_default
    assert not outcome.interrupted and not outcome.timed_out
    assert outcome.best_yaml and outcome.best_yaml.exists() and outcome.report.markdown.exists()
    tune(spec, output, second)
    assert second.ended == []
    more = Recorder()
    tune(parse_study(raw_study(n_trials=3), "tiny.yaml"), output, more)
    assert [event.number for event in more.ended] == [2]


def test_the_models_that_were_tried_first_do_not_stay_in_memory(
    raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[torch.nn.Module]] = []
    alive: list[bool] = []

    def load(*args: Any) -> Setup:
        setup = set_up(*args)
        models.append(weakref.ref(setup.pretrained.model))
        return setup

    class Display(Recorder):
        def header(self, study: optuna.Study, facts: StudyFacts, notes: list[str]) -> None:
            alive.extend(model() is not None for model in models)

    monkeypatch.setattr(facts_module, "set_up", load)
    spec = parse_study(raw_study(n_trials=1, search_space={"max_length": {"low": 8, "high": 32}}), "tiny.yaml")
    gc.disable()  # or a chance collection hides it
    try:
        tune(spec, output, Display())
    finally:
        gc.enable()
    assert alive and not any(alive)


def table(output: Path, name: str) -> list[tuple[Any, ...]]:
    trials = load_study(open_storage(output), name).trials
    return [
        (trial.state, trial.params, trial.intermediate_values, trial.user_attrs["result"]["metrics"])
        for trial in trials
    ]


def test_a_resumed_study_is_the_study_that_was_never_stopped(raw_study: StudyMaker, output: Path) -> None:
    """Same spec, same seed, one worker: the same table of trials, to the bit."""
    for name, totals in (("whole", [4]), ("resumed", [1, 3, 4])):
        for n_trials in totals:
            spec = parse_study(raw_study(name=name, n_trials=n_trials, sampler={"name": "random"}), "tiny.yaml")
            tune(spec, output, Recorder())
    assert table(output, "whole") == table(output, "resumed")
    assert len({str(row[1]) for row in table(output, "whole")}) == 4


def test_an_interrupted_trial_is_tried_again_with_its_parameters_and_seed(raw_study: StudyMaker, output: Path) -> None:
    spec = parse_study(raw_study(n_trials=2), "tiny.yaml")
    outcome = tune(spec, output, Recorder(interrupt_at=0))
    assert outcome.interrupted and outcome.best_yaml is None
    outcome = tune(spec, output, Recorder())
    trials = outcome.study.trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].user_attrs["retry_of"] == 0
    assert trials[1].params == trials[0].params
    assert trials[1].user_attrs["config"] == trials[0].user_attrs["config"]  # the seed is in it
    client = MlflowClient(tracking_uri(output))
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    tags = {run.info.run_name: run.data.tags for run in runs}
    assert tags["trial-0001"]["trial.retry_of"] == "0"
    assert tags["trial-0001"]["trial.default"] == "true"


@pytest.mark.parametrize("sampler", [{"name": "random"}, {"name": "tpe", "n_startup_trials": 2}])
def test_an_interrupted_study_is_the_study_that_was_never_stopped(
    raw_study: StudyMaker, output: Path, sampler: dict[str, Any]
) -> None:
    """The trials after a repeated one are those that would have come without it, though their numbers are not."""
    whole, stopped = (
        parse_study(raw_study(name=name, n_trials=5, sampler=sampler), "tiny.yaml") for name in ("whole", "stopped")
    )
    tune(whole, output, Recorder())
    for number in (0, 3):
        assert tune(stopped, output, Recorder(interrupt_at=number)).interrupted
    tune(stopped, output, Recorder())
    rows = table(output, "stopped")
    assert [row[0].name for row in rows].count("FAIL") == 2
    assert [row for row in rows if row[0].name != "FAIL"] == table(output, "whole")


def test_what_a_killed_driver_left_running_is_ended_and_tried_again(raw_study: StudyMaker, output: Path) -> None:
    spec = parse_study(raw_study(n_trials=1), "tiny.yaml")

    # A driver killed by the system runs no handler; neither does one whose display dies of this.
    class Killed(BaseException):
        pass

    def die(event: Event) -> None:
        if isinstance(event, StepDone):
            raise Killed

    recorder = Recorder()
    recorder.take = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        tune(spec, output, recorder)
    storage = open_storage(output)
    assert [trial.state.name for trial in load_study(storage, "tiny").trials] == ["RUNNING"]
    again = Recorder()
    outcome = tune(spec, output, again)
    assert [trial.state.name for trial in outcome.study.trials] == ["FAIL", "COMPLETE"]
    assert any("0" in note and "killed" in note for note in again.notes)
    client = MlflowClient(tracking_uri(output))
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED", "FINISHED"]


def press_at_step_5(recorder: Recorder, press: Callable[[], object]) -> None:
    def take(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            press()
        recorder.events.append(event)

    recorder.take = take  # type: ignore[method-assign]


def test_ctrl_c_is_heard_where_python_drops_its_exception(
    raw_study: StudyMaker, output: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such as while garbage is collected, where half of them fall in a study of short steps."""

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    recorder = Recorder()
    press_at_step_5(recorder, Finalized)  # collected at once
    before = signal.getsignal(signal.SIGINT)
    outcome = tune(parse_study(raw_study(n_trials=2), "tiny.yaml"), output, recorder)
    assert outcome.interrupted
    steps = [event.step for event in recorder.events if isinstance(event, StepDone)]
    assert steps == [1, 2, 3, 4, 5]
    assert states(output) == {"tiny": "KILLED", "trial-0000": "FAILED"}
    assert "Exception ignored" not in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_cuts_no_transaction_short(raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would leave its lock on the database, and the end of the trial would wait for that in vain."""
    commit, seen = Session.commit, list[str]()

    def press(session: Session) -> None:
        if seen or threading.current_thread() is not threading.main_thread():
            return commit(session)
        seen.append("begun")
        signal.raise_signal(signal.SIGINT)
        commit(session)
        seen.append("done")

    recorder = Recorder()
    press_at_step_5(recorder, lambda: monkeypatch.setattr(Session, "commit", press))
    outcome = tune(parse_study(raw_study(n_trials=2), "tiny.yaml"), output, recorder)
    assert outcome.interrupted and seen == ["begun", "done"]
    assert states(output) == {"tiny": "KILLED", "trial-0000": "FAILED"}


def test_a_second_ctrl_c_does_not_wait_for_a_step(raw_study: StudyMaker, output: Path) -> None:
    recorder = Recorder()

    def press_twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        recorder.events.append(StepDone(0, 99, 99))

    press_at_step_5(recorder, press_twice)
    outcome = tune(parse_study(raw_study(n_trials=2), "tiny.yaml"), output, recorder)
    assert outcome.interrupted and StepDone(0, 99, 99) not in recorder.events


def states(output: Path, name: str = "tiny") -> dict[str, str]:
    client = MlflowClient(tracking_uri(output))
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    return {run.info.run_name: run.info.status for run in runs}


def test_a_trial_that_has_ended_stays_so_whatever_comes_right_after(raw_study: StudyMaker, output: Path) -> None:
    spec = parse_study(raw_study(n_trials=2), "tiny.yaml")
    recorder = Recorder()

    def interrupt(event: Event) -> None:
        if isinstance(event, TrialEnded):
            raise KeyboardInterrupt

    recorder.take = interrupt  # type: ignore[method-assign]
    outcome = tune(spec, output, recorder)
    assert outcome.interrupted and outcome.best_yaml is not None
    assert states(output) == {"tiny": "KILLED", "trial-0000": "FINISHED"}
    again = Recorder()
    tune(spec, output, again)
    assert [event.number for event in again.ended] == [1]


def test_a_run_that_was_not_ended_in_time_ends_as_its_trial_did(raw_study: StudyMaker, output: Path) -> None:
    spec = parse_study(raw_study(n_trials=1), "tiny.yaml")
    trial = tune(spec, output, Recorder()).study.trials[0]
    MlflowClient(tracking_uri(output)).update_run(trial.user_attrs["mlflow_run_id"], status="RUNNING")
    tune(spec, output, Recorder())
    assert states(output) == {"tiny": "FINISHED", "trial-0000": "FINISHED"}


def test_fresh_after_a_kill_leaves_nothing_running(raw_study: StudyMaker, output: Path) -> None:
    spec = parse_study(raw_study(n_trials=1), "tiny.yaml")
    study = tune(spec, output, Recorder(), call=["--study", "tiny.yaml"]).study
    client = MlflowClient(tracking_uri(output))
    for run_id in (study.user_attrs["mlflow_parent_run_id"], study.trials[0].user_attrs["mlflow_run_id"]):
        client.update_run(run_id, status="RUNNING")
    study.ask()
    tune(spec, output, Recorder(), fresh=True)
    kept = next(name for name in study_names(open_storage(output)) if name != "tiny")
    assert states(output) == {"tiny": "FINISHED", "trial-0000": "FINISHED"}
    assert states(output, kept) == {"tiny": "KILLED", "trial-0000": "FINISHED", "trial-0001": "FAILED"}
    best = (output / kept / "best.yaml").read_text()
    assert f"--config {output / kept / 'best.yaml'}" in best
    report = (output / kept / "report.md").read_text()
    assert f"--study tiny.yaml --set name={kept}" in report
    assert [trial.state.name for trial in load_study(open_storage(output), kept).trials] == ["COMPLETE", "FAIL"]


def test_ctrl_c_while_the_report_is_written_ends_the_parent_run(
    raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_module, "write_report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(parse_study(raw_study(n_trials=1), "tiny.yaml"), output, Recorder())
    assert states(output) == {"tiny": "KILLED", "trial-0000": "FINISHED"}


def test_a_disk_that_fills_up_costs_no_trial(raw_study: StudyMaker, output: Path) -> None:
    """A limit on the size of files is the full disk that every user may make."""
    spec = parse_study(raw_study(n_trials=3), "tiny.yaml")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    recorder = Recorder()

    def fill(event: Event) -> None:
        if isinstance(event, StepDone) and event.number == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, ((output / "mlflow.db").stat().st_size, hard))

    recorder.take = fill  # type: ignore[method-assign]
    try:
        with pytest.raises(Exception) as raised:
            tune(spec, output, recorder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert disk_error(raised.value)
    outcome = tune(spec, output, Recorder())
    assert sum(trial.state.name != "FAIL" for trial in outcome.study.trials) == 3
    assert set(states(output).values()) <= {"FINISHED", "KILLED", "FAILED"}


@pytest.mark.parametrize("what", ["data", "model"])
def test_files_that_change_while_the_study_runs_stop_it_and_cost_no_trial(
    raw_study: StudyMaker, output: Path, tmp_path: Path, data_file: Path, model_folder: Path, what: str
) -> None:
    copy, model = tmp_path / "copy.csv", Path(shutil.copytree(model_folder, tmp_path / "copy"))
    shutil.copy(data_file, copy)
    changing = copy if what == "data" else model / "config.json"
    original = changing.read_text()
    data = raw_study()["data"] | {"train": str(copy)}
    spec = parse_study(raw_study(data=data, model={"name": str(model)}), "tiny.yaml")
    recorder = Recorder()

    def edit(event: Event) -> None:
        if isinstance(event, TrialEnded) and event.number == 0:
            changing.write_text(original.replace("good", "great") if what == "data" else original + "\n")

    recorder.take = edit  # type: ignore[method-assign]
    with pytest.raises(StorageError, match=rf"the {what}.* of the study `tiny` changed"):
        tune(spec, output, recorder)
    assert (output / "tiny" / "report.md").exists() and (output / "tiny" / "best.yaml").exists()
    assert states(output) == {"tiny": "FAILED", "trial-0000": "FINISHED", "trial-0001": "FAILED"}
    with pytest.raises(StorageError, match="changed"):
        tune(spec, output, Recorder())
    changing.write_text(original)
    outcome = tune(spec, output, Recorder())
    assert [trial.state.name for trial in outcome.study.trials].count("FAIL") == 1
    assert len(outcome.study.trials) == 4


@pytest.mark.parametrize(
    ("space", "model", "message"),
    [
        ({"max_length": {"choices": [32, 128]}}, {}, "64 positions, but got 128"),
        ({"max_length": {"low": 16, "high": 512}}, {}, "64 positions, but got 512"),
        ({"precision": {"choices": ["fp32", "bf16"]}}, {}, "precision bf16 needs a device"),
        (
            {
                "method": {"choices": ["full", "last_layers"]},
                "num_trained_layers": {"low": 1, "high": 3, "when": {"method": ["last_layers"]}},
            },
            {},
            "at most the model's 2 layers, but got 3",
        ),
        (
            {
                "method": {"choices": ["full", "lora"]},
                "lora_target_modules": {"choices": ["query_value", "q_proj"], "when": {"method": ["lora"]}},
            },
            {},
            "a `bert` model has no q_proj",
        ),
        ({"dropout": {"choices": [None, 0.2]}}, {"dropout": None}, "dropout can be set for"),
    ],
)
def test_what_the_space_may_draw_is_checked_before_the_first_trial(
    raw_study: StudyMaker,
    output: Path,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    space: dict[str, Any],
    model: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    sections = {"training": raw_study()["training"] | model, "search_space": space}
    if "dropout" in space:
        sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        AutoModel.from_config(AutoConfig.for_model("deberta", **sizes)).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        sections["model"] = {"name": str(tmp_path)}
    with pytest.raises(DataError, match=message):
        tune(parse_study(raw_study(**sections), "tiny.yaml"), output, Recorder())
    assert open_storage(output).get_all_studies() == []


def test_no_trial_starts_after_the_timeout(raw_study: StudyMaker, output: Path) -> None:
    recorder = Recorder()
    outcome = tune(parse_study(raw_study(n_trials=50, timeout=0.001), "tiny.yaml"), output, recorder)
    assert outcome.timed_out
    assert len([event for event in recorder.events if isinstance(event, TrialStarted)]) <= 1


def test_mistakes_in_the_data_show_before_anything_is_stored(raw_study: StudyMaker, output: Path) -> None:
    data = raw_study()["data"] | {"text_column": "txet"}
    with pytest.raises(DataError, match="text"):
        tune(parse_study(raw_study(data=data), "tiny.yaml"), output, Recorder())
    assert open_storage(output).get_all_studies() == []


def test_facts_are_those_of_the_data(raw_study: StudyMaker, output: Path) -> None:
    recorder = Recorder()
    tune(parse_study(raw_study(n_trials=1), "tiny.yaml"), output, recorder)
    assert recorder.facts is not None
    assert recorder.facts.data.rows == {"train": 240, "validation": 100, "test": 60}
    assert recorder.facts.data.labels == ["negative", "positive"]
    assert recorder.facts.data.notes == []
    assert recorder.facts.machine.precision == "fp32"
    assert recorder.facts.model.new_weights == ["classifier"]


def test_a_finished_study_says_that_nothing_is_left(raw_study: StudyMaker, output: Path) -> None:
    spec = parse_study(raw_study(n_trials=1), "tiny.yaml")
    first, second = Recorder(), Recorder()
    tune(spec, output, first)
    tune(spec, output, second)
    assert first.notes == []
    assert second.notes == ["Nothing is left to run. Raise n_trials (--trials) to go on."]


def test_more_workers_than_a_file_is_made_for_are_told() -> None:
    assert storage_notes(8, None) == [] and storage_notes(9, "postgresql://x") == []
    (note,) = storage_notes(9, None)
    assert note.startswith("9 workers write to one SQLite file, which is made for up to 8") and "postgresql://" in note


@pytest.mark.parametrize(
    ("pruner", "told"),
    [({"name": "median", "n_warmup_steps": 2}, []), ({"name": "median", "n_warmup_steps": 3}, ["evaluation 4, and"])],
)
def test_a_pruner_that_comes_too_late_is_told(
    raw_study: StudyMaker, output: Path, pruner: dict[str, Any], told: list[str]
) -> None:
    recorder = Recorder()
    tune(parse_study(raw_study(n_trials=1, pruner=pruner), "tiny.yaml"), output, recorder)
    assert len(recorder.notes) == len(told)
    assert all(part in note for note, part in zip(recorder.notes, told, strict=True))


def test_truncation_is_counted_and_said(raw_study: StudyMaker, output: Path) -> None:
    recorder = Recorder()
    training = raw_study()["training"] | {"max_length": 14}  # sentences have 4 to 13 words, and two special tokens
    outcome = tune(parse_study(raw_study(n_trials=1, training=training), "tiny.yaml"), output, recorder)
    assert recorder.facts is not None
    splits = load_splits("sequence_classification", parse_study(raw_study(), "tiny.yaml").data, seed=0)
    train, validation = (
        sum(len(text.split()) > 12 for text in split.texts) for split in (splits.train, splits.validation)
    )
    assert train and validation
    told = f"Truncated to 14 tokens: {train} of train and {validation} of validation."
    assert recorder.facts.data.notes == [told]
    assert told in outcome.report.markdown.read_text()


def test_the_model_can_be_searched(raw_study: StudyMaker, output: Path, model_folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model_folder, tmp_path / "other"))
    space = {"model.name": {"choices": [str(model_folder), str(other)]}}
    spec = parse_study(raw_study(search_space=space, sampler={"name": "grid"}), "tiny.yaml")
    outcome = tune(spec, output, Recorder())
    names = {trial.user_attrs["config"]["model"]["name"] for trial in outcome.study.trials}
    assert names == {str(model_folder), str(other)}


def test_two_architectures_in_one_study(
    raw_study: StudyMaker, output: Path, model_folder: Path, tmp_path: Path
) -> None:
    """An encoder and a decoder, of which one has its own dropout searched."""
    decoder = save_tiny("gpt2", tmp_path / "decoder")
    space = {
        "model.name": {"choices": [str(model_folder), str(decoder)]},
        "dropout": {"low": 0.0, "high": 0.3, "when": {"model.name": [str(model_folder)]}},
    }
    sections = {
        "search_space": space,
        "sampler": {"name": "random"},
        "n_trials": 5,
        "seed": 1,
        "pruner": {"name": "none"},
    }
    recorder = Recorder()
    outcome = tune(parse_study(raw_study(**sections), "tiny.yaml"), output, recorder)
    configs = [trial.user_attrs["config"] for trial in outcome.study.trials]
    assert {trial.state.name for trial in outcome.study.trials} == {"COMPLETE"}
    assert {config["model"]["name"] for config in configs} == {str(model_folder), str(decoder)}
    for config in configs[1:]:
        drawn = config["model"]["name"] == str(model_folder)
        assert (config["training"]["dropout"] != 0.1) == drawn
    assert recorder.facts is not None and set(recorder.facts.models) == {str(model_folder), str(decoder)}


def test_the_method_can_be_searched(raw_study: StudyMaker, output: Path, tmp_path: Path) -> None:
    """From the command line's driver to the winner's folder, and from its `best.yaml` to the same bits again."""
    space = {
        "method": {"choices": ["full", "head_only", "last_layers", "lora"]},
        "num_trained_layers": {"low": 1, "high": 2, "when": {"method": ["last_layers"]}},
        "layer_lr_decay": {"low": 0.5, "high": 1.0, "when": {"method": ["full", "last_layers", "lora"]}},
        "lora_rank": {"choices": [2, 8], "when": {"method": ["lora"]}},
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True, "when": {"method": ["full", "last_layers", "lora"]}},
        "learning_rate@head": {"low": 0.02, "high": 0.2, "log": True, "when": {"method": ["head_only"]}},
    }
    training = raw_study()["training"] | {"method": "lora", "num_train_epochs": 0.5, "num_evaluations": 2}
    sections: dict[str, Any] = {"search_space": space, "training": training, "sampler": {"name": "random"}}
    recorder = Recorder()
    spec = parse_study(raw_study(**sections, n_trials=8, pruner={"name": "none"}), "tiny.yaml")
    outcome = tune(spec, output, recorder)
    trials = outcome.study.trials
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    methods = {trial.params["method"]: trial.user_attrs["result"]["trained_parameters"] for trial in trials}
    assert set(methods) == {"full", "head_only", "last_layers", "lora"}
    for trial in trials:
        of_head = trial.params["method"] == "head_only"
        assert ("learning_rate@head" in trial.params) == of_head == ("learning_rate" not in trial.params)
        assert (trial.user_attrs["config"]["training"]["learning_rate"] >= 0.02) == of_head
    assert methods["head_only"] < methods["lora"] < methods["last_layers"] < methods["full"]
    assert recorder.facts is not None and recorder.facts.model.num_trained_parameters == 1_122 + 2 * 2 * 2 * 32 * 8
    report = outcome.report.markdown.read_text()
    assert "| Trained parameters | Memory (MiB) |" in report and f"{methods['full']:,}" in report
    assert ", of which 3,170 are trained" in report
    client = MlflowClient(tracking_uri(output))
    run = client.get_run(trials[0].user_attrs["mlflow_run_id"])
    assert run.data.tags["model.num_trained_parameters"] == "3170"
    assert run.data.metrics["trained_parameters"] == 3170
    assert (run.data.params["method"], run.data.params["lora_rank"]) == ("lora", "8")
    assert not any("@" in name for name in run.data.params)

    adapted = next(trial for trial in trials if trial.params["method"] == "lora")
    path = tmp_path / "again" / "best.yaml"
    exported = export_trial(outcome.study, adapted, path)
    console = Console(file=(told := io.StringIO()), width=200)
    assert train(exported, tmp_path / "again" / "model", console) == 0
    assert "the same to the bit as exported" in told.getvalue()
    assert (tmp_path / "again" / "model" / "adapter" / "adapter_config.json").exists()
    assert (tmp_path / "again" / "model" / "model.safetensors").exists()


def test_folder_without_the_right_to_write_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    as_root = os.geteuid() == 0
    tmp_path.chmod(0o755)
    for parent in [tmp_path, *tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    if as_root:
        os.seteuid(65534)  # root may write everywhere: be nobody for the moment
    try:
        with pytest.raises(StorageError, match=r"Permission denied"):
            prepare_output(folder)
    finally:
        if as_root:
            os.seteuid(0)


def test_prepare_output_leaves_nothing_behind(tmp_path: Path) -> None:
    prepare_output(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
