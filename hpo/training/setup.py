"""The first four steps of a trial: the pretrained model, the data, the tokens, and what the training needs."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hpo.data.splits import Splits, load_splits
from hpo.data.tokens import Tokens, tokenize_split
from hpo.errors import DataError
from hpo.spec import TrialConfig
from hpo.tasks import TASKS
from hpo.tasks.base import Task
from hpo.training.device import Device, choose_device
from hpo.training.model import Pretrained, load_pretrained
from hpo.training.optimizer import build_optimizer
from hpo.training.schedule import build_schedule


@dataclass(frozen=True)
class Setup:
    """Everything that the training loop touches, ready to go."""

    config: TrialConfig
    task: Task
    device: Device
    pretrained: Pretrained
    splits: Splits
    train: Tokens
    validation: Tokens
    optimizer: Optimizer
    schedule: LambdaLR
    num_training_steps: int


def set_up(config: TrialConfig, cache_dir: Path | None) -> Setup:
    """Loads and prepares one trial. Everything random from here on follows from `config.seed`.

    Raises:
        DataError: data, model or metric cannot be used as the configuration asks.
    """
    task, training = TASKS[config.task], config.training
    device = choose_device(training.precision)

    # 1. Load the pretrained model. Its labels come from the data, so step 2 stands first; it is read once a process.
    splits = load_splits(config.data, config.data_seed)
    torch.manual_seed(config.seed)
    pretrained = load_pretrained(
        config.model,
        task.auto_model,
        splits.labels,
        dropout=training.dropout,
        max_length=training.max_length,
        device=device.type,
    )
    nn.Module.to(pretrained.model, device.type)  # transformers' own `to` has lost its type

    # 3. Tokenize, once for each text and tokenizer.
    train, validation = (
        tokenize_split(
            split,
            pretrained.tokenizer,
            training.max_length,
            fingerprint=splits.fingerprint,
            name=name,
            cache_dir=cache_dir,
        )
        for name, split in (("train", splits.train), ("validation", splits.validation))
    )
    if config.metric in ("eval/f1", "eval/precision", "eval/recall") and len(splits.labels) != 2:
        raise DataError(
            f"metric {config.metric} is of the positive one of two classes, but got {len(splits.labels)} classes. "
            f"Use {config.metric}_macro."
        )

    _require_embeddings(config, pretrained, [train, validation])

    # 4. Set up the optimizer and the schedule.
    num_training_steps = max(1, round(training.num_train_epochs * math.ceil(len(train) / training.train_batch_size)))
    optimizer = build_optimizer(pretrained.model, training)
    schedule = build_schedule(optimizer, training, num_training_steps)
    return Setup(config, task, device, pretrained, splits, train, validation, optimizer, schedule, num_training_steps)


def _require_embeddings(config: TrialConfig, pretrained: Pretrained, tokens: list[Tokens]) -> None:
    known = int(pretrained.model.get_input_embeddings().get_parameter("weight").shape[0])
    highest = max(int(split.input_ids.max()) for split in tokens)
    if highest >= known:
        raise DataError(
            f"every token must have an embedding, but got token {highest} for the {known:,} embeddings of "
            f"`{config.model.name}`. Use the tokenizer that was saved with the model."
        )
