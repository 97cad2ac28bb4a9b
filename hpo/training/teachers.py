"""What teachers say of a split: computed once for each teacher and data fingerprint, and cached on disk."""

import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.data.array_cache import cache_path, read_arrays, write_arrays
from hpo.data.splits import Split, Splits, load_splits, squeezed
from hpo.data.tokens import Tokens
from hpo.errors import DataError
from hpo.model_folder import made_by, teacher_folder
from hpo.spec import TrialConfig
from hpo.tasks import TASKS
from hpo.training.device import choose_device
from hpo.training.losses import LOSSES
from hpo.training.model import folder_fingerprint, folder_stamps
from hpo.training.trained import classes_of, read_trained

FORMAT = 1  # of the cache file; raise it when the outputs or how they are made change


@dataclass(frozen=True)
class Teacher:
    """A trained model that a student may learn from."""

    name: str
    """As the study names its folder."""
    folder: Path
    config: TrialConfig
    """That made it."""
    classes: tuple[str, ...]
    """In the order of its outputs."""
    fingerprint: str
    data_fingerprint: str | None
    """Of what it learned from; None where its folder does not tell."""


def read_teachers(config: TrialConfig, splits: Splits) -> tuple[Teacher, ...]:
    """The teachers of a trial, checked against its task and its splits.

    Raises:
        DataError: a folder is no model of ours; one has another task or other labels, or has learned from rows that the
            trial is measured by.
    """
    return tuple(_checked(read_teacher(name), config, splits) for name in config.teachers)


def read_teacher(name: str) -> Teacher:
    """The teacher of that folder. Raises `DataError` if it holds no model of ours."""
    folder = teacher_folder(name)
    config, data = made_by(folder)
    return Teacher(name, folder, config, classes_of(folder), _fingerprint(folder, folder_stamps(folder)), data)


def fused_outputs(
    teachers: Sequence[Teacher], splits: Splits, split: Split, name: str, cache_dir: Path | None
) -> NDArray[np.float32]:
    """What all teachers together say of a split: the outputs of their mean prediction.

    Args:
        name: of the split within the data.

    Returns:
        [rows, classes], or [words of all rows, classes], in the order of the split's classes. NaN where one of them has
        not read a word, because it was cut off.
    """
    outputs = np.stack([teacher_outputs(teacher, splits, split, name, cache_dir) for teacher in teachers])
    fused: NDArray[np.float32] = LOSSES[TASKS[splits.task].loss].fused(outputs)
    return fused


def teacher_outputs(
    teacher: Teacher, splits: Splits, split: Split, name: str, cache_dir: Path | None
) -> NDArray[np.float32]:
    """What one teacher says of a split, as `fused_outputs`."""
    key = [FORMAT, teacher.fingerprint, splits.fingerprint, name]
    path = None if cache_dir is None else cache_path(cache_dir, key)
    kept = read_arrays(path, "teacher", ["outputs"]) if path else None
    found = kept["outputs"] if kept else _compute(teacher, splits, split, name, cache_dir)
    if path and not kept:
        write_arrays(path, "teacher", {"outputs": found})
    if TASKS[splits.task].labels.numeric:
        return found
    return found[:, [teacher.classes.index(label) for label in splits.labels]]


def _compute(teacher: Teacher, splits: Splits, split: Split, name: str, cache_dir: Path | None) -> NDArray[np.float32]:
    """In float32, once: in the order of the teacher's own classes."""
    trained = read_trained(teacher.folder, choose_device("fp32"))
    tokens = trained.tokens(split, splits.fingerprint, name, cache_dir)
    outputs = trained.outputs(trained.on_device(tokens))
    outputs[~_read_by(tokens, len(outputs))] = np.nan
    return outputs


@dataclass(frozen=True)
class Cost:
    """What it takes to use a trained model on this machine."""

    num_parameters: int
    weights_mib: float
    examples_per_second: float
    """Of the validation split, tokenized: the median of three passes, behind one that nobody times."""


