"""What a model reads of a row, a text, a pair of texts, or words: for a person, and for a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # a study file is read without it
    from transformers import BatchEncoding, PreTrainedTokenizerBase

Form = Literal["text", "pair", "words"]
Input = str | tuple[str, ...]
# What stands between the parts of an input for a person.
BETWEEN: dict[Form, str] = {"pair": " || ", "words": " "}


def form_of(words: bool, columns: Sequence[str]) -> Form:
    """What stands in these columns: words if the task is one of words, else a text or a pair of them."""
    return "words" if words else "text" if len(columns) == 1 else "pair"


def readable(inputs: Sequence[Any], form: Form) -> tuple[str, ...]:
    """Each input as one text."""
    return tuple(inputs) if form == "text" else tuple(BETWEEN[form].join(parts) for parts in inputs)


def encode(
    tokenizer: PreTrainedTokenizerBase, inputs: Sequence[Any], form: Form, max_length: int | None
) -> BatchEncoding:
    """Token ids, and where the tokenizer has such, token types of a pair.

    Args:
        max_length: of a pair the longer text is cut first; None: nothing is cut.
    """
    first, second = ([row[0] for row in inputs], [row[1] for row in inputs]) if form == "pair" else (inputs, None)
    encoded: BatchEncoding = tokenizer(
        [list(row) for row in first] if form == "words" else list(first),
        second,
        is_split_into_words=form == "words",
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=form == "pair" and "token_type_ids" in tokenizer.model_input_names,
        verbose=False,
    )
    return encoded
