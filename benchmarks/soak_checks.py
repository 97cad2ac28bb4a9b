"""What must hold of a study that was killed again and again: asked of Optuna, of MLflow and of the disk, one by one."""

import itertools
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmarks.measure import ROOT
from benchmarks.soak_fleet import Seen, read_finished
from benchmarks.table import Check
from hpo.attempts import INTERRUPTED, KILLED, failure_reason, is_retried
from hpo.lease import OWNER
from hpo.output import DATABASES
from hpo.report import best_trial
from hpo.storage import open_storage
from hpo.study import COSTS, ended_trials, load_study, stored_spec
from hpo.tracking_run import RUN_STATUS
from hpo.trial import WEIGHTS, weights_path

# Problems that are told of each check.
SHOWN = 5
# Of the databases, beside the files themselves.
LOGS = ("-wal", "-shm")


@dataclass(frozen=True)
class Run:
    """One of MLflow's, as its database has it."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, Sequence[tuple[int, float]]]
    """(step, value) in the order in which they were logged."""


@dataclass(frozen=True)
class Soaked:
    """A study that has been through it: where it is, what was wanted, and what was seen meanwhile."""

    output: Path
    name: str
    n_trials: int
    seen: Seen
    environment: Mapping[str, str]
    """Of its drivers."""
    mlflow: Path
    """MLflow's database."""
    storage: str | None = None

    @cached_property
    def study(self) -> optuna.Study:
        return load_study(open_storage(self.output, self.storage), self.name)

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    @property
    def folder(self) -> Path:
        return self.output / self.name

    @cached_property
    def parent(self) -> str:
        return str(self.study.user_attrs["mlflow_parent_run_id"])

    @cached_property
    def runs(self) -> dict[str, Run]:
        """All that MLflow has, by id; not by way of the program, nor of MLflow."""
        tags: dict[str, dict[str, str]] = defaultdict(dict)
        metrics: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
        with closing(sqlite3.connect(f"file:{self.mlflow}?mode=ro", uri=True)) as connection:
            for run, key, value in connection.execute("SELECT run_uuid, key, value FROM tags"):
                tags[run][key] = value
            points = "SELECT run_uuid, key, step, value FROM metrics ORDER BY timestamp, step"
            for run, key, step, value in connection.execute(points):
                metrics[run][key].append((step, value))
            statuses = dict(connection.execute("SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'"))
        return {run: Run(run, status, tags[run], metrics[run]) for run, status in statuses.items()}

    @cached_property
    def runs_of_trials(self) -> dict[int, list[Run]]:
        """By the number that they are tagged with."""
        found: dict[int, list[Run]] = defaultdict(list)
        for run in self.runs.values():
            if run.tags.get("mlflow.parentRunId") == self.parent:
                found[int(run.tags["trial.number"])].append(run)
        return dict(found)


def check_all(soaked: Soaked) -> list[Check]:
    """Every check in the order of the table, but for memory."""
    return [*look(soaked), ask_doctor(soaked)]


def look(soaked: Soaked) -> list[Check]:
    """What can be seen from outside."""
    return [
        _check("exactly the wanted number of trials", soaked, _number, _states(soaked)),
        _check("what failed was killed", soaked, _blamed),
        _check("what was killed was tried again, once", soaked, _retries, _retried(soaked)),
        _check("no finished trial was lost or changed", soaked, _lost, f"{len(soaked.seen.finished)} seen to finish"),
        _check("one MLflow run a trial, with its state", soaked, _runs, f"{len(soaked.trials)} runs"),
        _check("all metrics in MLflow, once, in order", soaked, _metrics, _unsent(soaked)),
        _check("no process or file is left over", soaked, _left_over),
        _check("the databases are whole", soaked, _damage),
        _check("no driver ended by itself", soaked, lambda soaked: iter(soaked.seen.ended)),
    ]


def ask_doctor(soaked: Soaked) -> Check:
    """What the program itself finds."""
    return _check("hpo.doctor finds nothing", soaked, _doctor)


def _check(what: str, soaked: Soaked, problems: Callable[[Soaked], Iterable[str]], found: str = "") -> Check:
    broken = list(problems(soaked))
    more = [f"and {len(broken) - SHOWN} more"] if len(broken) > SHOWN else []
    return Check(what, not broken, "; ".join([*broken[:SHOWN], *more]) or found)


