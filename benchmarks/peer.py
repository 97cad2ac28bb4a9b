"""`transformers.Trainer` as a user sets it up for the same training, as it comes and as an expert does.

Knows our study file, for both sides train by the same settings, and nothing of our data, model or training code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from hpo.references import local_path
from hpo.training_spec import TrainingSpec


@dataclass(frozen=True)
class Expertise:
    """What an expert sets beside the settings of the training; the default is what comes of itself."""

    bf16: bool = False
    group_by_length: bool = False
    workers: int = 0
    """Of the data loader."""


def model_folder(name: str) -> str:
    """The weights' folder: the same file for both sides."""
    folder = local_path(name)
    assert folder is not None, f"the benchmark needs a model on this machine, but got {name}"
    return str(folder)


def load_model(folder: str, num_labels: int, dropout: float | None) -> PreTrainedModel:
    """The weights in float32, with a new head and BERT's places of dropout."""
    rates = {} if dropout is None else dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=num_labels, dtype=torch.float32, **rates
    )
    return model


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def read_rows(path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """The rows that `rows.py` wrote, tokenized; `length` is read by `group_by_length` alone."""

    def tokenize(batch: dict[str, Any]) -> Any:
        return tokenizer(batch["text"], truncation=True, max_length=max_length, return_length=True)

    rows = Dataset.from_dict(json.loads(path.read_text(encoding="utf-8")))
    return rows.map(tokenize, batched=True, remove_columns=["text"])


def training_arguments(
    training: TrainingSpec, expertise: Expertise, *, output_dir: Path, seed: int, **others: Any
) -> TrainingArguments:
    """The settings of a study by the Trainer's names. The fused AdamW is its default by now.

    Evaluation runs at the batch size of training: here the Trainer is faster by that than at our 128.
    """
    assert training.optimizer == "adamw", f"the peer is set up for adamw, but got {training.optimizer}"
    return TrainingArguments(
        output_dir=str(output_dir),
        seed=seed,
        optim="adamw_torch_fused",
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        adam_epsilon=training.adam_epsilon,
        max_grad_norm=training.max_grad_norm or 0.0,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=float(training.warmup_ratio),  # below 1 it is a share; an int would make 0 of what a search sets
        per_device_train_batch_size=training.train_batch_size,
        per_device_eval_batch_size=training.train_batch_size,
        bf16=expertise.bf16,
        train_sampling_strategy="group_by_length" if expertise.group_by_length else "random",
        dataloader_num_workers=expertise.workers,
        dataloader_persistent_workers=expertise.workers > 0,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        **others,
    )


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    guesses = np.asarray(prediction.predictions).argmax(axis=1)
    labels = prediction.label_ids
    return {"accuracy": float(accuracy_score(labels, guesses)), "f1": float(f1_score(labels, guesses))}
