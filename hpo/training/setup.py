"""The first four steps of a trial: the pretrained model, the data, the tokens, and what the training needs."""

import functools
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hpo.data.augment import AUGMENTATIONS
from hpo.data.splits import Split, Splits, learned_from, load_splits
from hpo.data.tokens import Tokens, tokenize_split
from hpo.errors import DataError
from hpo.model_folder import tell_config
from hpo.spec import TrialConfig
from hpo.tasks import TASKS
from hpo.tasks.base import Task
from hpo.training.augmented import AugmentedTokens, Source, build_augmentation
from hpo.training.batches import MOST_EVALUATION_LENGTHS, MOST_LENGTHS, DeviceTokens
from hpo.training.device import Device, choose_device, keep_freed_memory, leave_out_cudnn_attention
from hpo.training.early_stopping import StoppingRule, stopping_rule
from hpo.training.ema import Averages, average_of
from hpo.training.graphs import CudaCapture, GraphedStep
from hpo.training.layout import layer_scales
from hpo.training.losses import build_loss
from hpo.training.methods import METHODS
from hpo.training.model import Pretrained, load_pretrained, takes_token_types
from hpo.training.objectives import build_objective
from hpo.training.objectives.base import Context, Objective
from hpo.training.optimizer import (
    build_optimizer,
    decay_without_gradient,
    decays_in_proportion,
    hidden_matrices,
    parameter_groups,
)
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.schedule import learning_rates
from hpo.training.step import Step
from hpo.training.teachers import fused_outputs, read_teachers
from hpo.training.vocabulary import SeenEmbedding, keep_seen, whole_embedding
from hpo.training_spec import TrainingSpec


@dataclass(frozen=True)
class Setup:
    """Everything that the training loop touches, ready to go."""

    config: TrialConfig
    task: Task
    device: Device
    pretrained: Pretrained
    splits: Splits
    train: DeviceTokens
    validation: DeviceTokens
    step: Step | GraphedStep
    learning_rates: list[float]
    """One an optimizer step."""
    averages: Averages
    """Of the weights: what is evaluated and exported, where the configuration asks for it."""
    stops_early: StoppingRule
    teachers: Mapping[str, str] = field(default_factory=dict)
    """The fingerprint of each teacher, by its name."""

    @property
    def num_training_steps(self) -> int:
        return len(self.learning_rates)


