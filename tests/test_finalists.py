"""Finalists: who is trained again, how the winner is chosen, and that the test split is read once."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TextClassificationPipeline

from benchmarks.tiny import tiny_study
from conftest import StudyMaker
from hpo import conclusion, finalists
from hpo import trial as trial_module
from hpo.attempts import FINALIST, SUPERSEDED, end_dead_trials, requeue
from hpo.conclusion import finalists_of, why_not
from hpo.data.splits import load_splits
from hpo.doctor import main as doctor
from hpo.events import Event, OnEvent, TrialEnded
from hpo.export import read_exported
from hpo.facts import StudyFacts
from hpo.finalists import SHARED, keep_model, model_path
from hpo.interrupt import CtrlC
from hpo.output import FINALISTS
from hpo.results import Finals
from hpo.space import default_params
from hpo.spec import FinalistsSpec, StudySpec
from hpo.storage import open_storage, study_names
from hpo.study import load_study, open_study, set_aside, stored_finals
from hpo.study_file import parse_study
from hpo.tracking import Tracker, tracker_of, tracking_uri
from hpo.tracking_model import Winner
from hpo.train import main as train
from hpo.training.predictions import PREDICTIONS, unpacked
from hpo.tune import Outcome, tune
from workers import long, start_run, wait_until


class Display:
    """Remembers what it is told of each part of a study, and may stop it there."""

    def __init__(self, stop_after: tuple[str, int] | None = None) -> None:
        self.ended: dict[str, list[TrialEnded]] = {}
        self.totals: dict[str, tuple[int | None, int]] = {}
        self._stop_after = stop_after

    def header(self, study: optuna.Study, facts: StudyFacts, notes: list[str]) -> None:
        self.notes = notes

    def status(self, text: str) -> None: ...

    @contextmanager
    def running(
        self, title: str = "search", total: int | None = None, done: int = 0, timeout: float | None = None
    ) -> Iterator[OnEvent]:
        told = self.ended.setdefault(title, [])
        self.totals[title] = total, done

        def take(event: Event) -> None:
            if isinstance(event, TrialEnded):
                told.append(event)
                if self._stop_after == (title, len(told)):
                    raise KeyboardInterrupt

        yield take

    def labels(self, title: str = "finalists") -> list[str | None]:
        return [event.label for event in self.ended.get(title, [])]


SECTIONS: dict[str, Any] = {
    "n_trials": 4,
    "pruner": {"name": "none"},
    "sampler": {"name": "random"},
    "finalists": {"n_trials": 2, "n_seeds": 2, "n_test_seeds": 2},
}


@dataclass
class Searched:
    """A study with its finalists."""

    output: Path
    make: Callable[..., StudySpec]
    outcome: Outcome
    display: Display

    def again(self, display: Display | None = None, *, read_test_again: bool = False, **sections: Any) -> Outcome:
        return tune(self.make(**sections), self.output, display or Display(), read_test_again=read_test_again)

    @property
    def search(self) -> optuna.Study:
        return load_study(open_storage(self.output), "tiny")

    @property
    def finalists(self) -> optuna.Study:
        return load_study(open_storage(self.output), f"tiny{FINALISTS}")

    @property
    def finals(self) -> Finals:
        finals = stored_finals(self.search.user_attrs)
        assert finals
        return finals


@pytest.fixture(scope="module")
def kept(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, data_file: Path, migrated_database: Path
) -> Searched:
    def make(**sections: Any) -> StudySpec:
        return parse_study(tiny_study(model_folder, data_file, **SECTIONS | sections), "tiny.yaml")

    output = tmp_path_factory.mktemp("finals") / "out"
    output.mkdir()
    shutil.copy(migrated_database, output / "mlflow.db")
    display = Display()
    return Searched(output, make, tune(make(), output, display), display)


@pytest.fixture
def searched(kept: Searched, tmp_path: Path) -> Searched:
    """The same study in a folder of this test's own."""
    tracker_of(kept.output).flush()
    output = tmp_path / "out"
    shutil.copytree(kept.output, output)
    return Searched(output, kept.make, kept.outcome, kept.display)


