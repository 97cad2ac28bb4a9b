"""Two-layer models of every architecture whose dropout is known, with random weights, and tokenizers for them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from benchmarks.tiny import BAD, FILLER, GOOD, make_tokenizer

N_LAYERS = 2
SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
SPECIAL_IDS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
# As their checkpoints come: no padding token. Fewer keys than queries, as in all but the smallest.
OF_LLAMA = {"num_key_value_heads": 1, "pad_token_id": None, "bos_token_id": None, "eos_token_id": 0}
OWN_SIZES: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    # As DeBERTa-v3 has them: positions are relative.
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    "llama": OF_LLAMA,
    "mistral": OF_LLAMA,
    "modernbert": SPECIAL_IDS,
    "qwen2": OF_LLAMA | {"vocab_size": 160},
    "qwen3": OF_LLAMA | {"head_dim": 16},
}
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


def tiny_config(model_type: str) -> PretrainedConfig:
    config: PretrainedConfig
    if model_type == "distilbert":
        config = AutoConfig.for_model(
            model_type, vocab_size=32, dim=32, n_layers=N_LAYERS, n_heads=2, hidden_dim=64, max_position_embeddings=64
        )
    elif model_type == "gpt2":
        sizes = {"vocab_size": 32, "n_embd": 32, "n_layer": N_LAYERS, "n_head": 2, "n_positions": 64}
        config = AutoConfig.for_model(model_type, **sizes, bos_token_id=0, eos_token_id=0)
    else:
        config = AutoConfig.for_model(model_type, **SIZES | OWN_SIZES.get(model_type, {}))
    return config


def tiny_model(config: PretrainedConfig, attn_implementation: str = "eager") -> PreTrainedModel:
    """With eager attention where the architecture has no other."""
    architecture: Any = AutoModelForSequenceClassification._model_mapping[type(config)]
    has_sdpa = architecture._supports_sdpa
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        config, attn_implementation=attn_implementation if has_sdpa else "eager"
    )
    return model


def tiny_tokenizer(model_type: str) -> PreTrainedTokenizerFast:
    """Of the words of `benchmarks.tiny`; a decoder's adds nothing to a text and has no padding token, as GPT-2's."""
    if model_type not in DECODERS:
        return make_tokenizer()
    if model_type == "qwen2":
        return _byte_pairs()
    words = ["<|endoftext|>", "[UNK]", "[2]", "[3]", *FILLER, *GOOD, *BAD]
    made = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", eos_token="<|endoftext|>")


def save_tiny(model_type: str, folder: Path, seed: int = 0) -> Path:
    """A checkpoint as pretraining leaves one, without a head, and its tokenizer."""
    torch.manual_seed(seed)
    config = tiny_config(model_type)
    if model_type not in DECODERS:
        config.initializer_range = 0.1  # or, normed behind each layer, all texts look alike for hundreds of steps
    AutoModel.from_config(config).save_pretrained(folder)
    tiny_tokenizer(model_type).save_pretrained(folder)
    return folder


def _byte_pairs() -> PreTrainedTokenizerFast:
    """transformers makes byte pairs of any tokenizer beside a Qwen2. These give a word behind a space as one token."""
    pieces = ["<|endoftext|>", "Ġ", *"abcdefghijklmnopqrstuvwxyz"]
    merges = []
    for word in (*FILLER, *GOOD, *BAD):
        for end in range(len(word)):
            pair = (f"Ġ{word[:end]}", word[end])
            if "".join(pair) not in pieces:
                pieces.append("".join(pair))
                merges.append(pair)
    made: Any = Qwen2Tokenizer
    tokenizer: PreTrainedTokenizerFast = made({piece: index for index, piece in enumerate(pieces)}, merges)
    return tokenizer
