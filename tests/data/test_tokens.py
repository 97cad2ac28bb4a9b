"""Token ids, truncation and the cache, on a tokenizer of ten words."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hpo.data.splits import Split
from hpo.data.tokens import Tokens, tokenize_split

VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e", "f"])}
SPLIT = Split(("a b", "c", "a b c d e f", "a b c"), np.array([0, 1, 1, 0]))


class Counting(PreTrainedTokenizerFast):
    """Counts how often it is called."""

    n_calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.n_calls += 1
        return super().__call__(*args, **kwargs)


def make_tokenizer(vocabulary: dict[str, int] | None = None, **kwargs: Any) -> Counting:
    tokenizer = Tokenizer(models.WordLevel(vocabulary or VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    return Counting(tokenizer_object=tokenizer, **names, **kwargs)  # type: ignore[no-untyped-call]


def tokenize(cache_dir: Path | None, tokenizer: Counting | None = None, max_length: int = 5, **changed: Any) -> Tokens:
    given: dict[str, Any] = {"fingerprint": "f00d", "name": "train", "cache_dir": cache_dir, **changed}
    return tokenize_split(given.pop("split", SPLIT), tokenizer or make_tokenizer(), max_length, **given)


def as_lists(tokens: Tokens) -> list[list[int]]:
    return [tokens.input_ids[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]


def test_rows_and_truncation() -> None:
    tokens = tokenize(None)
    # "a b c" is 5 tokens with its special ones and is not cut; "a b c d e f" is 8 and keeps its [SEP].
    assert as_lists(tokens) == [[2, 4, 5, 3], [2, 6, 3], [2, 4, 5, 6, 3], [2, 4, 5, 6, 3]]
    assert tokens.n_truncated == 1
    assert len(tokens) == 4
    assert tokens.lengths.tolist() == [4, 3, 5, 5]
    assert tokens.labels.tolist() == [0, 1, 1, 0]
    assert tokens.input_ids.dtype == np.int32
    assert tokens.offsets.dtype == np.int64


def test_nothing_is_truncated_at_the_longest_row() -> None:
    assert tokenize(None, max_length=8).n_truncated == 0
    assert tokenize(None, max_length=7).n_truncated == 1


def test_a_second_call_reads_the_cache(tmp_path: Path) -> None:
    first = tokenize(tmp_path / "made" / "here")
    again = make_tokenizer()
    again.backend_tokenizer.enable_truncation(3)  # as another call may have left it
    again.backend_tokenizer.enable_padding()
    second = tokenize(tmp_path / "made" / "here", again)
    assert again.n_calls == 0
    assert as_lists(second) == as_lists(first)
    assert second.n_truncated == first.n_truncated
    assert second.labels.tolist() == first.labels.tolist()
    assert second.input_ids.dtype == np.int32
    assert [path.suffix for path in (tmp_path / "made" / "here").iterdir()] == [".safetensors"]


@pytest.mark.parametrize(
    "changed",
    [
        {"max_length": 6},
        {"fingerprint": "beef"},
        {"name": "test"},
        {"tokenizer": make_tokenizer({**VOCABULARY, "g": 10})},
        {"tokenizer": make_tokenizer(truncation_side="left")},
    ],
)
def test_whatever_changes_the_tokens_changes_the_file(tmp_path: Path, changed: dict[str, Any]) -> None:
    tokenize(tmp_path)
    tokenize(tmp_path, **changed)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["half", "garbage", "empty", "folder", "foreign"])
def test_a_damaged_cache_is_built_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    first = tokenize(tmp_path)
    (path,) = tmp_path.iterdir()
    match damage:
        case "half":
            path.write_bytes(path.read_bytes()[:-8])
        case "garbage":
            path.write_bytes(b"\xff" * 200)
        case "empty":
            path.write_bytes(b"")
        case "folder":
            path.unlink()
            path.mkdir()
        case "foreign":  # a whole file, of other rows
            tokenize(tmp_path, split=SPLIT.take(np.array([0])), name="other")
            (other,) = set(tmp_path.iterdir()) - {path}
            other.replace(path)
    tokenizer = make_tokenizer()
    with caplog.at_level(logging.WARNING):
        assert as_lists(tokenize(tmp_path, tokenizer)) == as_lists(first)
    assert tokenizer.n_calls > 0
    assert "built again" in caplog.text
    if damage != "folder":
        unused = make_tokenizer()
        tokenize(tmp_path, unused)
        assert unused.n_calls == 0


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    assert len(tokenize(tmp_path / "file")) == 4
    assert "cannot be written" in caplog.text