def test_the_best_and_the_default_are_trained_again_over_the_same_fresh_seeds(kept: Searched) -> None:
    best = sorted(kept.search.trials[1:], key=lambda trial: (-(trial.value or 0.0), trial.number))[:2]
    wanted = [0, *(trial.number for trial in best)]
    assert kept.display.labels() == [f"finalist {trial}, seed {index}" for index in (1, 2) for trial in wanted]
    contenders = list(dict.fromkeys([kept.finals.winner, 0]))
    read = [f"finalist {trial}, seed {index}" for index in (3, 4) for trial in contenders]
    assert kept.display.labels("winner") == read
    assert kept.display.totals == {"search": (None, 0), "finalists": (6, 0), "winner": (len(read), 0)}
    seeds: dict[int, list[int]] = {}
    for run in kept.finalists.trials:
        config, searched = run.user_attrs["config"], kept.search.trials[run.user_attrs[FINALIST]["trial"]]
        seeds.setdefault(searched.number, []).append(config["seed"])
        assert run.params == searched.params
        assert config["training"] == searched.user_attrs["config"]["training"]
    of_choice, of_test = kept.finals.seeds, kept.finals.test_seeds
    assert seeds == {trial: of_choice + (of_test if trial in contenders else []) for trial in wanted}
    searched_with = {trial.user_attrs["config"]["seed"] for trial in kept.search.trials}
    assert len({*of_choice, *of_test, *searched_with}) == 2 + 2 + 4


def test_the_winner_is_the_best_on_validation_over_its_seeds(kept: Searched) -> None:
    finals, runs = kept.finals, kept.finalists.trials
    for finalist in finals.finalists:
        assert finalist.scores == [runs[run].value for run in finalist.runs]
        assert finalist.mean == np.mean(finalist.scores)
        assert finalist.test_scores == [runs[run].value for run in finalist.test_runs]
        assert len(finalist.test_runs) == 2 * (finalist.is_default or finalist.trial == finals.winner)
        assert finalist.searched == kept.search.trials[finalist.trial].value
        assert finalist.is_default == (finalist.trial == 0)
    means = [finalist.mean for finalist in finals.finalists]
    assert means == sorted(means, reverse=True) and finals.winner == finals.finalists[0].trial
    assert runs[finals.exported].value == max(finals.chosen.scores + finals.chosen.test_scores)
    assert finals.search_best == max(trial.value or 0.0 for trial in kept.search.trials)
    assert finals.ended_trials == 4 and finals.notes == [] and finals.refused is None


def test_the_model_that_is_left_scores_on_test_as_was_read(kept: Searched) -> None:
    """The reading is of what was predicted where it was trained; this is of the weights, by transformers alone."""
    spec, finals = kept.make(), kept.finals
    splits = load_splits("sequence_classification", spec.data, spec.seed)
    folder = model_path(kept.output / "tiny")
    assert kept.outcome.model == folder
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    pipeline = TextClassificationPipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    answers = [each["label"] for each in pipeline(list(splits.test.texts), truncation=True, max_length=32)]
    predictions = unpacked(kept.finalists.trials[finals.exported].user_attrs[PREDICTIONS]["test"]).argmax(axis=1)
    assert answers == [splits.labels[number] for number in predictions]
    reading = finals.reading
    assert reading and reading.rows == len(splits.test) == 60
    of_all = [
        accuracy_score(
            splits.test.labels, unpacked(kept.finalists.trials[run].user_attrs[PREDICTIONS]["test"]).argmax(axis=1)
        )
        for run in finals.chosen.test_runs
    ]
    assert reading.winner_scores["accuracy"].value == pytest.approx(np.mean(of_all))
    assert np.sum(reading.confusion) == pytest.approx(60)
    assert reading.winner == finals.winner and reading.default == 0 and reading.seeds == finals.test_seeds


def test_validation_is_predicted_row_by_row(kept: Searched) -> None:
    labels = load_splits("sequence_classification", kept.make().data, 0).validation.labels
    for run in kept.finalists.trials:
        logits = unpacked(run.user_attrs[PREDICTIONS]["validation"])
        assert accuracy_score(labels, logits.argmax(axis=1)) == run.value