# Trials.


def _number(soaked: Soaked) -> Iterator[str]:
    if (n := len(ended_trials(soaked.study))) != soaked.n_trials:
        yield f"{n} trials ended of their own, not {soaked.n_trials}"
    for trial in soaked.trials:
        if not trial.state.is_finished():
            yield f"trial {trial.number} is {trial.state.name}"


def _states(soaked: Soaked) -> str:
    ended = Counter(trial.state.name for trial in ended_trials(soaked.study))
    given_up = ended.pop("FAIL", 0)
    states = [f"{count} {state}" for state, count in sorted(ended.items())]
    return ", ".join([*states, *([f"{given_up} given up"] if given_up else [])])


def _blamed(soaked: Soaked) -> Iterator[str]:
    """Nothing failed but what was killed, and what a killed process still ran can only have failed."""
    for trial in soaked.trials:
        if trial.state == TrialState.FAIL and failure_reason(trial) not in (KILLED, INTERRUPTED):
            yield f"trial {trial.number} failed as {failure_reason(trial)}"
        for kill in soaked.seen.kills:
            started, ended = trial.datetime_start, trial.datetime_complete
            is_owner = trial.user_attrs.get(OWNER, {}).get("pid") == kill.pid
            if is_owner and started and ended and started < kill.at < ended and trial.state != TrialState.FAIL:
                yield f"trial {trial.number} is {trial.state.name}, {ended - kill.at} after its process was killed"


def _retries(soaked: Soaked) -> Iterator[str]:
    attempts: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in soaked.trials:
        if (repeats := trial.user_attrs.get("retry_of")) is not None:
            attempts[repeats].append(trial)
    for trial in soaked.trials:
        again = attempts.pop(trial.number, [])
        if len(again) != is_retried(trial):
            yield f"trial {trial.number} was tried again {len(again)} times, not {int(is_retried(trial))}"
        for other in again:
            if differing := [name for name, value in trial.params.items() if other.params.get(name, value) != value]:
                yield f"trial {other.number} is not trial {trial.number} again: {', '.join(differing)} differ"
    # Drawn from an interval, no point comes twice by chance.
    points = Counter(str(sorted(trial.params.items())) for trial in ended_trials(soaked.study))
    yield from (f"{times} trials ended with {point}" for point, times in points.items() if times > 1)


def _retried(soaked: Soaked) -> str:
    return f"{sum(map(is_retried, soaked.trials))} tried again"


def _lost(soaked: Soaked) -> Iterator[str]:
    now = read_finished(soaked.storage, soaked.output, soaked.name)
    for number, ending in soaked.seen.finished.items():
        if number not in now:
            yield f"trial {number} had ended as {ending}, and has not"
        elif now[number] != ending:
            yield f"trial {number} had ended as {ending}, and now as {now[number]}"


# MLflow.


def _runs(soaked: Soaked) -> Iterator[str]:
    if soaked.parent not in soaked.runs or soaked.runs[soaked.parent].status != "FINISHED":
        yield "the parent run is not FINISHED"
    for trial in soaked.trials:
        runs = soaked.runs_of_trials.get(trial.number, [])
        if len(runs) != 1:
            yield f"trial {trial.number} has {len(runs)} runs"
        for run in runs:
            told = run.status, run.tags.get("trial.state")
            if told != (RUN_STATUS.get(trial.state.name), trial.state.name):
                yield f"trial {trial.number} is {trial.state.name}, its run {told[0]}, tagged {told[1]}"
    if strangers := soaked.runs_of_trials.keys() - {trial.number for trial in soaked.trials}:
        yield f"there are runs of trials that are not there: {sorted(strangers)}"
    yield from (f"run {run.run_id} is RUNNING" for run in soaked.runs.values() if run.status == "RUNNING")


