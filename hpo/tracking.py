"""Tracking in MLflow: one parent run a study, one child run a trial.

What is logged leaves from a background thread. Whatever is read from MLflow waits for that first, so that it sees all
that was logged before it; so do the end of a study and, by `flush`, whoever relies on it. While the server is away,
what was logged is on disk, and a study goes on; only its start needs the server.

Everything goes through `MlflowClient` with explicit run ids: the fluent API's stack of active runs is of a thread.
A trial's state is told truly: COMPLETE is FINISHED, PRUNED is KILLED with the tag `trial.state`, a failure FAILED.
"""

import functools
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar
from uuid import uuid4

from mlflow.entities import Experiment, LifecycleStage, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils import mlflow_tags
from sqlalchemy.exc import DatabaseError

from hpo.addresses import hide_passwords, masked
from hpo.errors import StorageError
from hpo.output import opening
from hpo.provenance import git_commit, versions
from hpo.tracking_model import Winner, register
from hpo.tracking_run import NOTE, Dataset, Point, TrialRun, inputs_entry, metric_points, now, tag_values
from hpo.tracking_spool import LOG_BATCH, Entry, Spool
from hpo.tracking_store import (
    PATIENCE,
    RUNS_PAGE,
    VIEW,
    VIEW_KEY,
    TrackingStore,
    is_away,
    is_database,
    is_stand_in,
    make_database,
    patiently,
    set_logs_aside,
    sqlite_file,
    stand_in,
    within,
    write_ahead,
)
from hpo.tracking_writer import Writer, send_all

# 50 ids of 32 characters, quoted, fit into a tag, and more curves than that are no comparison.
MAX_COMPARED = 50
# The tag of a trial's run, with its number.
NUMBER = "trial.number"
# The tag of an experiment in which the UI keeps a view that somebody shared.
SHARED_VIEW = "mlflow.sharedViewState."
MAX_NOTE = 5000  # with the links 8,000 characters at most, which MLflow takes
MAX_VIEW = 5000  # characters of such a tag that MLflow takes
T = TypeVar("T")

__all__ = ["Dataset", "Point", "RunsTable", "Tracker", "TrialRun", "tracker_of", "tracking_uri"]


