"""What the tests train on: a two-layer model with a forty-word tokenizer, and sentences whose label is in one word.

No network, no downloads. MLflow's database is migrated once a session and copied, which takes 5 s and 0.04 s.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Of the one who runs the tests, perhaps; they log into folders of their own, or to a server of their own.
os.environ.pop("MLFLOW_TRACKING_URI", None)
# Models this small gain nothing from a second thread, and beside another process they lose by it eightfold.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("OPTUNA_STORAGE", None)  # or the tests would write their studies into a developer's own

import hypothesis
import pytest
import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from hpo.spec import StudySpec
from hpo.storage_server import open_server
from hpo.study_file import parse_study
from mlflow_server import MlflowServer
from postgres import Database, PostgresServer, running_server
from searching import MIXED, TRAINING, MakeSpec

# The same examples at every run; `--hypothesis-profile=long` looks for others (tests/test_fuzzed_input.py).
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=60)
hypothesis.settings.register_profile("long", database=None, deadline=None, max_examples=10_000)
hypothesis.settings.load_profile("repeatable")

GOOD = ("good", "great", "fine", "lovely")
BAD = ("bad", "awful", "poor", "dull")
FILLER = (
    *("the", "a", "film", "plot", "actor", "scene", "was", "is", "and", "of"),
    *("story", "music", "it", "this", "that", "with", "very", "one", "two", "more"),
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def sentences(n: int, seed: int) -> list[tuple[str, int]]:
    """`n` distinct sentences, half of them with a good word, half with a bad one."""
    draw = random.Random(seed)
    rows: dict[str, int] = {}
    while len(rows) < n:
        label = len(rows) % 2
        words = draw.choices(FILLER, k=draw.randint(3, 12))
        words.insert(draw.randrange(len(words)), draw.choice(GOOD if label else BAD))
        rows.setdefault(" ".join(words), label)
    return list(rows.items())


def write_csv(path: Path, rows: list[tuple[str, Any]]) -> Path:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    return path


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is the same to the bit on a CPU need not be on a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *FILLER, *GOOD, *BAD]
    made = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A BERT of two layers, 32 wide, with random weights."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertForSequenceClassification(config).bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("data") / "reviews.csv", sentences(400, seed=1))


StudyMaker = Callable[..., dict[str, Any]]


@pytest.fixture
def raw_study(model_folder: Path, data_file: Path) -> StudyMaker:
    """A study that trains in a second a trial; keywords replace its sections."""

    def make(**sections: Any) -> dict[str, Any]:
        study: dict[str, Any] = {
            "name": "tiny",
            "data": {
                "train": str(data_file),
                "validation_size": 100,
                "test_size": 60,
                "labels": ["negative", "positive"],
            },
            "model": {"name": str(model_folder)},
            "training": {
                "learning_rate": 1e-3,
                "train_batch_size": 16,
                "dropout": 0.1,
                "num_train_epochs": 2,
                "num_evaluations": 4,
                "max_length": 32,
                "precision": "fp32",
            },
            "search_space": {
                "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
                "max_grad_norm": {"choices": [None, 0.5, 1.0]},
            },
            "n_trials": 3,
            "pruner": {"name": "median", "n_startup_trials": 1},
        }
        return study | sections

    return make


@pytest.fixture
def make_spec(raw_study: StudyMaker) -> MakeSpec:
    """The same over a space of every kind of parameter; nothing is trained with it."""

    def make(**sections: Any) -> StudySpec:
        return parse_study(raw_study(**{"training": TRAINING, "search_space": MIXED} | sections), "tiny.yaml")

    return make


@pytest.fixture
def spec(raw_study: StudyMaker) -> StudySpec:
    return parse_study(raw_study(), "tiny.yaml")


@pytest.fixture
def study_path(raw_study: StudyMaker, tmp_path: Path) -> Path:
    """The same study as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw_study()), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hpo.tracking import Tracker

    folder = tmp_path_factory.mktemp("mlflow")
    Tracker(folder)
    return folder / "mlflow.db"


@pytest.fixture
def output(tmp_path: Path, migrated_database: Path) -> Path:
    """An output folder whose MLflow database has its tables already."""
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copy(migrated_database, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[tuple[PostgresServer, str]]:
    """A server, and the name of a database on it with Optuna's tables: copying it is faster than making them."""
    with running_server() as server, server.database() as template:
        open_server(template.url).engine.dispose()
        yield server, template.name


@pytest.fixture
def postgres(postgres_server: tuple[PostgresServer, str]) -> Iterator[Database]:
    """A database of this test's own, on a server that it may stop and start."""
    server, template = postgres_server
    with server.database(template) as database:
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where a study is kept: in the output folder, and on a server."""
    if request.param == "sqlite":
        return None
    database: Database = request.getfixturevalue("postgres")
    return database.url


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    server = MlflowServer(Path(shutil.copy(migrated_database, folder / "mlflow.db")))
    yield server
    server.kill()


@pytest.fixture
def server(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    """An MLflow server that runs, and is the one to log to. Its experiments are those of all tests of the session."""
    mlflow_server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.address)
    return mlflow_server