def set_up(config: TrialConfig, cache_dir: Path | None) -> Setup:
    """Loads and prepares one trial. Everything random from here on follows from `config.seed`.

    Raises:
        DataError: data, model or metric cannot be used as the configuration asks.
    """
    task, training = TASKS[config.task], config.training
    device = choose_device(training.precision)
    keep_freed_memory()
    leave_out_cudnn_attention()

    # 1. Load the pretrained model. Its labels come from the data, so step 2 stands first; it is read once a process.
    splits = load_splits(config.task, config.data, config.data_seed)
    pretrained = load_pretrained(
        config.model,
        task,
        splits.labels,
        dropout=training.dropout,
        max_length=training.max_length,
        device=device.type,
        seed=config.seed,
        prepare=lambda model: METHODS[training.method].prepare(model, training),
    )
    if training.activation_checkpointing:
        _checkpoint_activations(pretrained.model, config.model.name)

    # 3. Tokenize, once for each text and tokenizer.
    tokenized = functools.partial(
        _tokens, pretrained, training.max_length, splits.fingerprint, cache_dir=cache_dir, device=device
    )
    learned = learned_from(
        splits,
        training.train_fraction,
        config.data_seed,
        with_validation=config.train_on_validation,
        with_unlabelled=training.distillation_alpha > 0.0,
    )
    train: DeviceTokens
    if training.augment_method in AUGMENTATIONS and training.augment_probability > 0.0:
        train = _augmented(config, pretrained, learned, splits.fingerprint, cache_dir, device)
    else:
        train = tokenized(*learned, MOST_LENGTHS)
    validation = tokenized("validation", splits.validation, MOST_EVALUATION_LENGTHS)
    teachers = read_teachers(config, splits)
    if teachers and training.distillation_alpha > 0.0:
        name, split = learned
        train = train.taught_by(fused_outputs(teachers, splits, split, name, cache_dir))
    elif not teachers and (training.distillation_alpha > 0.0 or splits.unlabelled is not None):
        raise DataError(
            "training.distillation_alpha and data.unlabelled need `teachers`, but there are none. Name their folders."
        )
    if problem := task.needs(config.metric, splits.labels):
        raise DataError(problem)
    _require_embeddings(config, pretrained, [train, validation])

    # 4. Set up the optimizer, the schedule, and the step that they make.
    num_training_steps = max(1, round(training.num_train_epochs * math.ceil(len(train) / training.train_batch_size)))
    rates = learning_rates(training, num_training_steps)
    if decays_in_proportion(training):
        padding = [pretrained.tokenizer.pad_token_id]
        keep_seen(pretrained.model, np.concatenate([train.token_ids, validation.token_ids, padding]))
    scales = layer_scales(pretrained.model, training.layer_lr_decay)
    groups = parameter_groups(pretrained.model, training.weight_decay, scales)
    optimizer = build_optimizer(groups, training, device.type, hidden_matrices(pretrained.model))
    loss = build_loss(task.loss, training, train.learned_labels, len(splits.labels), device.type)
    objective = build_objective(Context(loss, training, pretrained.model, config.model.name))
    step = Step(pretrained.model, train, objective, optimizer, training.max_grad_norm, device)
    graphed = device.type == "cuda" and may_capture(training, pretrained, objective)
    stepped = GraphedStep(step, CudaCapture()) if graphed else step
    averages = Averages(pretrained.model, training.ema_decay)
    stops_early = stopping_rule(training.early_stopping_patience, config.metric, task.metrics[config.metric])
    return Setup(
        config,
        task,
        device,
        pretrained,
        splits,
        train,
        validation,
        stepped,
        rates,
        averages,
        stops_early,
        {f"teacher {teacher.name}": teacher.fingerprint for teacher in teachers},
    )


def may_capture(training: TrainingSpec, pretrained: Pretrained, objective: Objective) -> bool:
    """Whether nothing of a step asks the device, so that a CUDA graph can hold it; else the plain step runs."""
    optimizer = OPTIMIZERS[training.optimizer]
    asks_nothing = pretrained.capturable and objective.capturable and optimizer.capturable
    return asks_nothing and not training.activation_checkpointing


def _tokens(
    pretrained: Pretrained,
    max_length: int,
    fingerprint: str,
    name: str,
    split: Split,
    most_lengths: int,
    cache_dir: Path | None,
    device: Device,
) -> DeviceTokens:
    tokenizer, types = pretrained.tokenizer, takes_token_types(pretrained.model)
    return _kept_tokens(split, tokenizer, max_length, fingerprint, name, most_lengths, cache_dir, device, types)


def _augmented(
    config: TrialConfig,
    pretrained: Pretrained,
    learned: tuple[str, Split],
    fingerprint: str,
    cache_dir: Path | None,
    device: Device,
) -> AugmentedTokens:
    """The train split in memory of this trial's own, which every epoch writes over."""
    training, tokenizer, (name, split) = config.training, pretrained.tokenizer, learned
    types = takes_token_types(pretrained.model)
    tokens = _host_tokens(split, tokenizer, training.max_length, fingerprint, name, cache_dir, types)
    source = Source(config.model, pretrained.fingerprint, device.type, pretrained.embeddings)
    how = build_augmentation(training.augment_method, split, tokens, tokenizer, training.max_length, source)
    probability, padding = training.augment_probability, tokenizer.pad_token_id
    return AugmentedTokens(tokens, how, probability, padding, device.type, MOST_LENGTHS, device.multiple_of)


@functools.lru_cache(maxsize=2)
def _host_tokens(
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    fingerprint: str,
    name: str,
    cache_dir: Path | None,
    types: bool,
) -> Tokens:
    tokens = tokenize_split(split, tokenizer, max_length, fingerprint=fingerprint, name=name, cache_dir=cache_dir)
    return tokens if types else replace(tokens, token_type_ids=None)


