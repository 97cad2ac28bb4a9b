"""The real trainings that `benchmarks/selection.py` replays, and the table that they are written down in.

Each configuration is trained seven times: with four seeds on one split, on the other two folds of that split, and on a
split of its own. None of these models sees the held-out rows, and of every such row it is written down how sure the
model was of its label. So validation and test can be drawn anew from them for every simulated study, which is what
makes many studies of one table: the luck of the split is different in each.
"""

import base64
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.model_selection import StratifiedKFold

from benchmarks.measure import say
from hpo.data.hold_out import stratified_sample
from hpo.data.sources import read_rows
from hpo.errors import Diverged
from hpo.search import build_sampler, derive_seed
from hpo.settings import Value
from hpo.space import default_params, suggest, trial_config
from hpo.spec import DataSpec, StudySpec, TrialConfig
from hpo.tasks.sequence_classification import SEQUENCE_CLASSIFICATION
from hpo.training.batches import evaluation_order
from hpo.training.finetune import finetune
from hpo.training.setup import set_up

SEEDS = ("seed-0", "seed-1", "seed-2", "seed-3")
CURVES = SEEDS[:2]
"""Evaluated at every share of their training, the others at its end: an evaluation takes as long as some steps."""
REDRAWN = "redrawn"
FOLDS = (SEEDS[0], "fold-1", "fold-2")
"""What is trained on the split that all share is the first fold of it."""
RUNS = (*SEEDS, REDRAWN, *FOLDS[1:])
STEP = 1 / 8
"""In which margins are written down."""


@dataclass(frozen=True)
class Sizes:
    """How small the data are: on purpose, since it is the luck of few rows that is studied."""

    pool: int = 1350
    """Rows that a study has to learn from and to validate on."""
    held_out: int = 2700
    """Rows that no model sees."""
    most_words: int = 20
    """Longer rows are left out: with them a training would take half as long again."""


@dataclass(frozen=True, eq=False)
class Trained:
    """One training: a line of the table."""

    configuration: int
    """0 is the untuned default."""
    params: dict[str, Value]
    run: str
    seconds: float
    margins: NDArray[np.int8]
    """[evaluations, held-out rows] The logit of the row's label less that of the other class, in eighths, rounded down:
    its sign is exact, so that what is 0 and above is right. Fewer evaluations than there should be: it diverged."""


def record(spec: StudySpec, folder: Path, count: int, sizes: Sizes = Sizes()) -> Path:
    """Trains what is missing, configuration by configuration; several processes may do so at once.

    Args:
        folder: of the rows and the table; after an interruption it is gone on with.
        count: configurations, the untuned default among them.

    Returns:
        The table.
    """
    claims, table = folder / "claims", folder / "trials.jsonl"
    claims.mkdir(parents=True, exist_ok=True)
    drawn = configurations(spec, count)
    for number, run in ((number, run) for number in range(count) for run in RUNS):
        try:
            with FileLock(
                claims / f"{number}-{run}.lock", timeout=0
            ):  # freed by the end of a process, whatever ends it
                there = {(trained.configuration, trained.run) for trained in read_table(table)}
                if (number, run) in there:
                    continue
                trained = train(spec, drawn[number], number, run, folder, sizes)
                append(table, trained)
        except Timeout:  # another process is at it
            continue
        done, right = len(there) + 1, np.mean(trained.margins[-1:] >= 0)
        say(f"  {done}/{count * len(RUNS)} {number} {run}: {right:.1%} after {trained.seconds:.0f} s")
    return table


def configurations(spec: StudySpec, count: int) -> list[dict[str, Value]]:
    """The untuned default, then points of the study's own sampler, which has no scores to go by."""
    study, drawn = optuna.create_study(), [default_params(spec)]
    for position in range(1, count):
        study.sampler = build_sampler(spec, position)
        drawn.append(suggest(study.ask(), spec))
    return drawn


def train(spec: StudySpec, params: Mapping[str, Value], number: int, run: str, folder: Path, sizes: Sizes) -> Trained:
    """One training of the `number`-th configuration."""
    config = run_config(spec, params, number, run, folder, sizes)
    began, margins = time.perf_counter(), []
    setup = set_up(config, cache_dir=None)
    order = np.concatenate(evaluation_order(setup.validation.padded, config.training.eval_batch_size))

    def evaluate(logits: NDArray[np.float32], labels: NDArray[Any], classes: Sequence[str]) -> dict[str, float]:
        assert np.array_equal(labels, setup.validation.labels[order])
        rows = np.empty(len(order), dtype=np.int8)
        rows[order] = margins_of(logits, labels)
        margins.append(rows)
        return setup.task.evaluate(logits, labels, classes)

    try:
        for _ in finetune(replace(setup, task=replace(setup.task, evaluate=evaluate))):
            pass
    except Diverged:
        pass
    there = np.array(margins, dtype=np.int8).reshape(len(margins), len(order))
    return Trained(number, dict(params), run, time.perf_counter() - began, there)


