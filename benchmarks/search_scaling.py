"""What a trial costs beside its training, as its study grows: the sampler, Optuna's storage, the tracking, the rest.

    python -m benchmarks.search_scaling                          # all of it, in about five minutes, 3 GB of disk
    python -m benchmarks.search_scaling --only tpe:10 random:10  # a look, in half a minute

A study of `studies/sst2.yaml` is filled to N trials, in Optuna's database and in MLflow's, with what its first trial
has left there and other parameters. Then the driver itself (`hpo.tune.tune`) runs some more on top, where only the
training is played: its evaluations and curves come at once. A trial is timed from the end of the one before it to its
own; the first one is left out, for it reads the study. `alone` is the same sampler on the same trials in Optuna's
memory: what `Study.ask` and the suggestions take without us, without a database, without tracking.
"""

import argparse
import gc
import io
import json
import logging
import math
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from sqlalchemy import Engine, event
from sqlalchemy.exc import SADeprecationWarning

from benchmarks.measure import ROOT, machine, software
from hpo import space
from hpo.console import StudyConsole
from hpo.data.splits import Split, Splits
from hpo.events import Event, OnEvent, TrialEnded, TrialStarted
from hpo.facts import DataFacts, MachineFacts, ModelFacts, StudyFacts
from hpo.provenance import versions
from hpo.report import write_report
from hpo.report.figures import dress, png
from hpo.search import build_sampler
from hpo.spec import StudySpec, TrialConfig
from hpo.storage import open_storage
from hpo.study import load_study
from hpo.study_file import read_study
from hpo.tracking import Tracker, TrialRun
from hpo.training.finetune import CurvePoint, Evaluation, Progress
from hpo.training.setup import Setup
from hpo.tune import Outcome, tune

FIGURE = ROOT / "benchmarks" / "figures" / "search_scaling.png"
SIZES = {"tpe": (10, 100, 1000), "random": (10, 100, 1000, 10_000)}
# Of a trial: points of its training curves, as many as `hpo.training.finetune` keeps of a long training.
STEPS = 200
PARTS = ("sampler", "pruner", "storage", "tracking", "garbage", "rest")
FACTS = StudyFacts(
    DataFacts({"train": 57_431, "validation": 872, "test": 872}, ["negative", "positive"], "sha256:data", []),
    ModelFacts("distilbert/distilbert-base-uncased", 66_955_010, "sha256:model", []),
    MachineFacts("cpu", "fp32", dict(versions())),
    {"distilbert/distilbert-base-uncased": "sha256:model"},
)


_TWO = Split(("bad", "good"), np.array([0, 1]))
PLAYED_SPLITS = Splits(_TWO, _TWO, _TWO, ("negative", "positive"), FACTS.data.fingerprint, ())


