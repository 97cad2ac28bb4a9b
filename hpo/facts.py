"""What a study runs on, found out before its first trial: the data, the model, the machine."""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from hpo.data.quality import data_quality, quality_notes
from hpo.data.splits import SPLITS, Split, Splits
from hpo.data.tokens import tokenize_split
from hpo.provenance import versions
from hpo.results import DataQuality
from hpo.search_spec import ChoiceParameter, RangeParameter, setting_of
from hpo.settings import Value
from hpo.space import default_params, trial_config
from hpo.space_checks import is_active
from hpo.spec import StudySpec
from hpo.training.setup import Setup, set_up

# Settings of which the largest value may be more than the model has, and those of which any choice may be.
ENDS = ("max_length", "num_trained_layers", "model.num_hidden_layers", "dropout", "r_drop_alpha")
KINDS = (
    "model.name",
    "model.revision",
    "precision",
    "method",
    "lora_target_modules",
    "augment_method",
    "train_fraction",
)


@dataclass(frozen=True)
class DataFacts:
    rows: dict[str, int]
    labels: list[str]
    fingerprint: str
    notes: list[str]
    """What was removed, what was truncated, and what else of its quality matters."""
    quality: dict[str, Any] = field(default_factory=dict)
    """`hpo.results.DataQuality`, as plain data."""


@dataclass(frozen=True)
class ModelFacts:
    name: str
    num_parameters: int
    fingerprint: str
    new_weights: list[str]
    """The modules that start from random weights: the head, and what else pretraining left out."""
    num_trained_parameters: int | None = None
    """By the method; adapters among them, which are none of the model's own."""


@dataclass(frozen=True)
class MachineFacts:
    device: str
    precision: str
    versions: dict[str, str]


@dataclass(frozen=True)
class StudyFacts:
    """What a study runs on, known before its first trial."""

    data: DataFacts
    model: ModelFacts
    """Of the untuned default."""
    machine: MachineFacts
    models: dict[str, str]
    """The fingerprint of each model that a trial may draw, and of each teacher, by its reference."""


def study_facts(spec: StudySpec, cache: Path) -> StudyFacts:
    """Loads what the trials will load, at the ends of what they may draw, so that a mistake shows before the first one.

    Raises:
        DataError: the data, a model, or what is asked of them cannot be used.
    """
    default = default_params(spec)
    setup = set_up(trial_config(spec, default, seed=0), cache)
    models = {setup.config.model.reference: setup.pretrained.fingerprint, **setup.teachers}
    for params in _extremes(spec, default):
        extreme = set_up(trial_config(spec, params, seed=0), cache)
        models[extreme.config.model.reference] = extreme.pretrained.fingerprint
    return _facts(setup, models, cache)


def _extremes(spec: StudySpec, default: dict[str, Value]) -> Iterator[dict[str, Value]]:
    """For every model, precision and method that is searched: the longest texts, the most layers, every choice of what
    has an adapter, and a dropout where the default has none."""
    kinds = [name for name in spec.search_space if setting_of(name) in KINDS]
    seen = [default]
    for drawn in itertools.product(*(_ends(spec, kind) for kind in kinds)):
        params = dict(default)
        for name, value in zip(kinds, drawn, strict=True):
            if is_active(spec.search_space[name], params):
                params[name] = value
        for name in spec.search_space:
            setting = setting_of(name)
            if setting not in ENDS:
                continue
            numbers = [value for value in _ends(spec, name) if isinstance(value, int | float)]
            needed = setting != "dropout" or params.get(name) is None  # a dropout that is set once can be set
            if numbers and needed and is_active(spec.search_space[name], params):
                params[name] = max(numbers)
        if params not in seen:
            seen.append(params)
            yield params


def _ends(spec: StudySpec, name: str) -> list[Value]:
    """The choices, or the two bounds, of a searched parameter; nothing where it is not searched."""
    match spec.search_space.get(name):
        case ChoiceParameter(choices=choices):
            return choices
        case RangeParameter(low=low, high=high):
            return [low, high]
    return []


def _facts(setup: Setup, models: dict[str, str], cache: Path) -> StudyFacts:
    splits, pretrained = setup.splits, setup.pretrained
    quality = _quality(splits, pretrained.tokenizer, setup.config.training.max_length, cache)
    return StudyFacts(
        DataFacts(
            rows={name: len(getattr(splits, name)) for name in ("train", "validation", "test")},
            labels=list(splits.labels),
            fingerprint=splits.fingerprint,
            notes=[*splits.notes, *_fraction(setup), *_truncation(setup), *quality_notes(quality, setup.config.metric)],
            quality=quality.model_dump(),
        ),
        ModelFacts(
            setup.config.model.name,
            pretrained.num_parameters,
            pretrained.fingerprint,
            sorted({key.rpartition(".")[0] for key in pretrained.new_weights}),
            pretrained.num_trained_parameters,
        ),
        MachineFacts(setup.device.name, setup.device.precision, versions()),
        models,
    )


def _fraction(setup: Setup) -> Iterator[str]:
    if (learned := len(setup.train)) < (there := len(setup.splits.train)):
        yield f"train: {learned:,} of {there:,} rows are learned from (training.train_fraction)."


def _truncation(setup: Setup) -> Iterator[str]:
    counts = {"train": setup.train.n_truncated, "validation": setup.validation.n_truncated}
    cut = [f"{count:,} of {name}" for name, count in counts.items() if count]
    if cut:
        yield f"Truncated to {setup.config.training.max_length} tokens: {' and '.join(cut)}."


@lru_cache(maxsize=4)
def _quality(splits: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int, cache: Path) -> DataQuality:
    """Once for splits and a tokenizer, which are the same objects for all studies of a process that have the same."""
    lengths = {name: _lengths(splits, name, tokenizer, max_length, cache) for name in SPLITS}
    return data_quality(splits, lengths, max_length)


def _lengths(
    splits: Splits, name: str, tokenizer: PreTrainedTokenizerBase, max_length: int, cache: Path
) -> NDArray[np.int64]:
    """Of a split's texts before they are cut; only those that were cut are tokenized again."""
    split: Split = getattr(splits, name)
    tokenized = partial(tokenize_split, tokenizer=tokenizer, fingerprint=splits.fingerprint, name=name)
    lengths = np.diff(tokenized(split, max_length=max_length, cache_dir=cache).offsets)
    cut = np.flatnonzero(lengths >= max_length)
    if len(cut):
        lengths[cut] = np.diff(tokenized(split.take(cut), max_length=sys.maxsize, cache_dir=None).offsets)
    return lengths
