"""MLflow's tracking store at one address, which does what entries say; and whether it is only away for the moment.

A run that was created while it was away has a stand-in for an id, `hpo.key=...`, which is also its tag in MLflow.
"""

import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

# Read when mlflow is imported, or with each request.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # for each run that ends
# Of themselves requests are tried for minutes, while the caller, or what was logged later, waits.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for each model that is copied
os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # a project in the working folder is none of the model's

import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils import mlflow_tags
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InterfaceError, OperationalError

from hpo.output import disk_error
from hpo.tracking_spool import Entry

KEY = "hpo.key"
COMPARE = "[Compare the best"
# Of the pages of MLflow's UI: as one of training, for it opens as one of generative AI; and as the study says.
KIND, VIEW_KEY = "workflowType=machine_learning", "hpo"
RUNS_PAGE, VIEW = f"runs?{KIND}&compareRunsMode=CHART", f"viewStateShareKey={VIEW_KEY}"
PATIENCE = 10.0  # seconds that somebody waits for an answer
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
T = TypeVar("T")


class TrackingStore:
    """Each method that an `Entry` names can be done again, and nothing is there twice."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._run_ids: dict[str, str] = {}
        self._experiment_ids: dict[str, str] = {}

    @cached_property
    def client(self) -> MlflowClient:
        """Connects to a database; to a server only its first use does."""
        return MlflowClient(without_password(self._uri))

    def do(self, entry: Entry) -> None:
        """Raises MLflow's errors, of which `is_away` tells whether the same may be done later."""
        getattr(self, entry.do)(entry.run, **entry.arguments)

    def create_run(
        self,
        run: str,
        *,
        parent: str,
        name: str,
        tags: Mapping[str, str],
        start_time: int,
        is_new: bool = False,
    ) -> str:
        """Creates the run of a stand-in below its parent, if it is not there yet, and returns its id.

        Args:
            is_new: nobody has tried to create it, so that it needs not be looked for.
        """
        if parent not in self._experiment_ids:
            self._experiment_ids[parent] = self.client.get_run(parent).info.experiment_id
        experiment_id = self._experiment_ids[parent]
        tags = {mlflow_tags.MLFLOW_PARENT_RUN_ID: parent, **tags}
        return self.create_once(run, experiment_id, name=name, tags=tags, start_time=start_time, is_new=is_new)

    def create_once(
        self, run: str, experiment_id: str, *, name: str, tags: Mapping[str, str], start_time: int, is_new: bool = False
    ) -> str:
        """The answer to its creation may have been lost: then it is found by its key."""
        run_id = None if is_new else self._find([experiment_id], run)
        if run_id is None:
            keyed = {KEY: run.partition("=")[2], **tags}
            made = self.client.create_run(experiment_id, start_time=start_time, tags=keyed, run_name=name)
            run_id = made.info.run_id
        self._run_ids[run] = str(run_id)
        return str(run_id)

    def log_batch(
        self, run: str, *, metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Sequence[Any] = ()
    ) -> None:
        # The client makes several batches of more than MLflow takes in one: 1,000 metrics, 100 params or tags.
        self.client.log_batch(
            self.run_id(run),
            [Metric(*point) for point in metrics],
            [Param(*param) for param in params],
            [RunTag(*tag) for tag in tags],
        )

    def log_inputs(self, run: str, *, datasets: Sequence[Mapping[str, str]]) -> None:
        inputs = []
        for dataset in datasets:
            fields = dict(dataset)
            context = InputTag(mlflow_tags.MLFLOW_DATASET_CONTEXT, fields.pop("context"))
            inputs.append(DatasetInput(Dataset(**fields), [context]))
        self.client.log_inputs(self.run_id(run), inputs)

    def log_text(self, run: str, *, text: str, file: str) -> None:
        self.client.log_text(self.run_id(run), text, file)

    def log_artifact(self, run: str, *, path: str) -> None:
        """A file, or a folder under its name; nothing if it is not there."""
        if os.path.isdir(path):
            self.client.log_artifacts(self.run_id(run), path, artifact_path=os.path.basename(path))
        elif os.path.exists(path):
            self.client.log_artifact(self.run_id(run), path)

    def set_terminated(self, run: str, *, status: str, end_time: int) -> None:
        self.client.set_terminated(self.run_id(run), status, end_time)

    def link_comparison(self, run: str, *, compare: Sequence[str]) -> None:
        """MLflow opens a study with its children folded away, and has no other place for a link to all of them."""
        parent = self.client.get_run(self.run_id(run))
        told = parent.data.tags.get(mlflow_tags.MLFLOW_RUN_NOTE, "").partition(COMPARE)[0].rstrip()
        ids = [run_id for run_id in map(self.run_id, compare) if not is_stand_in(run_id)]
        runs, experiments = (quote(json.dumps(which)) for which in (ids, [parent.info.experiment_id]))
        of = f"#/experiments/{parent.info.experiment_id}"
        links = (
            f"{COMPARE} {len(ids)} trials](#/compare-runs?runs={runs}&experiments={experiments}&{KIND})",
            f"[All trials]({of}/{RUNS_PAGE}&{VIEW})",
            f"[Report]({of}/runs/{parent.info.run_id}/artifacts/report.html?{KIND})",
        )
        self.client.set_tag(parent.info.run_id, mlflow_tags.MLFLOW_RUN_NOTE, f"{told}\n\n{' · '.join(links)}".strip())

    def known_id(self, run: str) -> str:
        """The run's id, or its stand-in as long as this process has not created the run."""
        return self._run_ids.get(run, run)

    def run_id(self, run: str) -> str:
        """The run's id, whichever process created it; its stand-in if it is not there."""
        if is_stand_in(run) and run not in self._run_ids:
            experiments = self.client.search_experiments(view_type=ViewType.ALL)
            if found := self._find([experiment.experiment_id for experiment in experiments], run):
                self._run_ids[run] = found
        return self.known_id(run)

    def _find(self, experiment_ids: Sequence[str], stand_in: str) -> str | None:
        key = stand_in.partition("=")[2]
        found: Sequence[Run] = self.client.search_runs(
            list(experiment_ids), f"tags.`{KEY}` = '{key}'", run_view_type=ViewType.ALL, max_results=1
        )
        return str(found[0].info.run_id) if found else None


