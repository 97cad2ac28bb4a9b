"""A two-layer model with a forty-word tokenizer, sentences whose label is in one word, and a study of both.

What the tests and the soak train on: no network, no downloads, some seconds a trial at most.
"""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

GOOD = ("good", "great", "fine", "lovely")
BAD = ("bad", "awful", "poor", "dull")
FILLER = (
    *("the", "a", "film", "plot", "actor", "scene", "was", "is", "and", "of"),
    *("story", "music", "it", "this", "that", "with", "very", "one", "two", "more"),
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def sentences(n: int, seed: int) -> list[tuple[str, int]]:
    """`n` distinct sentences, half of them with a good word, half with a bad one."""
    draw = random.Random(seed)
    rows: dict[str, int] = {}
    while len(rows) < n:
        label = len(rows) % 2
        words = draw.choices(FILLER, k=draw.randint(3, 12))
        words.insert(draw.randrange(len(words)), draw.choice(GOOD if label else BAD))
        rows.setdefault(" ".join(words), label)
    return list(rows.items())


def write_csv(path: Path, rows: list[tuple[str, Any]]) -> Path:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    return path


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One that knows the words of the sentences, each as a token."""
    words = [*SPECIAL, *FILLER, *GOOD, *BAD]
    made = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def save_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A BERT of two layers, 32 wide, with random weights, and the tokenizer beside it."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertForSequenceClassification(config).bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_study(model: Path, data: Path, /, **sections: Any) -> dict[str, Any]:
    """A study that trains in a second a trial; keywords replace its sections."""
    study: dict[str, Any] = {
        "name": "tiny",
        "data": {
            "train": str(data),
            "validation_size": 100,
            "test_size": 60,
            "labels": ["negative", "positive"],
        },
        "model": {"name": str(model)},
        "training": {
            "learning_rate": 1e-3,
            "train_batch_size": 16,
            "dropout": 0.1,
            "num_train_epochs": 2,
            "num_evaluations": 4,
            "max_length": 32,
            "precision": "fp32",
        },
        "search_space": {
            "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
            "max_grad_norm": {"choices": [None, 0.5, 1.0]},
        },
        "n_trials": 3,
        "pruner": {"name": "median", "n_startup_trials": 1},
        "finalists": None,
    }
    return study | sections
