"""MLflow, and the only file that imports it: one parent run a study, one child run a trial.

What is logged leaves from a background thread. Whatever else is asked of MLflow waits for that first, so that it sees
all that was logged before it; so do the end of a study and, by `flush`, whoever relies on it.

Everything goes through `MlflowClient` with explicit run ids: the fluent API's stack of active runs is of a thread.
A trial's state is told truly: COMPLETE is FINISHED, PRUNED is KILLED with the tag `trial.state`, a failure FAILED.
"""

import functools
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils import mlflow_tags
from sqlalchemy.exc import DatabaseError

from hpo.errors import StorageError
from hpo.output import opening
from hpo.provenance import git_commit, versions
from hpo.tracking_writer import Batch, Writer

RUN_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
MAX_VALUE = 6000  # characters of a param or a tag that MLflow takes
# 50 ids of 32 characters, quoted, fit into a tag, and more curves than that are no comparison.
MAX_COMPARED = 50
COMPARE = "[Compare the best"
Point = tuple[str, float, int]


def tracking_uri(output: Path) -> str:
    return f"sqlite:///{(output / 'mlflow.db').resolve()}"


class Tracker:
    """The MLflow database of one output folder."""

    def __init__(self, output: Path) -> None:
        """Opens the database; its first use creates the tables, which takes seconds.

        Raises:
            StorageError: it is damaged or cannot be written.
        """
        self._artifacts = (output / "artifacts").resolve()
        try:
            with opening(output / "mlflow.db"):
                self._unordered = MlflowClient(tracking_uri(output))
                self._unordered.search_experiments(max_results=1)
        except (MlflowException, DatabaseError, OSError) as error:
            raise StorageError(
                f"{output / 'mlflow.db'} must be a database of MLflow that can be written, but got: "
                f"{str(error).splitlines()[0]}. Move it away, or give another folder with --output."
            ) from error
        self._writer = Writer(self._send)
        self._experiment_ids: dict[str, str] = {}

    @property
    def _client(self) -> MlflowClient:
        """For everything but logging: it comes after all that was logged before."""
        self.flush()
        return self._unordered

    def flush(self) -> None:
        """Waits until all that was logged is in the database; raises what went wrong on the way."""
        self._writer.flush()

    def studies(self) -> dict[str, str]:
        """The studies' experiments, the newest first: name -> id."""
        experiments = self._client.search_experiments(order_by=["creation_time DESC"])
        return {experiment.name: experiment.experiment_id for experiment in experiments if experiment.name != "Default"}

    def start_study(self, name: str, run_id: str | None, description: str, tags: Mapping[str, str]) -> str:
        """Creates the parent run, or sets the one of a resumed study running again. Returns its id.

        A run that is not there any more, since a user deleted it or moved the database away, is created anew.
        """
        experiment_id = self._experiment(name)
        if run_id is not None and self._find(run_id):
            self._client.update_run(run_id, status="RUNNING")
        else:
            run_id = self._client.create_run(experiment_id, run_name=name, tags=_source_tags()).info.run_id
        self._client.set_tag(run_id, mlflow_tags.MLFLOW_RUN_NOTE, description)
        self._writer.log(run_id, tags=_tags(tags))
        return run_id

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            made = self._client.create_experiment(
                name,
                artifact_location=(self._artifacts / name).as_uri(),
                # Or MLflow 3 opens the experiment as one of generative AI, without runs and charts.
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
            return str(made)
        if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _find(self, run_id: str) -> Run | None:
        """The run, or None if it was deleted, or is of a database that was moved away."""
        client = self._client  # what it may raise is of another call, and not that the run is missing
        try:
            run = client.get_run(run_id)
        except MlflowException:
            return None
        return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None

    def end_study(
        self,
        run_id: str,
        status: str,
        metrics: Mapping[str, float] = MappingProxyType({}),
        files: Iterable[Path] = (),
        compare: Sequence[str] = (),
    ) -> None:
        """Gives the parent run its end state, and what there is to show.

        Args:
            metrics: the best scores.
            files: to be kept with it; folders keep their name.
            compare: runs, the best first, of which the description links to MLflow's comparison.
        """
        if compare:
            self._link_comparison(run_id, compare[:MAX_COMPARED])
        if metrics:
            self._writer.log(run_id, metrics=_metrics((name, value, 0) for name, value in metrics.items()))
        for path in files:
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), artifact_path=path.name)
            elif path.exists():
                self._client.log_artifact(run_id, str(path))
        # Not directly: it would raise what failed before, and leave the run RUNNING.
        self._writer.later(lambda: self._unordered.set_terminated(run_id, status))
        self.flush()

    def _link_comparison(self, run_id: str, compare: Sequence[str]) -> None:
        """MLflow opens a study with its children folded away, and has no other place for a link to all of them."""
        run = self._client.get_run(run_id)
        told = run.data.tags.get(mlflow_tags.MLFLOW_RUN_NOTE, "").partition(COMPARE)[0].rstrip()
        runs, experiments = (quote(json.dumps(ids)) for ids in (list(compare), [run.info.experiment_id]))
        link = f"{COMPARE} {len(compare)} trials](#/compare-runs?runs={runs}&experiments={experiments})"
        self._client.set_tag(run_id, mlflow_tags.MLFLOW_RUN_NOTE, f"{told}\n\n{link}".strip())

    def start_trial(self, parent_run_id: str, number: int, tags: Mapping[str, str]) -> "TrialRun":
        """Creates the child run of a trial."""
        if parent_run_id not in self._experiment_ids:
            self._experiment_ids[parent_run_id] = self._client.get_run(parent_run_id).info.experiment_id
        run = self._client.create_run(
            self._experiment_ids[parent_run_id],
            run_name=f"trial-{number:04d}",
            tags={
                **_source_tags(),
                mlflow_tags.MLFLOW_PARENT_RUN_ID: parent_run_id,
                "trial.number": str(number),
                "trial.state": "RUNNING",
                **tags,
            },
        )
        return TrialRun(self, run.info.run_id)

    def running_trials(self, parent_run_id: str) -> list[tuple[int, "TrialRun"]]:
        """The child runs that have no end yet, of trials that run or of dead ones, with the trials' numbers."""
        parent = self._find(parent_run_id)
        if parent is None:
            return []
        running = self._client.search_runs(
            [parent.info.experiment_id],
            f"attributes.status = 'RUNNING' and tags.`{mlflow_tags.MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}'",
            run_view_type=ViewType.ALL,
        )
        return [(int(run.data.tags["trial.number"]), TrialRun(self, run.info.run_id)) for run in running]

    def rename_study(self, name: str, kept: str) -> None:
        """Gives a study's experiment the name under which it is kept, so that another one may have its own."""
        if experiment := self._client.get_experiment_by_name(name):
            self._client.rename_experiment(experiment.experiment_id, kept)

    def end_stale_study(self, run_id: str) -> None:
        """Ends a parent run that a dead driver left RUNNING; any other end it has stays."""
        run = self._find(run_id)
        if run is not None and run.info.status == "RUNNING":
            self._client.set_terminated(run_id, "KILLED")

    def _send(self, run_id: str, batch: Batch) -> None:
        # The client makes several batches of more than MLflow takes in one: 1,000 metrics, 100 params or tags.
        self._unordered.log_batch(run_id, batch.metrics, batch.params, batch.tags)