def stand_in(key: str) -> str:
    """What stands for the id of a run that has not been created yet."""
    return f"{KEY}={key}"


def is_stand_in(run: str) -> bool:
    return run.startswith(f"{KEY}=")


def is_database(uri: str) -> bool:
    """Whether MLflow itself would open it; else it is a server's address."""
    return re.split(r"[:+]", uri)[0] in DATABASES


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite database."""
    path = make_url(uri).database if uri.startswith("sqlite") else None
    return Path(path) if path else None


def without_password(uri: str) -> str:
    """A server's address without its user. MLflow takes both from variables, and repeats an address in its errors."""
    parts = urlsplit(uri)
    if is_database(uri) or not parts.username or not parts.password:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def make_database(database: Path) -> None:
    """A SQLite database with MLflow's tables, there whole or not at all.

    MLflow makes them one by one, and refuses a database that has some of them: who is killed meanwhile leaves one of
    another name.
    """
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # half a second that others need not wait

    making = database.with_name(f".{database.name}.making")
    for left in database.parent.glob(f"{making.name}*"):  # with the journal of what was cut short
        left.unlink()
    store = SqlAlchemyStore(f"sqlite:///{making}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    store.engine.dispose()
    making.rename(database)


def write_ahead(database: Path) -> None:
    """Lets many processes read a SQLite database while one writes to it. It stays so for whoever opens it.

    Where one of an earlier version is in use, it is left for the next time.
    """
    connection = sqlite3.connect(database, timeout=1)
    try:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
    finally:
        connection.close()


def set_logs_aside(database: Path) -> None:
    """What a database that was moved away has left of its write-ahead log: a new one must not take it for its own."""
    if not database.exists():
        for log in (Path(f"{database}-wal"), Path(f"{database}-shm")):
            if log.exists():
                log.rename(f"{log}-{time.time_ns()}")


def is_away(error: Exception) -> bool:
    """Whether the server or the database did not answer, or has too much to do: later the same may succeed.

    A full disk is not, nor is what MLflow refuses, nor an error of the server's own (500), which would come again.
    """
    if disk_error(error):
        return False
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case requests.exceptions.RetryError():
                return "too many 500" not in str(cause)
            case (
                requests.exceptions.ConnectionError()
                | requests.exceptions.Timeout()
                | requests.exceptions.ChunkedEncodingError()
            ):
                return True
            case OperationalError() | InterfaceError():
                return not isinstance(cause.orig, sqlite3.Error) or "locked" in str(cause.orig)
            case MlflowException(error_code="TEMPORARILY_UNAVAILABLE") if cause.__cause__ is None:
                return True
        cause = cause.__cause__ or cause.__context__
    return False


def within(seconds: float, ask: Callable[[], T]) -> T:
    """The answer, from a thread that nobody waits for if it takes longer. Raises TimeoutError then."""
    answer: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(ask())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answer:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answer[0]


def patiently(ask: Callable[[], T], seconds: float) -> T:
    """Asks again while nobody answers, for so long in all; raises the last error then, and any other at once."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except Exception as error:
            if not is_away(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