def _metrics(soaked: Soaked) -> Iterator[str]:
    metric = stored_spec(soaked.study).metric
    for trial, run in _trials_and_runs(soaked):
        for key, points in run.metrics.items():
            if [step for step, _ in points] != sorted({step for step, _ in points}):
                yield f"trial {trial.number} has {key} twice at a step, or not in order"
        stored, logged = trial.intermediate_values, dict(run.metrics.get(metric, ()))
        both = stored.keys() & logged.keys()
        if any(stored[step] != logged[step] for step in both):
            yield f"trial {trial.number} has another {metric} in MLflow than in Optuna"
        if trial.state != TrialState.FAIL:
            if both != stored.keys() | logged.keys():
                yield f"trial {trial.number} has {metric} at {sorted(logged)} in MLflow, at {sorted(stored)} in Optuna"
            yield from _last_metrics(trial, run)
    # All train for as many steps, whatever was killed on the way: a curve with a gap is not like the others.
    curves = Counter(
        tuple(step for step, _ in run.metrics.get("train/loss", ()))
        for trial, run in _trials_and_runs(soaked)
        if trial.state == TrialState.COMPLETE
    )
    if len(curves) > 1:
        yield f"train/loss has points at other steps in {sum(curves.values()) - max(curves.values())} complete trials"


def _last_metrics(trial: FrozenTrial, run: Run) -> Iterator[str]:
    """The scores at its end, and what it took."""
    result = trial.user_attrs["result"]
    wanted = {**result["metrics"], **{name: result[name] for name in COSTS}}
    for key, value in wanted.items():
        if not run.metrics.get(key) or run.metrics[key][-1][1] != value:
            yield f"trial {trial.number} ended with {key}={value}, which MLflow has not"


def _unsent(soaked: Soaked) -> str:
    """What a killed process had reported to Optuna, and not sent to MLflow yet: nobody else knows it."""
    metric = stored_spec(soaked.study).metric
    points = sum(len(run.metrics.get(metric, ())) for _, run in _trials_and_runs(soaked))
    unsent = sum(
        len(trial.intermediate_values.keys() - dict(run.metrics.get(metric, ())).keys())
        for trial, run in _trials_and_runs(soaked)
        if trial.state == TrialState.FAIL
    )
    return f"{points} evaluations; {unsent} of killed trials were not sent"


def _trials_and_runs(soaked: Soaked) -> Iterator[tuple[FrozenTrial, Run]]:
    for trial in soaked.trials:
        for run in soaked.runs_of_trials.get(trial.number, []):
            yield trial, run


# The disk, and the whole.


def _doctor(soaked: Soaked) -> Iterator[str]:
    command = [sys.executable, "-m", "hpo.doctor", "--output", str(soaked.output)]
    done = subprocess.run(command, cwd=ROOT, env=dict(soaked.environment), capture_output=True, text=True, timeout=300)
    if done.returncode or done.stdout.strip() != "Nothing is left to mend.":
        yield " ".join(f"exit code {done.returncode}: {done.stdout}{done.stderr}".split())


def _left_over(soaked: Soaked) -> Iterator[str]:
    yield from (f"process {process} is alive" for process in soaked.seen.left)
    best = best_trial(soaked.study)
    weights = weights_path(soaked.folder, best.number) if best else None
    reports = {soaked.folder / name for name in ("best.yaml", "trials.csv", "report.html", "report.md", "study.yaml")}
    databases = {soaked.output / f"{name}{log}" for name in DATABASES for log in ("", *LOGS)}
    locks = {f".{name}.lock" for name in (*DATABASES, soaked.name, f"{soaked.name}.claim")}
    wanted = reports | databases | {soaked.output / lock for lock in locks}
    folders = {soaked.output / "artifacts", soaked.output / "cache", soaked.folder / "figures", weights}
    for path in sorted(path for path in soaked.output.rglob("*") if not path.is_dir()):
        half_written = path.suffix == ".tmp" and path.name.startswith(".")
        if half_written or not (path in wanted or folders & set(path.parents)):
            yield str(path.relative_to(soaked.output))
    if weights and not weights.is_dir():
        yield f"the best weights, {WEIGHTS}/{weights.name}, are not there"
    for path in itertools.chain(soaked.folder.glob(f"{WEIGHTS}/*"), soaked.folder.glob("checkpoints/*")):
        if path != weights and path.is_dir():
            yield str(path.relative_to(soaked.output))


def _damage(soaked: Soaked) -> Iterator[str]:
    databases = [soaked.mlflow, *([soaked.output / "optuna.db"] if soaked.storage is None else [])]
    for database in databases:
        with closing(sqlite3.connect(database)) as connection:
            answers = [answer for (answer,) in connection.execute("PRAGMA integrity_check")]
        if answers != ["ok"]:
            yield f"{database.name}: {answers[0]}"