def _metrics(points: Iterable[Point]) -> list[Metric]:
    """As of now, whenever they will be sent."""
    now = _now()
    return [Metric(name, value, now, step) for name, value, step in points]


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, str(value)[:MAX_VALUE]) for key, value in tags.items()]


def _now() -> int:
    return int(time.time() * 1000)


class TrialRun:
    """The child run of one trial. Its calls do not wait for MLflow: `Tracker.flush` does."""

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        self._tracker = tracker
        self.run_id = run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """The resolved configuration. MLflow's params cannot change once logged."""
        entries = [Param(name, str(value)[:MAX_VALUE]) for name, value in params.items()]
        self._tracker._writer.log(self.run_id, params=entries)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._tracker._writer.log(self.run_id, tags=_tags(tags))

    def log_points(self, points: Iterable[Point]) -> None:
        """(name, value, step) of curves, as of now."""
        self._tracker._writer.log(self.run_id, metrics=_metrics(points))

    def end(
        self,
        state: str,
        *,
        reason: str | None,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        traceback: str | None = None,
    ) -> None:
        """Ends the run with the status that `state` (Optuna's) means, its last numbers and its traceback."""
        client, ended = self._tracker._unordered, _now()
        last = Batch(
            metrics=_metrics((name, value, 0) for name, value in metrics.items()),
            tags=_tags({**tags, "trial.state": state} | ({"trial.reason": reason} if reason else {})),
        )

        def end() -> None:
            self._tracker._send(self.run_id, last)
            if traceback is not None:
                client.log_text(self.run_id, traceback, "traceback.txt")
            client.set_terminated(self.run_id, RUN_STATUS[state], ended)

        self._tracker._writer.later(end)


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