@functools.lru_cache(maxsize=8)
def _kept_tokens(
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    fingerprint: str,
    name: str,
    most_lengths: int,
    cache_dir: Path | None,
    device: Device,
    types: bool,
) -> DeviceTokens:
    """On the device, and kept there for the trials to come: splits and tokenizers are the same objects for all."""
    tokens = _host_tokens(split, tokenizer, max_length, fingerprint, name, cache_dir, types)
    return DeviceTokens(tokens, tokenizer.pad_token_id, device.type, most_lengths, device.multiple_of)


def held_back_tokens(setup: Setup, cache_dir: Path | None) -> DeviceTokens:
    """The test split, which no training loads."""
    return _tokens(
        setup.pretrained,
        setup.config.training.max_length,
        setup.splits.fingerprint,
        "test",
        setup.splits.test,
        MOST_EVALUATION_LENGTHS,
        cache_dir,
        setup.device,
    )


def trained_model(setup: Setup) -> PreTrainedModel:
    """The model as the training left it, with the whole vocabulary that it had before. Ends the training."""
    pretrained = setup.pretrained
    setup.averages.settle()
    if isinstance(pretrained.model.get_input_embeddings(), SeenEmbedding):
        whole_embedding(pretrained.model, pretrained.embeddings, _decay_of_unseen_rows(setup))
    return pretrained.model


def _decay_of_unseen_rows(setup: Setup) -> float:
    """What weight decay made of the rows of the embedding that were left out of the training, by now."""
    training = setup.config.training
    weight = setup.pretrained.model.get_input_embeddings().get_parameter("weight")
    for group in setup.step.optimizer.param_groups:
        if any(parameter is weight for parameter in group["params"]):
            of: dict[str, Any] = {name: group[name] for name in ("weight_decay", "lr_scale") if name in group}
            rates = setup.learning_rates[: setup.step.taken]
            return average_of(decay_without_gradient(training, rates, of), training.ema_decay)
    return 1.0  # it is not trained


def save_model(setup: Setup, folder: Path) -> None:
    """A model folder of the weights as the training left them, which says how it came to be. Ends the setup."""
    model, base = trained_model(setup), setup.config.model.pinned(setup.pretrained.fingerprint)
    METHODS[setup.config.training.method].unload(model, folder, base)
    model.save_pretrained(folder)
    setup.pretrained.tokenizer.save_pretrained(folder)
    tell_config(folder, setup.config.model_copy(update={"model": base}), setup.splits.fingerprint)


def keep_best(setup: Setup, folder: Path, instead_of: Iterable[Path]) -> None:
    """Saves a model to `folder`, and removes those that it is better than; at every moment there is a whole one."""
    making = folder.with_name(f".{folder.name}")
    for unfinished in (making, folder):  # of an attempt that was killed just here
        shutil.rmtree(unfinished, ignore_errors=True)
    save_model(setup, making)
    making.rename(folder)
    for other in instead_of:
        shutil.rmtree(other, ignore_errors=True)


def _checkpoint_activations(model: PreTrainedModel, name: str) -> None:
    try:
        model.activation_checkpointing_enable()
    except ValueError as error:
        raise DataError(
            f"training.activation_checkpointing needs an architecture that can compute its layers twice, but `{name}` "
            f"is `{model.config.model_type}`. Set it to false, or choose another model."
        ) from error


def _require_embeddings(config: TrialConfig, pretrained: Pretrained, tokens: list[DeviceTokens]) -> None:
    known = len(pretrained.embeddings)
    highest = max(pretrained.tokenizer.pad_token_id, *(int(split.token_ids[-1]) for split in tokens))
    if highest >= known:
        raise DataError(
            f"every token must have an embedding, but got token {highest} for the {known:,} embeddings of "
            f"`{config.model.name}`. Use the tokenizer that was saved with the model."
        )
