"""What the tests share: the tiny model and study of `benchmarks/tiny.py`, databases and servers.

MLflow's database is migrated once a session and copied, which takes 5 s and 0.04 s.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
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
from optuna.storages import BaseStorage
from playwright.sync_api import Browser, sync_playwright
from transformers import PreTrainedTokenizerFast

from benchmarks.mlflow_server import MlflowServer
from benchmarks.postgres import Database, NotInstalled, PostgresServer, binaries, running_server
from benchmarks.tiny import make_tokenizer, save_model, sentences, tiny_study, write_csv
from hpo.spec import StudySpec
from hpo.storage import open_storage
from hpo.storage_server import open_server
from hpo.study_file import parse_study
from searching import MIXED, TRAINING, MakeSpec

# The same examples at every run; `--hypothesis-profile=long` looks for others (tests/test_fuzzed_input.py).
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=60)
hypothesis.settings.register_profile("long", database=None, deadline=None, max_examples=10_000)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command silences its process for good, and tests share one: what is logged after it would not be seen."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is the same to the bit on a CPU need not be on a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer)


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("data") / "reviews.csv", sentences(400, seed=1))


StudyMaker = Callable[..., dict[str, Any]]


@pytest.fixture
def raw_study(model_folder: Path, data_file: Path) -> StudyMaker:
    """A study that trains in a second a trial; keywords replace its sections."""

    return partial(tiny_study, model_folder, data_file)


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
    """A server, and the name of a database on it with Optuna's tables: copying it is faster than making them.

    `HPO_REQUIRE_SERVERS=1` makes its absence an error, as CI does; elsewhere what needs it is skipped.
    """
    try:
        binaries()
    except NotInstalled as error:
        if os.environ.get("HPO_REQUIRE_SERVERS"):
            pytest.fail(str(error))
        pytest.skip(str(error))
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


@pytest.fixture
def storage(tmp_path: Path, address: str | None) -> BaseStorage:
    """Optuna's, of each kind."""
    return open_storage(tmp_path, address)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Chromium without a window; where it is not installed, what needs it is skipped as for PostgreSQL."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        told = "Chromium is not installed: apt-get install chromium"
        if os.environ.get("HPO_REQUIRE_SERVERS"):
            pytest.fail(told)
        pytest.skip(told)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()


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