def tracking_uri(output: Path) -> str:
    """MLflow's address: `MLFLOW_TRACKING_URI` where it is set, else `mlflow.db` in the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(output / 'mlflow.db').resolve()}"


@dataclass(frozen=True)
class RunsTable:
    """How MLflow's UI is to show the trials of a study: the best first, with the columns that tell them apart.

    Of itself it shows the study's run alone, folded, and no score.
    """

    metric: str
    maximize: bool
    metrics: Sequence[str]
    params: Sequence[str]

    def view(self, parent_run_id: str) -> str:
        """The same as the UI keeps a view that somebody shares."""
        columns = [f"metrics.`{name}`" for name in self.metrics]
        params = [f"params.`{name}`" for name in self.params]
        while len(view := self._state(parent_run_id, [*columns, *params, "tags.`trial.state`"])) > MAX_VIEW:
            params.pop()
        return view

    def _state(self, parent_run_id: str, columns: Sequence[str]) -> str:
        state = {
            "searchFilter": f"tags.`{mlflow_tags.MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}'",
            "orderByKey": f"metrics.`{self.metric}`",
            "orderByAsc": not self.maximize,
            "selectedColumns": list(columns),
        }
        return json.dumps(state)


class Tracker:
    """The tracking of one output folder."""

    def __init__(self, output: Path) -> None:
        """Opens the database; its first use creates the tables, which takes seconds. A server is not asked yet.

        Raises:
            StorageError: it is damaged or cannot be written.
        """
        uri, self._output = tracking_uri(output), output
        self._is_own = not os.environ.get("MLFLOW_TRACKING_URI")
        self._address = "mlflow.db" if self._is_own else masked(uri)  # its folder may move
        self._artifacts = (output / "artifacts").resolve() if is_database(uri) else None
        self._store = TrackingStore(uri)
        if database := sqlite_file(uri):
            _open(database, self._store)
        self._spool = Spool(output / "spool", self._address)
        self._writer = Writer(self._store.do, is_away, self._spool)

    def _ask(self, ask: Callable[[], T], patience: float = PATIENCE) -> T:
        """For everything but logging: it comes after all that was logged before.

        Raises:
            StorageError: the server does not answer.
        """
        self.flush()
        try:
            if not self._writer.catch_up():
                raise TimeoutError("no answer")
            return patiently(ask, patience)
        except Exception as error:
            if isinstance(error, TimeoutError) or is_away(error):
                raise self._unreachable(error) from error
            raise

    def _unreachable(self, error: BaseException) -> StorageError:
        while (cause := error.__cause__ or error.__context__) is not None:
            error = cause
        reason = hide_passwords(str(error) or type(error).__name__).splitlines()[0]
        if self._is_own:
            return _unusable(self._output / "mlflow.db", reason)
        return StorageError(
            f"MLFLOW_TRACKING_URI must be the address of a server that answers, but got {self._address}: {reason}. "
            "Start it, correct the variable, or unset it: without it tracking goes to mlflow.db in the output folder."
        )

    def flush(self) -> None:
        """Waits until all that was logged is in MLflow or, while its server is away, is safe on the disk.

        Raises what went wrong on the way.
        """
        self._writer.flush()

    def waiting(self) -> dict[str, int]:
        """How many entries dead processes left on disk, by the address that they are for."""
        return dict(self._spool.waiting())

    @property
    def address(self) -> str:
        """Of MLflow, without a password."""
        return self._address

    def send_waiting(self) -> list[str]:
        """Sends what earlier processes, or this one, had to leave on disk, and says so.

        Raises:
            StorageError: the server does not answer.
        """
        try:
            if not self._is_own:  # that one was opened, and takes as long as other processes write to it
                within(PATIENCE, lambda: self._store.client.search_experiments(max_results=1))
        except (MlflowException, TimeoutError, DatabaseError, OSError, ValueError) as error:
            raise self._unreachable(error) from error
        n = self._spool.waiting()
        self._writer.catch_up(answers=True)
        refused = self._ask(self._send_left)
        notes = []
        if sent := n.pop(self._address, 0):
            notes.append(f"Sent to MLflow what had waited for it on disk: {sent:,} entries.")
        if refused:
            notes.append(f"MLflow refused {len(refused)} of them: {hide_passwords(str(refused[0]).splitlines()[0])}")
        for address, count in n.items():
            notes.append(
                f"{count:,} entries in {self._spool.folder} wait for another MLflow, {address}. "
                "To send them run this with MLFLOW_TRACKING_URI set to it, or unset for mlflow.db."
            )
        return notes

    def _send_left(self) -> list[Exception]:
        """Sends what dead processes left on disk. Returns what MLflow refused; raises that it is away."""
        refused: list[Exception] = []
        for file in self._spool.left():
            while entries := file.next():
                send_all(entries, self._store.do, is_away, refused.append)
                file.advance()
            file.remove()
        return refused

    def studies(self) -> dict[str, str]:
        """Their pages within MLflow's UI, the newest first: name -> page."""
        client = self._store.client
        experiments = self._ask(lambda: client.search_experiments(order_by=["creation_time DESC"]))
        return {each.name: _page(each) for each in experiments if each.name != "Default"}

    def start_study(
        self,
        name: str,
        run_id: str | None,
        description: str,
        tags: Mapping[str, str],
        below: str | None = None,
        table: RunsTable | None = None,
    ) -> str:
        """Creates the parent run, or sets the one of a resumed study running again. Returns its id.

        Args:
            table: how the UI is to show its trials.
            below: another run, of which this one is to be a child: that of the study whose finalists it holds.

        A run that is not there any more, since a user deleted it or moved the database away, is created anew.

        Raises:
            StorageError: the server does not answer.
        """
        key, started_at, client = stand_in(uuid4().hex), now(), self._store.client

        def start() -> str:
            above = None if below is None else client.get_run(below)
            experiment_id: str = self._experiment(name) if above is None else above.info.experiment_id
            if run_id is not None and self._find(run_id):
                client.update_run(run_id, status="RUNNING")
                started = run_id
            else:
                nested = {} if below is None else {mlflow_tags.MLFLOW_PARENT_RUN_ID: below}
                started = self._store.create_once(
                    key, experiment_id, name=name, tags={**_source_tags(), **nested}, start_time=started_at
                )
            client.set_tag(started, NOTE, description)
            if table is not None:
                client.set_experiment_tag(experiment_id, f"{SHARED_VIEW}{VIEW_KEY}", table.view(started))
            return started

        started = self._ask(start)
        self._writer.log(started, tags=tag_values(tags))
        return started

    def _experiment(self, name: str) -> str:
        client = self._store.client
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            made = client.create_experiment(
                name,
                # A server has a place of its own.
                artifact_location=(self._artifacts / name).as_uri() if self._artifacts else None,
                # Or MLflow 3 opens the experiment as one of generative AI, without runs and charts.
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
            return str(made)
        if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _find(self, run_id: str) -> Run | None:
        """The run, or None if it was deleted, or is of a database that was moved away."""
        try:
            run = self._store.client.get_run(run_id)
        except MlflowException as error:
            if is_away(error):
                raise
            return None
        return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None

    def end_study(
        self,
        run_id: str,
        status: str | None,
        metrics: Mapping[str, float] = MappingProxyType({}),
        files: Iterable[Path] = (),
        compare: Sequence[str] = (),
        note: str | None = None,
        inputs: Iterable[Dataset] = (),
    ) -> None:
        """Gives the parent run its end state, and what there is to show.

        Args:
            status: None where others go on with it, who will end it.
            metrics: the best scores.
            note: its description in Markdown, instead of the one that it has.
            inputs: the data that it read.
            files: to be kept with it; folders keep their name.
            compare: runs, the best first, of which the description links to MLflow's comparison.
        """
        entries = [Entry("log_artifact", run_id, {"path": str(path.resolve())}) for path in files]
        if metrics:
            points = metric_points((name, value, 0) for name, value in metrics.items())
            entries.append(Entry(LOG_BATCH, run_id, {"metrics": points}))
        if note is not None:
            entries.append(Entry(LOG_BATCH, run_id, {"tags": tag_values({NOTE: note[:MAX_NOTE]})}))
        if datasets := list(inputs):
            entries.append(inputs_entry(run_id, datasets))
        if compare:
            entries.append(Entry("link_comparison", run_id, {"compare": list(compare[:MAX_COMPARED])}))
        if status is not None:
            entries.append(Entry("set_terminated", run_id, {"status": status, "end_time": now()}))
        self._writer.later(*entries)
        self.flush()
        self._writer.catch_up()

    def register(self, winner: Winner, parent_run_id: str) -> str:
        """Registers a study's winner, if that is not done yet, and says in sentences what came of it.

        Nothing waits for a server that is away, and nothing fails by it: the next call does what is left.
        """
        client = self._store.client

        def ask() -> str:
            parent = client.get_run(parent_run_id)
            return register(client, winner, self._find(self._store.run_id(winner.run)) or parent, parent)

        try:
            return self._ask(ask, patience=0)
        except StorageError:
            return (
                f"The winner's model is not in MLflow's registry yet, for {self._address} does not answer. "
                "The same command registers it."
            )
        except MlflowException as error:
            why = hide_passwords(str(error).splitlines()[0])
            return f"MLflow did not take the winner's model into its registry: {why}"

    def start_trial(
        self, parent_run_id: str, number: int, tags: Mapping[str, str], at: int, name: str | None = None
    ) -> TrialRun:
        """Creates the child run of a trial, now or, if the server is away, when it is back.

        Args:
            at: when the trial began, in milliseconds.
            name: of the run; default: of its number.
        """
        entry = _creation(parent_run_id, number, tags, at, name)
        self.flush()
        try:
            if not self._writer.is_away:
                self._store.create_run(entry.run, **entry.arguments, is_new=True)
                return self.trial_run(entry.run)
        except Exception as error:
            if not is_away(error):
                raise
        self._writer.later(entry)
        return self.trial_run(entry.run)

    def dead_trial(
        self, parent_run_id: str, number: int, tags: Mapping[str, str], at: int, name: str | None = None
    ) -> TrialRun:
        """As `start_trial`, for a trial that died before it could say which its run is: if it had one, it is that."""
        entry = _creation(parent_run_id, number, tags, at, name)
        self._writer.later(entry)
        return self.trial_run(entry.run)

    def running_trials(self, parent_run_id: str) -> list[tuple[int, TrialRun]]:
        """The child runs that have no end yet, of trials that run or of dead ones, with the trials' numbers.

        While MLflow is away there are none, nor is it waited for.
        """

        def running() -> Sequence[Run]:
            for error in self._send_left():  # of workers that died meanwhile
                self._writer.refused(error)
            parent = self._find(parent_run_id)
            if parent is None:
                return []
            return self._children(parent, "attributes.status = 'RUNNING' and ", ViewType.ALL)

        try:
            runs = self._ask(running, patience=0)
        except StorageError:
            return []
        return [(int(run.data.tags[NUMBER]), TrialRun(self._store, self._writer, run.info.run_id)) for run in runs]

    def has(self, run_id: str) -> bool:
        """Whether a run is there, and not deleted.

        Raises:
            StorageError: MLflow cannot be asked.
        """
        return self._ask(lambda: self._find(run_id)) is not None

    def statuses(self, parent_run_id: str) -> dict[str, str]:
        """MLflow's status of the parent run and of each of its children by run id; nothing of one that is not there.

        Raises:
            StorageError: MLflow cannot be asked.
        """

        def ask() -> dict[str, str]:
            parent = self._find(parent_run_id)
            if parent is None:
                return {}
            return {run.info.run_id: run.info.status for run in (parent, *self._children(parent))}

        return self._ask(ask)

    def _children(self, parent: Run, condition: str = "", view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
        """The runs of a study's trials, not that of its finalists; MLflow gives them a thousand at a time."""
        of = f"{condition}tags.`{mlflow_tags.MLFLOW_PARENT_RUN_ID}` = '{parent.info.run_id}'"
        found, page = list[Run](), None
        while page != "":
            runs = self._store.client.search_runs([parent.info.experiment_id], of, view, 1000, page_token=page)
            found += [run for run in runs if NUMBER in run.data.tags]
            page = runs.token or ""
        return found

    def trial_run(self, run_id: str) -> TrialRun:
        """A run that is there already."""
        return TrialRun(self._store, self._writer, run_id)

    def created(self, runs: Iterable[str]) -> dict[str, str]:
        """The ids of runs that were created while the server was away: stand-in -> id, where it is known by now."""
        stand_ins = [run for run in runs if is_stand_in(run)]
        if not stand_ins:
            return {}
        try:
            found = self._ask(lambda: {run: self._store.run_id(run) for run in stand_ins}, patience=0)
        except StorageError:
            found = {run: self._store.known_id(run) for run in stand_ins}
        return {run: run_id for run, run_id in found.items() if not is_stand_in(run_id)}

    def rename_study(self, name: str, kept: str) -> None:
        """Gives a study's experiment the name under which it is kept, so that another one may have its own."""
        client = self._store.client

        def rename() -> None:
            if experiment := client.get_experiment_by_name(name):
                client.rename_experiment(experiment.experiment_id, kept)

        self._ask(rename)

    def end_stale_study(self, run_id: str) -> None:
        """Ends a parent run that a dead driver left RUNNING; any other end it has stays."""

        def end() -> None:
            run = self._find(run_id)
            if run is not None and run.info.status == "RUNNING":
                self._store.client.set_terminated(run_id, "KILLED")

        self._ask(end)


def _creation(parent_run_id: str, number: int, tags: Mapping[str, str], at: int, name: str | None) -> Entry:
    """Creates the run of a trial, with a key that is the same whoever does so.

    The number alone may have been another trial's: of a study that was begun anew, and kept its parent run.
    """
    told = {**_source_tags(), NUMBER: str(number), "trial.state": "RUNNING", **tags}
    arguments = {"parent": parent_run_id, "name": name or f"trial-{number:04d}", "tags": told, "start_time": at}
    return Entry("create_run", stand_in(f"{parent_run_id}-{number}-{at}"), arguments)


def _page(experiment: Experiment) -> str:
    """With the study's own view, where it has one."""
    view = f"&{VIEW}" if f"{SHARED_VIEW}{VIEW_KEY}" in experiment.tags else ""
    return f"experiments/{experiment.experiment_id}/{RUNS_PAGE}{view}"


def _open(database: Path, store: TrackingStore) -> None:
    try:
        with opening(database):
            set_logs_aside(database)
            if not database.exists():
                make_database(database)
            store.client.search_experiments(max_results=1)
            write_ahead(database)
    except (MlflowException, DatabaseError, sqlite3.Error, OSError) as error:
        raise _unusable(database, str(error).splitlines()[0]) from error


def _unusable(database: Path, reason: str) -> StorageError:
    return StorageError(
        f"{database} must be a database of MLflow that can be written, but got: {reason}. "
        f"Move it away, with {database.name}-wal if that is there, or give another folder with --output."
    )


@functools.cache
def tracker_of(output: Path) -> Tracker:
    """One tracker a process and output folder."""
    return Tracker(output)


# A forked process has a copy of the tracker, but not its thread.
os.register_at_fork(after_in_child=tracker_of.cache_clear)


@functools.cache
def _source_tags() -> dict[str, str]:
    commit = git_commit()
    return {
        mlflow_tags.MLFLOW_SOURCE_NAME: "python -m hpo.run",
        mlflow_tags.MLFLOW_SOURCE_TYPE: "LOCAL",
        **({mlflow_tags.MLFLOW_GIT_COMMIT: commit} if commit else {}),
        **{f"version.{package}": version for package, version in versions().items()},
    }