def test_the_exported_configuration_gives_the_winner_again_and_says_what_it_is_worth(
    searched: Searched, capsys: pytest.CaptureFixture[str]
) -> None:
    finals, path = searched.finals, searched.output / "tiny" / "best.yaml"
    exported = read_exported(path)
    assert exported.study == "tiny" and exported.trial == finals.winner
    assert exported.score == searched.finalists.trials[finals.exported].value
    claim, reading = exported.claim, finals.reading
    assert claim and reading
    assert claim.validation_mean == np.mean(finals.chosen.test_scores) and claim.seeds == finals.test_seeds
    assert claim.validation_maximum == finals.search_best
    assert (claim.test, claim.default, claim.difference) == (
        reading.winner_scores,
        reading.default_scores,
        reading.differences,
    )
    assert "optimistic" not in path.read_text(encoding="utf-8").partition("\nstudy:")[0]
    assert train(["--config", str(path)]) == 0
    assert "the same to the bit" in capsys.readouterr().out


def test_nothing_else_is_left_on_disk(kept: Searched) -> None:
    assert not list((kept.output / "tiny").rglob("*.pt"))
    assert not (kept.output / "tiny" / "finalists" / "weights").exists()
    assert len(list((kept.output / "tiny").rglob("model.safetensors"))) == 2  # the winner's, and the search's best


def test_the_report_has_their_cost(kept: Searched) -> None:
    report = kept.outcome.report.markdown.read_text(encoding="utf-8")
    assert re.search(rf"^- Time in the finalists: .+ s in {trainings(kept.finals)} trainings$", report, re.MULTILINE)


def trainings(finals: Finals) -> int:
    """Of all finalists."""
    return sum(len(each.runs) + len(each.test_runs) for each in finals.finalists)


def test_in_mlflow_they_are_children_of_a_run_of_their_own(kept: Searched) -> None:
    client = MlflowClient(tracking_uri(kept.output))
    tracker_of(kept.output).flush()
    runs = {run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("tiny").experiment_id])}
    parent = {name: run.data.tags.get("mlflow.parentRunId") for name, run in runs.items()}
    of_finalists = [name for name in runs if name.startswith("finalist ")]
    assert len(of_finalists) == trainings(kept.finals) and "finalist 0, seed 1" in of_finalists
    assert {parent[name] for name in of_finalists} == {runs["finalists"].info.run_id}
    assert parent["finalists"] == runs["tiny"].info.run_id
    assert {parent[f"trial-{number:04d}"] for number in range(4)} == {runs["tiny"].info.run_id}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    reading, told = kept.finals.reading, runs["tiny"].data.metrics
    assert reading and told["test/accuracy"] == reading.winner_scores["accuracy"].value
    low, high = (told[f"test_interval/accuracy_{end}"] for end in ("low", "high"))
    assert low <= told["test/accuracy"] <= high
    assert told["test_default/accuracy"] == reading.default_scores["accuracy"].value
    assert told["validation/maximum"] == kept.finals.search_best == told["validation/best_accuracy"]


