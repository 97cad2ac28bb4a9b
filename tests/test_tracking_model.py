"""The registry for real: what becomes the champion, what is there once, and what a server that is away costs."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.mlflow_server import MlflowServer
from hpo.tasks.sequence_classification import SEQUENCE_CLASSIFICATION
from hpo.tracking import Dataset, Tracker, tracking_uri
from hpo.tracking_model import SERVED, TestScore, Winner, is_better
from hpo.tracking_run import now

SCORE = TestScore("accuracy", True, 0.8, 0.75, 0.85, "a data set")
CHAMPION = {"test.score": "0.8", "test.metric": "accuracy", "test.data": "a data set"}
LOSS = replace(SCORE, metric="loss", greater_is_better=False, value=0.5)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A trained model as a study leaves it."""
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            id2label={0: "negative", 1: "positive"},
        )
    )
    model.save_pretrained(tmp_path / "study" / "model")
    tokenizer.save_pretrained(tmp_path / "study" / "model")
    return tmp_path / "study" / "model"


def winner_of(folder: Path, run: str, score: TestScore | None = SCORE) -> Winner:
    return Winner(
        study="study",
        trial=3,
        run=run,
        trained_on="train",
        folder=folder,
        max_length=16,
        labels=["negative", "positive"],
        examples=[{"text": "a good film"}, {"text": "a bad film"}],
        task=SEQUENCE_CLASSIFICATION,
        versions={"torch": "2.13.0+cpu", "transformers": "5.23.0", "pandas": "3.1.1"},
        score=score,
        scores={"accuracy": score.value, "f1/c++": 0.5} if score else {},
        test=Dataset("test", "reviews", "123", "local", "{}", "{}", "{}") if score else None,
        report=folder.parent / "report.html",
        description="The winner has test accuracy 0.8.",
    )


def trained(tracker: Tracker, study: str = "study") -> tuple[str, str]:
    """The study's run and that of a training."""
    parent = tracker.start_study(study, None, "", {})
    return parent, tracker.start_trial(parent, 0, {}, now()).run_id


def test_a_winner_is_registered_once_with_all_that_is_known_of_it(output: Path, folder: Path) -> None:
    tracker, client = Tracker(output), MlflowClient(tracking_uri(output))
    parent, run = trained(tracker)
    first = tracker.register(winner_of(folder, run), parent)
    assert first.startswith("The winner is version 1 of hpo-study") and "the champion, as the first one" in first
    for _ in range(2):
        assert "It is the champion already." in tracker.register(winner_of(folder, run), parent)
    (version,) = client.search_model_versions("name = 'hpo-study'")
    assert client.get_model_version_by_alias("hpo-study", "champion").version == version.version
    expected = {"study": "study", "trial": "3", "test.score": "0.8", "test.interval": "0.7500 to 0.8500"}
    assert expected.items() <= version.tags.items()
    assert version.tags["test.data"] == "a data set" and version.tags["report"].endswith("report.html")
    assert version.run_id == parent
    (model,) = client.search_logged_models([client.get_run(parent).info.experiment_id])
    assert (model.source_run_id, model.status) == (run, LoggedModelStatus.READY)
    assert {metric.key: metric.value for metric in model.metrics} == {"test/accuracy": 0.8, "test/f1/c__": 0.5}
    for of in (run, parent):
        assert [output.model_id for output in client.get_run(of).outputs.model_outputs] == [model.model_id]
    saved = Path(version.source.removeprefix("file://"))
    described = yaml.safe_load((saved / "MLmodel").read_text())
    assert described["metadata"]["labels"] == ["negative", "positive"]
    assert '"text"' in described["signature"]["inputs"] and '"score"' in described["signature"]["outputs"]
    assert (saved / "input_example.json").is_file()
    assert "torch==2.13.0\n" in (saved / "requirements.txt").read_text()
    assert not list(saved.rglob("*.pkl"))
    assert not list(folder.parent.glob(".model-*"))


def test_a_better_one_becomes_the_champion_and_a_worse_one_does_not(output: Path, folder: Path) -> None:
    tracker, client = Tracker(output), MlflowClient(tracking_uri(output))
    champion, told = [], []
    for value in (0.8, 0.7, 0.9):
        parent, run = trained(tracker)
        told.append(tracker.register(winner_of(folder, run, replace(SCORE, value=value)), parent))
        champion.append(client.get_model_version_by_alias("hpo-study", "champion").version)
    assert list(map(str, champion)) == ["1", "1", "3"]
    assert "Version 1 stays the champion: the new one is no better" in told[1]
    assert "instead of version 1: test accuracy 0.9000 against 0.8000 on the same data" in told[2]


def test_a_later_reading_of_the_test_split_makes_the_champion(output: Path, folder: Path) -> None:
    tracker, client = Tracker(output), MlflowClient(tracking_uri(output))
    parent, run = trained(tracker)
    assert "It is not the champion: the test split was not read" in tracker.register(
        winner_of(folder, run, score=None), parent
    )
    assert client.get_registered_model("hpo-study").aliases == {}
    assert "It is the champion, as the first" in tracker.register(winner_of(folder, run), parent)


@pytest.mark.parametrize(
    ("score", "champion", "wins", "why"),
    [
        (SCORE, None, True, "as the first one"),
        (None, CHAMPION, False, "was not read"),
        (SCORE, CHAMPION, False, "no better"),
        (replace(SCORE, value=0.81), CHAMPION, True, "0.8100 against 0.8000"),
        (replace(SCORE, value=0.9, data="another"), CHAMPION, False, "other data"),
        (LOSS, CHAMPION, False, "other metric"),
        (LOSS, CHAMPION | {"test.metric": "loss", "test.score": "0.6"}, True, "0.5000 against 0.6000"),
        (LOSS, CHAMPION | {"test.metric": "loss", "test.score": "0.4"}, False, "no better"),
        (SCORE, {}, False, "its own test score is not known"),
    ],
)
def test_the_champion_is_the_best_on_the_same_test_data(
    score: TestScore | None, champion: dict[str, str] | None, wins: bool, why: str
) -> None:
    found, told = is_better(score, champion, "7" if champion is not None else None)
    assert found is wins
    assert why in told


def test_what_was_cut_short_is_done_anew(output: Path, folder: Path) -> None:
    tracker, client = Tracker(output), MlflowClient(tracking_uri(output))
    parent, run = trained(tracker)
    experiment = client.get_run(parent).info.experiment_id
    half = client.create_logged_model(experiment, "half", run, {"hpo.key": run})  # its process was killed here
    tracker.register(winner_of(folder, run), parent)
    (model,) = client.search_logged_models([experiment])
    assert model.model_id != half.model_id and model.status == LoggedModelStatus.READY


def test_a_server_takes_it_and_one_that_is_away_costs_little(
    server: MlflowServer, tmp_path: Path, folder: Path
) -> None:
    tracker = Tracker(tmp_path)
    parent, run = trained(tracker, tmp_path.name)
    winner = replace(winner_of(folder, run), study=tmp_path.name)
    tracker.flush()
    server.hold()
    began = time.monotonic()
    told = tracker.register(winner, parent)
    server.go_on()
    assert "does not answer. The same command registers it." in told
    assert time.monotonic() - began < 25
    assert "It is the champion, as the first" in tracker.register(winner, parent)
    assert len(server.client.search_model_versions(f"name = '{winner.name}'")) == 1


def test_the_code_that_a_model_brings_needs_nothing_of_ours() -> None:
    assert "import hpo" not in SERVED.read_text() and "from hpo" not in SERVED.read_text()