@dataclass
class Clock:
    """Adds up the time by part, each without what it calls of another one."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _running: list[str] = field(default_factory=lambda: ["rest"])
    _since: float = field(default_factory=time.perf_counter)
    _thread: int = field(default_factory=threading.get_ident)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            if threading.get_ident() != self._thread:  # what is done beside a trial is not waited for
                return function(*arguments, **keywords)
            self._enter(part)
            try:
                return function(*arguments, **keywords)
            finally:
                self._leave()

        return call

    def lap(self) -> dict[str, float]:
        """The time by part since the last lap."""
        self._count()
        lap = {part: self.seconds[part] for part in PARTS}
        self.seconds.clear()
        return lap

    def _enter(self, part: str) -> None:
        self._count()
        self._running.append(part)

    def _leave(self) -> None:
        self._count()
        self._running.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now


@dataclass
class Stopwatch:
    """The console of `hpo.run` on a pipe, and the time of each trial by part."""

    console: StudyConsole
    clock: Clock
    laps: list[dict[str, float]] = field(default_factory=list)
    before: float = 0.0
    """Seconds until the first trial has started: opening, checking and reading the study."""

    def header(self, study: optuna.Study, facts: StudyFacts, notes: list[str]) -> None:
        self.console.header(study, facts, notes)

    def status(self, text: str) -> None: ...

    @contextmanager
    def running(
        self, title: str = "search", total: int | None = None, done: int = 0, timeout: float | None = None
    ) -> Iterator[OnEvent]:
        with self.console.running(title, total, done) as tell:

            def on_event(told: Event) -> None:
                tell(told)
                if isinstance(told, TrialStarted) and not self.before:
                    self.before = sum(self.clock.lap().values())
                if isinstance(told, TrialEnded):
                    self.laps.append(self.clock.lap())

            yield on_event


@dataclass(frozen=True)
class Measured:
    """Seconds of one sampler at one number of trials."""

    sampler: str
    size: int
    parts: list[dict[str, float]]
    """Of each trial."""
    alone: list[float]
    """Of the sampler alone."""
    before: float
    """From the command to its first trial."""
    after: float
    """From the end of the last trial to that of the command: report, figures, export, MLflow."""
    report: float
    """Of `python -m hpo.report`, without its imports."""
    summary: float
    """Of what the terminal shows at the end."""
    files: dict[str, int]
    """Bytes."""

    @property
    def totals(self) -> list[float]:
        return [sum(parts.values()) for parts in self.parts]


def measure(spec: StudySpec, size: int, repeats: int, folder: Path) -> Measured:
    """Fills a study to `size` trials and runs `repeats` more."""
    clock = Clock()
    run_study(spec, 1, folder, Clock())
    trials = fill(spec, size, folder)
    with clocked(clock, spec):
        clock.lap()
        stopwatch, outcome = run_study(spec, size + 1 + repeats, folder, clock)
        after = sum(clock.lap().values())
        stopwatch.console.summary(outcome)
        summary = sum(clock.lap().values())
    report = seconds_of(lambda: write_report_again(spec, folder))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "artifacts" not in path.parts]
    return Measured(
        sampler=spec.sampler.name,
        size=size,
        parts=stopwatch.laps[1:],
        alone=sampler_alone(spec, trials, repeats),
        before=stopwatch.before,
        after=after,
        report=report,
        summary=summary,
        files={str(path.relative_to(folder)): path.stat().st_size for path in files if path.stat().st_size},
    )


def run_study(spec: StudySpec, n_trials: int, folder: Path, clock: Clock) -> tuple[Stopwatch, Outcome]:
    """The driver as `hpo.run` calls it, where only what loads and trains is played."""
    wanted = spec.model_copy(update={"n_trials": n_trials, "finalists": None})
    console = StudyConsole(wanted, folder, None, Console(file=io.StringIO(), width=100))
    stopwatch = Stopwatch(console, clock)
    with ExitStack() as patches:
        patches.enter_context(mock.patch("hpo.tune.study_facts", lambda spec, cache: FACTS))
        patches.enter_context(mock.patch("hpo.tune.study_datasets", lambda spec: []))
        patches.enter_context(mock.patch("hpo.trial.set_up", played_setup))
        patches.enter_context(mock.patch("hpo.trial.finetune", played_training))
        patches.enter_context(mock.patch("hpo.trial.keep_best", lambda *arguments, **named: None))  # no weights
        return stopwatch, tune(wanted, folder, stopwatch)


def played_setup(config: TrialConfig, cache: Path) -> Setup:
    """What a trial asks of its setup."""
    return cast(
        Setup,
        SimpleNamespace(
            config=config,
            device=SimpleNamespace(name=FACTS.machine.device, precision=FACTS.machine.precision, type="cpu"),
            pretrained=SimpleNamespace(
                fingerprint=FACTS.model.fingerprint,
                num_parameters=FACTS.model.num_parameters,
                num_trained_parameters=FACTS.model.num_parameters,
            ),
            splits=PLAYED_SPLITS,
            teachers={},
            num_training_steps=STEPS,
        ),
    )


def played_training(
    setup: Setup, on_step: Callable[[int], None], *, progress: Progress, between_batches: Callable[[], None]
) -> Iterator[Evaluation]:
    """All evaluations of a trial that never falls behind, so that each one takes the same way."""
    evaluations = setup.config.training.num_evaluations
    score, made = 0.95, 0
    for step in range(1, evaluations + 1):
        until = STEPS * step // evaluations
        curve = tuple(CurvePoint(at, 0.5, 1e-4, 1.0) for at in range(made + 1, until + 1))
        for at in range(made + 1, until + 1):
            progress.global_step = at
            on_step(at)
        made = until
        between_batches()
        evaluation = Evaluation(
            step, made, 3 * step / evaluations, scores(score), curve, 1000.0, 2000.0, None, is_last=until == STEPS
        )
        progress.evaluations.append(evaluation)
        yield evaluation


def scores(accuracy: float) -> dict[str, float]:
    names = ("accuracy", "f1_macro", "f1", "precision_macro", "precision", "recall_macro", "recall", "mcc")
    return {**{f"eval/{name}": accuracy for name in names}, "eval/loss": 1 - accuracy}


def fill(spec: StudySpec, size: int, folder: Path) -> list[FrozenTrial]:
    """Brings a study of one trial to `size`: three of seven pruned, as its first one in all else."""
    (first,) = load_study(open_storage(folder), spec.name).trials
    memory = optuna.create_study(direction=spec.direction, sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [first]
    for number in range(1, size):
        drawn = memory.ask()
        params = space.suggest(drawn, spec)
        trials.append(stored_trial(spec, first, number, params, drawn.distributions))
        memory.tell(drawn, 0.0)
    with unsafe_writes():
        load_study(open_storage(folder), spec.name).add_trials(trials[1:])
    copy_runs(folder / "mlflow.db", first.user_attrs["mlflow_run_id"], size)
    return trials


@contextmanager
def unsafe_writes() -> Iterator[None]:
    """SQLite does not wait for the disk: a study is filled faster by so much."""

    def hurry(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", hurry)
    try:
        yield
    finally:
        event.remove(Engine, "connect", hurry)


def stored_trial(
    spec: StudySpec, first: FrozenTrial, number: int, params: dict[str, Any], distributions: dict[str, Any]
) -> FrozenTrial:
    """A trial as `first` was stored, with other parameters, and a score that follows from them."""
    pruned = number % 7 in (1, 2, 4)
    score = 0.8 - 0.03 * abs(math.log10(params["learning_rate"] / 5e-5)) - 0.1 * params["dropout"]
    steps = {step: score for step in first.intermediate_values if not pruned or step <= 3}
    result = first.user_attrs["result"] | {
        "metrics": scores(score),
        "state": "PRUNED" if pruned else "COMPLETE",
        "reason": "fell behind" if pruned else None,
        "step": 3 if pruned else None,
        "optimizer_steps": STEPS * len(steps) // len(first.intermediate_values),
    }
    config = space.trial_config(spec, params, seed=number).model_dump(mode="json")
    run_id = {"mlflow_run_id": f"{number:032x}"}
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=score,
        params=params,
        distributions=distributions,
        user_attrs=first.user_attrs | run_id | {"config": config, "result": result},
        intermediate_values=steps,
    )


def copy_runs(database: Path, run_id: str, size: int) -> None:
    """Copies a run of MLflow, with its parameters, tags and curves, until there are `size` of it."""
    connection = sqlite3.connect(database)
    connection.execute("CREATE TEMP TABLE copies (id TEXT)")
    connection.executemany("INSERT INTO copies VALUES (?)", [(f"{number:032x}",) for number in range(1, size)])
    for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        copied = ", ".join("copies.id" if column == "run_uuid" else column for column in columns)
        connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {copied} FROM {table}, copies WHERE run_uuid = ?",
            (run_id,),
        )
    connection.commit()
    connection.close()


@contextmanager
def clocked(clock: Clock, spec: StudySpec) -> Iterator[None]:
    """Every call of the sampler, the pruner, the storage and the tracker tells the clock."""
    sampler = type(build_sampler(spec, 0))
    asked = ("before_trial", "infer_relative_search_space", "sample_relative", "sample_independent", "after_trial")
    storage = type(optuna.storages.get_storage("sqlite://"))
    watched: list[tuple[str, type, Sequence[str]]] = [
        ("sampler", sampler, asked),
        ("pruner", optuna.pruners.PercentilePruner, ("prune",)),
        ("storage", storage, [name for name in vars(storage) if not name.startswith("_")]),
        *(
            ("tracking", kind, [name for name in vars(kind) if not name.startswith("_")])
            for kind in (Tracker, TrialRun)
        ),
    ]
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(gc, "collect", clock.timed("garbage", gc.collect)))
        for part, kind, names in watched:
            for name in names:
                if callable(method := getattr(kind, name)):
                    patches.enter_context(mock.patch.object(kind, name, clock.timed(part, method)))
        yield


def sampler_alone(spec: StudySpec, trials: Sequence[FrozenTrial], repeats: int) -> list[float]:
    """Seconds of each suggestion of Optuna's sampler on the same trials in memory."""
    study = optuna.create_study(direction=spec.direction)
    study.add_trials(trials)
    seconds = []
    for position in range(len(trials), len(trials) + repeats + 1):
        study.sampler = build_sampler(spec, position)
        start = time.perf_counter()
        trial = study.ask()
        space.suggest(trial, spec)
        seconds.append(time.perf_counter() - start)
        study.tell(trial, 0.95)
    return seconds[1:]