def test_the_doctor_finds_nothing(kept: Searched, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(["--output", str(kept.output)]) == 0
    assert capsys.readouterr().out == "Nothing is left to mend.\n"


def test_a_second_call_trains_and_reads_nothing(searched: Searched) -> None:
    before, display = searched.finals, Display()
    outcome = searched.again(display)
    assert display.ended == {"search": []}
    assert outcome.finals == before
    assert outcome.model and outcome.model.is_dir()


def test_of_drivers_that_end_together_one_at_a_time_registers(
    searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, register = list[bool](), Tracker.register

    def look(self: Tracker, winner: Winner, parent_run_id: str) -> str:
        try:
            with FileLock(searched.output / ".tiny.claim.lock", timeout=0):
                held.append(False)
        except Timeout:
            held.append(True)
        return register(self, winner, parent_run_id)

    monkeypatch.setattr(Tracker, "register", look)
    searched.again()
    assert held == [True]


def test_more_seeds_are_trained_and_the_test_split_is_not_read_again_unasked(searched: Searched) -> None:
    first, display = searched.finals, Display()
    more = {"n_trials": 2, "n_seeds": 2, "n_test_seeds": 3}
    outcome = searched.again(display, finalists=more)
    assert display.labels() == [] and [str(each)[-1] for each in display.labels("winner")] == ["5", "5"]
    finals = outcome.finals
    assert finals and len(finals.test_seeds) == 3 and finals.test_seeds[:2] == first.test_seeds
    assert finals.readings == first.readings and finals.reading is None
    assert finals.refused and "--read-test-again" in finals.refused
    exported = read_exported(searched.output / "tiny" / "best.yaml")
    assert exported.claim and exported.claim.test == {} and exported.claim.test_read_at is None

    asked = searched.again(finalists=more, read_test_again=True).finals
    assert asked and asked.refused is None
    assert asked.readings[:1] == first.readings and [len(each.seeds) for each in asked.readings] == [2, 3]
    assert searched.again(finalists=more, read_test_again=True).finals == asked  # the same winner needs no third one


def test_an_interruption_costs_no_finalist(raw_study: StudyMaker, output: Path) -> None:
    spec = parse_study(raw_study(**SECTIONS), "tiny.yaml")
    first, second = Display(stop_after=("finalists", 2)), Display()
    outcome = tune(spec, output, first)
    assert outcome.interrupted and outcome.finals is None
    finals = tune(spec, output, second).finals
    assert "All trials have ended; the finalists are still to be trained." in second.notes[0]
    assert finals and len(finals.seeds) == 2
    assert second.totals["finalists"] == (6, 2)
    assert len(first.ended["finalists"] + second.ended["finalists"]) == 6


def test_an_interruption_of_the_winner_s_trainings_costs_none(raw_study: StudyMaker, output: Path) -> None:
    spec = parse_study(raw_study(**SECTIONS), "tiny.yaml")
    first, second = Display(stop_after=("winner", 1)), Display()
    assert tune(spec, output, first).interrupted
    finals = tune(spec, output, second).finals
    assert finals and finals.reading and len(finals.test_seeds) == 2
    assert "finalists" not in second.totals and second.totals["winner"][1] == 1
    runs = [run for each in finals.finalists for run in each.test_runs]
    assert len(first.ended["winner"] + second.ended["winner"]) == len(runs)


def hurried(raw_study: StudyMaker, **finalists: Any) -> StudySpec:
    """Time for one training of the finalists a call."""
    asked = {"n_trials": 1, "n_seeds": 2, "n_test_seeds": 2, "timeout": 1e-3} | finalists
    return parse_study(raw_study(**SECTIONS | {"finalists": asked}), "tiny.yaml")


def test_when_the_time_is_over_there_are_fewer_seeds_and_it_is_said(raw_study: StudyMaker, output: Path) -> None:
    first = tune(hurried(raw_study), output, Display())
    assert first.finals is None  # the untuned default alone: nothing was chosen, and the test split is not read
    assert "finalists.timeout" in first.notes[0] and "The same command goes on" in first.notes[0]
    finals, calls = None, 1
    while finals is None and calls < 6:
        outcome, calls = tune(hurried(raw_study), output, Display()), calls + 1
        finals = outcome.finals
        assert finals or "The same command goes on" in outcome.notes[0]
    assert finals and len(finals.finalists) == 2 and finals.asked_seeds == finals.asked_test_seeds == 2
    assert len(finals.test_seeds) == 1
    assert "was read with 1 of the 2 seeds" in finals.notes[-1] and "finalists.timeout" in finals.notes[-1]
    again = Display()
    same = tune(hurried(raw_study), output, again)
    assert same.finals == finals and again.ended == {"search": []}  # or it would have to read the test split again
    more = tune(hurried(raw_study, timeout=1000.0), output, again).finals
    assert more and len(more.seeds) == len(more.test_seeds) == 2
    assert more.readings == finals.readings and more.refused


def test_what_is_left_of_an_earlier_call_is_not_trained_before_what_is_wanted(searched: Searched) -> None:
    """Of finalists that had no time, when the search has gone on and has others."""
    hurried = {"n_trials": 2, "n_seeds": 5, "n_test_seeds": 2, "timeout": 1e-3}
    first = Display()
    searched.again(first, finalists=hurried)
    assert len(first.ended["finalists"]) == 1
    before = {trial.number for trial in finalists_of(searched.search, 2)}
    search = searched.search  # goes on, and its best trials are new ones
    kept_attributes = search.trials[1].user_attrs
    for value in (2.0, 3.0):
        done = search.trials[1]
        search.add_trial(
            create_trial(
                value=value, params=done.params, distributions=done.distributions, user_attrs=dict(kept_attributes)
            )
        )
    second = Display()
    asked = {"n_trials": 2, "n_seeds": 5, "n_test_seeds": 1}
    there = len(searched.finalists.trials)
    finals = searched.again(second, n_trials=6, finalists=asked).finals
    assert finals and {each.trial for each in finals.finalists} == {0, 4, 5} and len(finals.seeds) == 5
    trained = [run for run in searched.finalists.trials[there:] if run.state == TrialState.COMPLETE]
    assert not {run.user_attrs[FINALIST]["trial"] for run in trained} & (before - {0})
    superseded = [run for run in searched.finalists.trials if run.state == TrialState.FAIL]
    assert superseded and all(run.user_attrs["result"]["reason"] == "superseded" for run in superseded)
    assert doctor(["--output", str(searched.output)]) == 0


def test_the_default_is_trained_as_it_was_queued_though_it_drew_nothing(output: Path, raw_study: StudyMaker) -> None:
    """Its worker died in its first moments, and then the time of the search was over."""
    spec = parse_study(raw_study(**SECTIONS), "tiny.yaml")
    search = open_study(spec, open_storage(output))
    default, other = search.ask(), search.ask()
    other.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    search.tell(other, 0.9)
    end_dead_trials(search, [search.trials[default.number]])
    requeue(search)
    for shared in SHARED:
        search.set_user_attr(shared, {})
    candidates = finalists_of(search, 1)
    assert [trial.state.name for trial in candidates] == ["WAITING", "COMPLETE"]
    study = finalists._open(search, spec)
    finalists._queue(search, study, spec, [(trial, 1, False) for trial in candidates], 1.0)
    queued = study.trials[0]
    assert queued.user_attrs[FINALIST]["is_default"]
    assert queued.system_attrs["fixed_params"] == default_params(spec)


def test_the_model_of_an_earlier_winner_is_not_taken_for_the_new_one_s(searched: Searched) -> None:
    folder, finals = searched.output / "tiny", searched.finals
    others = [run for each in finals.finalists for run in each.runs if run != finals.exported]
    assert keep_model(searched.search, finals, folder) == [] and model_path(folder).is_dir()
    (note,) = keep_model(searched.search, finals.model_copy(update={"exported": others[0]}), folder)
    assert "earlier winner" in note and "hpo.train --config" in note
    assert not model_path(folder).exists()
    (kept,) = folder.glob("model-until-*")
    assert (kept / "model.safetensors").is_file() and kept.name in note


def test_switched_off_again_the_refit_is_no_longer_what_is_exported(searched: Searched) -> None:
    before, asked = searched.finals, SECTIONS["finalists"]
    refit = searched.again(finalists=asked | {"refit": True}).finals
    assert refit and refit.exported != before.exported
    outcome = searched.again(finalists=asked)
    assert outcome.finals == before and outcome.model is None
    assert any("earlier winner" in note for note in outcome.notes)
    assert not read_exported(searched.output / "tiny" / "best.yaml").config.train_on_validation


def test_an_interruption_while_it_predicts_costs_no_finalist(
    raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model has its whole vocabulary by then: a checkpoint of it would fit no training."""
    spec = parse_study(raw_study(**SECTIONS | {"checkpoint_every": 1e-3}), "tiny.yaml")
    predict = trial_module.predictions  # type: ignore[attr-defined]
    check, asked = CtrlC.check, list[str]()

    def check_and_stop_once(self: CtrlC) -> None:
        if asked == ["predicting"]:
            asked.append("stopped")
            raise KeyboardInterrupt
        check(self)

    def tell(*arguments: Any) -> dict[str, Any]:
        asked[:] = asked or ["predicting"]
        return predict(*arguments)

    monkeypatch.setattr(CtrlC, "check", check_and_stop_once)
    monkeypatch.setattr(trial_module, "predictions", tell)
    assert tune(spec, output, Display()).interrupted
    finals = tune(spec, output, Display()).finals
    assert finals and len(finals.seeds) == 2 and len(finals.finalists) == 3 and finals.notes == []


def test_the_winner_can_be_trained_on_validation_too(searched: Searched, capsys: pytest.CaptureFixture[str]) -> None:
    display, before = Display(), searched.finals
    refit = SECTIONS["finalists"] | {"refit": True}
    finals = searched.again(display, finalists=refit).finals
    assert display.labels("refit") == [f"finalist {before.winner}, train + validation"]
    client = MlflowClient(tracking_uri(searched.output))
    told = [
        str(each.description) for each in client.search_model_versions("name='hpo-tiny'", order_by=["version_number"])
    ]
    assert told[0].endswith("best on validation: the scores are of means.")
    assert told[1].endswith("the scores are of trainings without validation.")
    assert finals and finals.readings == before.readings and finals.finalists == before.finalists
    path = searched.output / "tiny" / "best.yaml"
    exported = read_exported(path)
    assert exported.config.train_on_validation and exported.config.seed == finals.seeds[0]
    assert "so its score says nothing" in path.read_text(encoding="utf-8")
    kept = load_file(searched.output / "tiny" / "model" / "model.safetensors")
    assert train(["--config", str(path)]) == 0  # to the same place
    assert "the same to the bit" in capsys.readouterr().out
    again = load_file(searched.output / "tiny" / "model" / "model.safetensors")
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    once_more = Display()
    assert searched.again(once_more, finalists=refit).finals == finals and once_more.labels() == []


def test_none_are_trained_where_none_are_wanted(raw_study: StudyMaker, output: Path) -> None:
    outcome = tune(parse_study(raw_study(n_trials=1), "tiny.yaml"), output, Display())
    assert outcome.finals is None and study_names(open_storage(output)) == ["tiny"]
    assert outcome.model and outcome.model.parent.name == "weights"


def test_fresh_sets_both_studies_aside(searched: Searched) -> None:
    before = searched.finals
    spec = searched.make(n_trials=1, finalists=None)
    tune(spec, searched.output, Display(), fresh=True)
    names = study_names(open_storage(searched.output))
    (old,) = [name for name in names if name.startswith("tiny-until-") and not name.endswith(FINALISTS)]
    assert names == ["tiny", old, f"{old}{FINALISTS}"]
    assert stored_finals(load_study(open_storage(searched.output), old).user_attrs) == before
    assert read_exported(searched.output / old / "best.yaml").trial == before.winner
    assert (searched.output / old / "model").is_dir()


def test_fresh_that_is_killed_leaves_no_finalists_to_a_new_study(
    searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, deleted, delete = open_storage(searched.output), list[str](), optuna.delete_study

    def die_after(*, study_name: str, storage: Any) -> None:
        delete(study_name=study_name, storage=storage)
        deleted.append(study_name)
        raise SystemExit

    monkeypatch.setattr(optuna, "delete_study", die_after)
    with pytest.raises(SystemExit):
        set_aside(storage, ["tiny", f"tiny{FINALISTS}"])
    monkeypatch.undo()
    assert deleted == [f"tiny{FINALISTS}"] and len([n for n in study_names(storage) if n.startswith("tiny-until")]) == 2
    before, display = searched.finals, Display()
    again = searched.again(display).finals  # the search is still there, and has its finalists trained anew
    assert again and [each.scores for each in again.finalists] == [each.scores for each in before.finalists]
    assert len(display.ended["finalists"]) == 6 and again.readings == before.readings and again.reading


@pytest.mark.timeout(240)
def test_workers_train_them_and_a_killed_driver_costs_none(raw_study: StudyMaker, output: Path, tmp_path: Path) -> None:
    sections = SECTIONS | {"name": "tiny", "n_trials": 2, "finalists": {"n_trials": 1, "n_seeds": 2, "n_test_seeds": 1}}
    training = raw_study()["training"] | {"num_train_epochs": 5}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(long(raw_study, **sections | {"training": training})), encoding="utf-8")

    def finalists_running() -> bool:
        storage = open_storage(output)
        name = f"tiny{FINALISTS}"
        if name not in study_names(storage):
            return False
        return any(trial.state == TrialState.COMPLETE for trial in load_study(storage, name).trials)

    first = start_run(output, path, "--workers", "2")
    wait_until(finalists_running, "finalist that has ended")
    first.kill()
    first.communicate()
    second = start_run(output, path, "--workers", "2")
    out, errors = second.communicate(timeout=120)
    assert second.returncode == 0, out + errors
    study = load_study(open_storage(output), f"tiny{FINALISTS}")
    complete = [trial.user_attrs[FINALIST] for trial in study.trials if trial.state == TrialState.COMPLETE]
    finals = stored_finals(load_study(open_storage(output), "tiny").user_attrs)
    assert finals and finals.reading and len(finals.seeds) == 2 and len(finals.test_seeds) == 1
    wanted = {(trial, index) for trial in (0, 1) for index in (1, 2)} | {(trial, 3) for trial in (finals.winner, 0)}
    assert sorted((each["trial"], each["index"]) for each in complete) == sorted(wanted)
    by_index = {each["index"]: each["seed"] for each in complete}
    assert all(each["seed"] == by_index[each["index"]] for each in complete)


# Who may be a finalist

RATE: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0)}


def trial(value: float | None, state: TrialState = TrialState.COMPLETE, **attributes: Any) -> optuna.trial.FrozenTrial:
    return create_trial(value=value, state=state, params={"x": 0.5}, distributions=RATE, user_attrs=attributes)


def study_of(*trials: optuna.trial.FrozenTrial, direction: str = "maximize") -> optuna.Study:
    study = optuna.create_study(direction=StudyDirection[direction.upper()])
    study.add_trials(trials)
    return study


@pytest.mark.parametrize(("direction", "best"), [("maximize", [0, 3, 1]), ("minimize", [0, 4, 1])])
def test_finalists_are_the_default_and_the_best_of_the_complete_ones(direction: str, best: list[int]) -> None:
    pruned = trial(None, TrialState.PRUNED)
    study = study_of(trial(0.1), trial(0.7), pruned, trial(0.9), trial(0.7), direction=direction)
    if direction == "minimize":  # of equal ones the first
        best = [0, 1, 4]
    assert [each.number for each in finalists_of(study, 2)] == best


def test_a_default_that_failed_is_tried_again_as_a_finalist() -> None:
    failed = trial(None, TrialState.FAIL, result={"state": "FAIL", "reason": "crashed"})
    assert [each.number for each in finalists_of(study_of(failed, trial(0.7)), 3)] == [0, 1]
    assert finalists_of(study_of(failed), 3) == []


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ([("COMPLETE", None), ("COMPLETE", None)], None),
        ([("COMPLETE", None), ("PRUNED", "diverged")], "with seed 2 it ended as diverged"),
        ([("FAIL", "crashed"), ("COMPLETE", None)], "with seed 1 it ended as crashed"),
        ([], "there was no time left for it"),
    ],
)
def test_a_finalist_that_fails_with_one_seed_cannot_win(ends: list[tuple[str, str | None]], reason: str | None) -> None:
    runs = [
        trial(
            0.5 if state == "COMPLETE" else None,
            TrialState[state],
            finalist={"trial": 0, "index": index, "seed": 7, "is_default": False},
            result={"state": state, "reason": why, "retried": False},
        )
        for index, (state, why) in enumerate(ends, start=1)
    ]
    other = trial(0.9, finalist={"trial": 1, "index": 1, "seed": 7, "is_default": True})
    left = trial(
        None, TrialState.FAIL, finalist={"trial": 0, "index": 9}, result={"state": "FAIL", "reason": SUPERSEDED}
    )
    runs.append(left)  # in the queue of an earlier call
    assert why_not(study_of(*runs, other), study_of(trial(0.9)).trials[0]) == reason


def test_finalists_without_a_seed_in_common_are_no_match() -> None:
    """One was killed with its first seed, and tried again behind the others, which had no time for their second."""
    of = {0: [1, 2], 1: [2], 2: [1, 2], 3: [1]}
    runs = [
        trial(0.8, finalist={"trial": number, "index": index, "seed": 7, "is_default": number == 0})
        for number, indices in of.items()
        for index in indices
    ]
    search = study_of(trial(0.5), trial(0.9), trial(0.8), trial(0.7))
    kept, reasons = conclusion._trained(search, study_of(*runs), FinalistsSpec(n_trials=3))
    assert [each.number for each in kept] == [0, 2, 3] and reasons == {1: conclusion.OUT_OF_TIME}