def cost_of(teacher: Teacher, splits: Splits, cache_dir: Path | None) -> Cost:
    """Measures a trained model, a teacher or its student, in the precision of this machine."""
    trained = read_trained(teacher.folder, choose_device("auto"))
    tokens = trained.on_device(trained.tokens(splits.validation, splits.fingerprint, "validation", cache_dir))
    seconds = []
    for _ in range(4):
        trained.device.synchronize()
        began = time.perf_counter()
        trained.outputs(tokens)
        seconds.append(time.perf_counter() - began)
    held = sum(each.numel() * each.element_size() for each in trained.model.state_dict().values())
    return Cost(trained.num_parameters, held / 2**20, len(tokens) / statistics.median(seconds[1:]))


def _read_by(tokens: Tokens, outputs: int) -> NDArray[np.bool_]:
    """Of words, those whose first piece was not cut off; of texts all."""
    if tokens.word_of is None:
        return np.ones(outputs, dtype=bool)
    counts = np.array([len(words) for words in tokens.labels], dtype=np.int64)
    starts = np.repeat(np.cumsum(counts) - counts, tokens.lengths)
    read = np.zeros(outputs, dtype=bool)
    read[(starts + tokens.word_of)[tokens.word_of >= 0]] = True
    return read


# Checks


def _checked(teacher: Teacher, config: TrialConfig, splits: Splits) -> Teacher:
    theirs = teacher.config
    if theirs.task != config.task:
        raise DataError(
            f"a teacher must have learned the same task, {config.task}, but `{teacher.name}` has learned "
            f"{theirs.task}. Choose another teacher."
        )
    if len(theirs.data.text_columns) != len(config.data.text_columns):
        raise DataError(
            f"a teacher must read what its student reads, but `{teacher.name}` reads {len(theirs.data.text_columns)} "
            f"and this study {len(config.data.text_columns)} text columns. Set data.text_column, or choose another "
            "teacher."
        )
    numeric = TASKS[config.task].labels.numeric
    if not numeric and sorted(teacher.classes) != sorted(splits.labels):
        raise DataError(
            f"a teacher must know the study's labels, {', '.join(splits.labels)}, but `{teacher.name}` has "
            f"{', '.join(teacher.classes)}. Set data.labels to these names, or choose another teacher."
        )
    _require_apart(teacher, config, splits)
    return teacher


def _require_apart(teacher: Teacher, config: TrialConfig, splits: Splits) -> None:
    """A teacher that has learned a row's label would tell it, and the student's score on that row would say nothing."""
    theirs = teacher.config
    same = (theirs.data, theirs.data_seed) == (config.data, config.data_seed)
    learned = splits if same else load_splits(theirs.task, theirs.data, theirs.data_seed)
    if teacher.data_fingerprint not in (None, learned.fingerprint):
        raise DataError(
            f"a teacher's data must be as it was when it learned, or nobody can tell which rows it knows, but those of "
            f"`{teacher.name}` have changed. Restore the files, or train it again."
        )
    if same and (config.train_on_validation or not theirs.train_on_validation):
        return
    measured = {"validation": splits.validation, "test": splits.test}
    if config.train_on_validation:
        del measured["validation"]
    for name, split in measured.items():
        if shared := _count_known(learned, theirs.train_on_validation, split):
            raise DataError(
                f"a teacher may not have learned from rows that its student is measured by, but `{teacher.name}` has "
                f"from {shared:,} of the {len(split):,} rows of {name}. Give the study the teacher's data and seed, "
                "and a teacher without finalists.refit."
            )


@functools.lru_cache(maxsize=16)
def _count_known(learned: Splits, with_validation: bool, split: Split) -> int:
    """How many rows stand among those that were learned. Kept in the process: splits are the same objects for all
    trials."""
    known = [*learned.train.texts, *(learned.validation.texts if with_validation else ())]
    texts = {squeezed(text) for text in known}
    return sum(squeezed(text) in texts for text in split.texts)


@functools.lru_cache(maxsize=16)
def _fingerprint(folder: Path, stamps: Any) -> str:
    return folder_fingerprint(folder)