def write_report_again(spec: StudySpec, folder: Path) -> None:
    write_report(load_study(open_storage(folder), spec.name), folder / spec.name)


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def print_tables(measured: Sequence[Measured]) -> None:
    """Milliseconds a trial, median (and quartiles of the whole), then what the ends of a study take."""
    print(f"{machine()}\n{software()}\n\nMilliseconds a trial outside training, medians; all: quartiles in brackets")
    print(f"{'sampler':8}{'trials':>7}{'alone':>8}" + "".join(f"{part:>10}" for part in PARTS) + f"{'all':>8}")
    for row in measured:
        parts = "".join(f"{1000 * statistics.median(lap[part] for lap in row.parts):10.1f}" for part in PARTS)
        low, middle, high = (1000 * seconds for seconds in statistics.quantiles(row.totals, n=4))
        alone = 1000 * statistics.median(row.alone)
        print(f"{row.sampler:8}{row.size:7,}{alone:8.1f}{parts}{middle:8.0f}  [{low:.0f}, {high:.0f}]")
    print("\nSeconds at both ends of a study, and MB of what it leaves")
    print(f"{'sampler':8}{'trials':>7}{'before':>8}{'after':>8}{'report':>8}{'summary':>8}   files")
    for row in measured:
        sizes = {Path(name).name: size / 1e6 for name, size in row.files.items() if size >= 50_000}
        files = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
        ends = "".join(f"{seconds:8.1f}" for seconds in (row.before, row.after, row.report, row.summary))
        print(f"{row.sampler:8}{row.size:7,}{ends}   {files}")


