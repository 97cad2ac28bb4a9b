"""Inputs as token ids, tokenized once for each data fingerprint, tokenizer and length, and cached on disk."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpo.data.array_cache import cache_path, read_arrays, write_arrays
from hpo.data.inputs import Form, encode

if TYPE_CHECKING:  # the GPU benchmark runs where there is no pydantic, and a study file is read without transformers
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from hpo.data.splits import Split

logger = logging.getLogger(__name__)

FORMAT = 2  # of the cache file; raise it when the arrays or how they are made change
NEEDED = ("input_ids", "offsets", "n_truncated")


@dataclass(frozen=True, eq=False)
class Tokens:
    """One split tokenized: row i is `input_ids[offsets[i] : offsets[i + 1]]`, special tokens included."""

    input_ids: NDArray[np.int32]
    """Every row's ids, one after another."""
    offsets: NDArray[np.int64]
    """Where each row starts, and after the last where it ends."""
    labels: NDArray[Any]
    """By row, as in the split."""
    n_truncated: int
    """Rows that were longer than `max_length`."""
    token_type_ids: NDArray[np.int8] | None = None
    """Of pairs, like `input_ids`. Of a single text they are all 0, which is what a model assumes without them."""
    word_of: NDArray[np.int32] | None = None
    """Of words, like `input_ids`: where a word's first piece is, its number in the row; else -1."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each row."""
        return np.diff(self.offsets)


def tokenize_split(
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    fingerprint: str,
    name: str,
    cache_dir: Path | None,
) -> Tokens:
    """Tokenize `split`, or read what an earlier call left in `cache_dir`.

    Args:
        tokenizer: a fast one, which `load_pretrained` has made sure of.
        fingerprint: of the data (`Splits.fingerprint`).
        name: of the split within the data.
        cache_dir: made where it does not exist; None caches nothing.
    """
    if cache_dir is None:
        return _tokenize(split, tokenizer, max_length)
    path = cache_path(cache_dir, _cache_key(tokenizer, max_length, fingerprint, name))
    tokens = _read(path, split)
    if tokens is None:
        tokens = _tokenize(split, tokenizer, max_length)
        _write(path, tokens)
    return tokens


def _tokenize(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokens:
    encoded = encode(tokenizer, split.inputs, split.form, max_length=None)
    rows = _Rows.of(encoded, split.form)
    too_long = [row for row, ids in enumerate(rows.ids) if len(ids) > max_length]
    if too_long:
        # Again, and not cut here: the closing special token has to stay.
        again = [split.inputs[row] for row in too_long]
        rows.replace(too_long, _Rows.of(encode(tokenizer, again, split.form, max_length), split.form))
    return Tokens(
        input_ids=_flat(rows.ids, np.int32),
        offsets=np.cumsum([0, *map(len, rows.ids)], dtype=np.int64),
        labels=split.labels,
        n_truncated=len(too_long),
        token_type_ids=_flat(rows.types, np.int8) if rows.types else None,
        word_of=_flat(rows.words, np.int32) if rows.words else None,
    )


@dataclass(frozen=True)
class _Rows:
    """What a tokenizer makes of rows; empty what these have not."""

    ids: list[list[int]]
    types: list[list[int]]
    words: list[list[int]]

    @classmethod
    def of(cls, encoded: BatchEncoding, form: Form) -> _Rows:
        ids: list[list[int]] = encoded["input_ids"]
        of_words = [_first_pieces(encoded.word_ids(row)) for row in range(len(ids))] if form == "words" else []
        return cls(ids, list(encoded.get("token_type_ids", [])), of_words)

    def replace(self, at: list[int], others: _Rows) -> None:
        for own, other in ((self.ids, others.ids), (self.types, others.types), (self.words, others.words)):
            for row, values in zip(at, other, strict=False):
                own[row] = values


def _first_pieces(word_ids: list[int | None]) -> list[int]:
    """The number of the word at the first piece of each, and -1 elsewhere."""
    return [
        -1 if word is None or word == before else word
        for before, word in zip([None, *word_ids[:-1]], word_ids, strict=True)
    ]


def _flat(rows: list[list[int]], dtype: type[np.integer[Any]]) -> NDArray[Any]:
    return np.array([value for row in rows for value in row], dtype=dtype)


def _cache_key(tokenizer: PreTrainedTokenizerBase, max_length: int, fingerprint: str, name: str) -> list[Any]:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # What the last call left behind, not what the tokenizer is.
    backend["truncation"] = backend["padding"] = None
    return [FORMAT, fingerprint, name, max_length, tokenizer.truncation_side, tokenizer.model_input_names, backend]


def _read(path: Path, split: Split) -> Tokens | None:
    arrays = read_arrays(path, "token", NEEDED)
    if arrays is None:
        return None
    ids, offsets, truncated = (arrays[name] for name in NEEDED)
    if len(offsets) != len(split) + 1 or offsets[-1] != len(ids) or len(truncated) != 1:
        logger.warning("token cache: %s does not hold what its name says and is built again", path)
        return None
    types, words = arrays.get("token_type_ids"), arrays.get("word_of")
    return Tokens(ids, offsets, split.labels, int(truncated[0]), types, words)


def _write(path: Path, tokens: Tokens) -> None:
    truncated = np.array([tokens.n_truncated], dtype=np.int64)
    arrays: dict[str, NDArray[Any]] = dict(zip(NEEDED, (tokens.input_ids, tokens.offsets, truncated), strict=True))
    more = {"token_type_ids": tokens.token_type_ids, "word_of": tokens.word_of}
    write_arrays(path, "token", arrays | {name: array for name, array in more.items() if array is not None})
