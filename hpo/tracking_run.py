"""The run of one trial, and what is logged as the data that its entries hold."""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from hpo.tracking_spool import LOG_BATCH, Entry
from hpo.tracking_store import TrackingStore
from hpo.tracking_writer import Writer

NOTE = "mlflow.note.content"  # the tag that MLflow shows as a run's description, as Markdown
RUN_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
MAX_VALUE = 6000  # characters of a param or a tag that MLflow takes
MAX_NAME = 200  # of a metric: 250 are taken
_REFUSED = re.compile(r"[^\w.\- :]")
Point = tuple[str, float, int]


@dataclass(frozen=True)
class Dataset:
    """A split of the data as MLflow lists it among a run's inputs."""

    context: str
    """What the run did with it: `train`, `validation` or `test`."""
    name: str
    digest: str
    """Of its rows; together with the name it tells one data set from another."""
    source_type: str
    source: str
    """Where it comes from, as JSON; which keys it has depends on the type."""
    schema: str
    profile: str
    """Its size, as JSON."""


def inputs_entry(run: str, datasets: Iterable[Dataset]) -> Entry:
    """Lists data sets among the inputs of a run."""
    return Entry("log_inputs", run, {"datasets": [asdict(dataset) for dataset in datasets]})


def metric_name(name: str) -> str:
    """A metric of a class as MLflow takes it: `f1/c++` is refused there, and so is `f1/..`."""
    parts = (_REFUSED.sub("_", part).strip(".") or "_" for part in name.split("/"))
    return "/".join(parts)[:MAX_NAME]


def metric_points(points: Iterable[Point], at: int | None = None) -> list[tuple[str, float, int, int]]:
    """As of that time in milliseconds, or of now, whenever they will be sent."""
    at = now() if at is None else at
    return [(name, value, at, step) for name, value, step in points]


def tag_values(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(key, str(value)[:MAX_VALUE]) for key, value in tags.items()]


def now() -> int:
    return int(time.time() * 1000)


def milliseconds(moment: datetime) -> int:
    """A moment as MLflow has it, since 1970; one without a time zone is of this machine's, as Optuna's are."""
    return round(moment.timestamp() * 1000)


class TrialRun:
    """The child run of one trial. Its calls do not wait for MLflow: `Tracker.flush` does."""

    def __init__(self, store: TrackingStore, writer: Writer, run: str) -> None:
        self._store, self._writer, self._run = store, writer, run

    @property
    def run_id(self) -> str:
        """The run's id; a stand-in for it until it can be created, which MLflow has as the tag `hpo.key` then."""
        return self._store.known_id(self._run)

    def log_params(self, params: Mapping[str, object]) -> None:
        """The resolved configuration. MLflow's params cannot change once logged."""
        entries = [(name, str(value)[:MAX_VALUE]) for name, value in params.items()]
        self._writer.log(self.run_id, params=entries)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._writer.log(self.run_id, tags=tag_values(tags))

    def log_inputs(self, datasets: Iterable[Dataset]) -> None:
        """The data that it reads."""
        self._writer.later(inputs_entry(self.run_id, datasets))

    def log_points(self, points: Iterable[Point]) -> None:
        """(name, value, step) of curves, as of now."""
        self._writer.log(self.run_id, metrics=metric_points(points))

    def end(
        self,
        state: str,
        *,
        reason: str | None,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        at: int | None = None,
        traceback: str | None = None,
        note: str | None = None,
    ) -> None:
        """Ends the run with the status that `state` (Optuna's) means, its last numbers and its traceback.

        Who gives the same time of the numbers, in milliseconds, may do so again: for MLflow they are the same then.
        """
        told = {**tags, "trial.state": state} | ({"trial.reason": reason} if reason else {})
        told |= {NOTE: note} if note else {}
        last = {
            "metrics": metric_points(((name, value, 0) for name, value in metrics.items()), at),
            "tags": tag_values(told),
        }
        crash = {"text": traceback, "file": "traceback.txt"}
        entries = [
            Entry(LOG_BATCH, self.run_id, last),
            *([Entry("log_text", self.run_id, crash)] if traceback is not None else []),
            Entry("set_terminated", self.run_id, {"status": RUN_STATUS[state], "end_time": now()}),
        ]
        self._writer.later(*entries)