def draw(measured: Sequence[Measured], path: Path) -> None:
    """Log-log: the parts of a trial, and the sampler alone, by the number of trials in storage."""
    samplers = list(dict.fromkeys(row.sampler for row in measured))
    figure = Figure(figsize=(5.2 * len(samplers), 4.4), layout="constrained")
    panels = figure.subplots(1, len(samplers), sharey=True, squeeze=False)[0]
    for axes, sampler in zip(panels, samplers, strict=True):
        rows = [row for row in measured if row.sampler == sampler]
        sizes = [row.size for row in rows]
        for part in PARTS:
            medians = [1000 * statistics.median(lap[part] for lap in row.parts) for row in rows]
            axes.plot(sizes, medians, marker=".", linewidth=1, label=part)
        spread = [[1000 * value for value in statistics.quantiles(row.totals, n=4)] for row in rows]
        low, middle, high = zip(*spread, strict=True)
        axes.plot(sizes, middle, marker="o", color="black", linewidth=2, label="all, with quartiles")
        axes.fill_between(sizes, low, high, color="black", alpha=0.12, linewidth=0)
        alone = [1000 * statistics.median(row.alone) for row in rows]
        axes.plot(sizes, alone, "--", color="black", linewidth=1.2, label="the sampler alone, in memory")
        axes.set(xscale="log", yscale="log", title=f"{sampler} sampler", xlabel="Trials in storage")
        dress(axes)
    panels[0].set_ylabel("Milliseconds a trial, outside training")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.search_scaling", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--only", nargs="+", metavar="SAMPLER:TRIALS", help="such as tpe:100; default: all")
    made.add_argument("--repeats", type=int, default=15, metavar="N", help="trials to time at each size")
    made.add_argument("--folder", type=Path, help="where the databases are written; default: the temporary folder")
    made.add_argument("--figure", type=Path, default=FIGURE, metavar="PNG", help="where the figure goes")
    made.add_argument("--json", type=Path, metavar="PATH", help="also every single time, as JSON")
    return made


def main() -> None:
    options = parser().parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=SADeprecationWarning)
    chosen = options.only or [f"{sampler}:{size}" for sampler, sizes in SIZES.items() for size in sizes]
    measured = []
    for choice in chosen:
        sampler, _, size = choice.partition(":")
        # The study's own sampler has settings that another one does not know.
        spec = read_study(ROOT / "studies" / "sst2.yaml", [f"sampler={{name: {sampler}}}"])
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measured.append(measure(spec, int(size), options.repeats, Path(folder)))
        print(f"measured {choice}", file=sys.stderr, flush=True)
    print_tables(measured)
    draw(measured, options.figure)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in measured], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