def run_config(
    spec: StudySpec, params: Mapping[str, Value], number: int, run: str, folder: Path, sizes: Sizes
) -> TrialConfig:
    """What a trial of the study would have, but for its rows; validation are those held out."""
    config = trial_config(spec, params, derive_seed(spec.seed, "selection", number, run))
    data = write_rows(spec.data, spec.seed, number, run, folder, sizes)
    evaluations = spec.training.num_evaluations if run in CURVES else 1
    training = config.training.model_copy(update={"num_evaluations": evaluations})
    return config.model_copy(update={"data": data, "training": training})


def write_rows(data: DataSpec, seed: int, number: int, run: str, folder: Path, sizes: Sizes) -> DataSpec:
    """The rows of a training as files, as far as they are not there yet."""
    rows = read_rows(SEQUENCE_CLASSIFICATION, data.train, "train", data)
    label_of = {" ".join(str(text).split()): label for text, label in zip(rows.inputs, rows.labels, strict=True)}
    texts = [text for text in label_of if len(text.split()) <= sizes.most_words]  # each once: splits share none
    labels = np.unique([str(label_of[text]) for text in texts], return_inverse=True)[1].astype(np.int64)
    draw = np.random.default_rng([seed, 0])
    chosen = stratified_sample(labels, sizes.pool + sizes.held_out, draw)
    pool = chosen[stratified_sample(labels[chosen], sizes.pool, draw)]
    spare = np.setdiff1d(np.arange(len(texts)), chosen)  # a test split must be there, and nobody reads it

    fold = int(run.removeprefix("fold-")) if run in FOLDS[1:] else 0
    of_its_own = [1 + number] if run == REDRAWN else []
    folds = StratifiedKFold(len(FOLDS), shuffle=True, random_state=derive_seed(seed, "folds", *of_its_own))
    learned, _ = list(folds.split(pool, labels[pool]))[fold]
    name = f"train-{REDRAWN}-{number}" if of_its_own else f"train-{fold}"
    files = {name: pool[learned], "held-out": np.setdiff1d(chosen, pool), "spare": spare}
    for file, numbers in files.items():
        columns = {"text": [texts[row] for row in numbers], "label": [label_of[texts[row]] for row in numbers]}
        _write_once(folder / f"{file}.json", json.dumps(columns))
    train, validation, test = ({"source": str(folder / f"{file}.json")} for file in files)
    return DataSpec.model_validate({"train": train, "validation": validation, "test": test, "labels": data.labels})


def _write_once(path: Path, text: str) -> None:
    """Whole or not at all; another process may write the same at the same time."""
    if not path.exists():
        making = path.with_name(f".{path.name}.{os.getpid()}")
        making.write_text(text, encoding="utf-8")
        making.replace(path)


def margins_of(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int8]:
    """[rows] of `logits` [rows, 2], as the table has them."""
    rows = np.arange(len(labels))
    margins = logits[rows, labels].astype(np.float64) - logits[rows, 1 - labels]
    rounded: NDArray[np.int8] = np.clip(np.floor(margins / STEP), -128, 127).astype(np.int8)
    return rounded


def losses_of(margins: NDArray[np.int8]) -> NDArray[np.float64]:
    """The cross-entropy of each row, to half a step of its margin."""
    losses: NDArray[np.float64] = logsumexp([np.zeros(margins.shape), -STEP * (margins + 0.5)], axis=0)
    return losses


def append(path: Path, trained: Trained) -> None:
    """Adds a line; what a killed process left of one is ended first, and is not read."""
    line = {
        "configuration": trained.configuration,
        "params": trained.params,
        "run": trained.run,
        "seconds": round(trained.seconds, 2),
        "evaluations": len(trained.margins),
        "margins": base64.b64encode(zlib.compress(trained.margins.tobytes(), 9)).decode(),
    }
    with FileLock(path.with_suffix(".lock")), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_table(path: Path) -> list[Trained]:
    """What has been trained so far."""
    return list(_lines(path.read_text(encoding="utf-8").split("\n"))) if path.exists() else []


def _lines(lines: Sequence[str]) -> Iterator[Trained]:
    for line in lines:
        try:
            read = json.loads(line)
        except ValueError:  # half a line, of a process that was killed
            continue
        flat = np.frombuffer(zlib.decompress(base64.b64decode(read.pop("margins"))), dtype=np.int8)
        evaluations = read.pop("evaluations")
        yield Trained(**read, margins=flat.reshape(evaluations, -1) if evaluations else flat.reshape(0, 0))
