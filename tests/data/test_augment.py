"""What holds for every augmentation: labels stay, nothing is empty, the same draw gives the same, 0 is nothing."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from benchmarks.tiny import make_tokenizer
from hpo.data.augment import AUGMENTATIONS
from hpo.data.augment.base import Augmentation, Candidates, Indices, Request, Words
from hpo.data.augment.neighbour import neighbours
from hpo.data.augment.replacement import whole_words
from hpo.data.inputs import Form, encode
from hpo.data.splits import Split
from hpo.data.tokens import Tokens, tokenize_split
from hpo.errors import DataError

TEXTS = ("the film is good", "a plot", "music", "one scene with two actor more", "the the the")
PAIRS = (("the film is good", "the plot"), ("a", "one scene with two actor"), ("it was dull", "very"))
WORDS = (("the", "film", "is", "good"), ("lovely", "music"), ("awful",), ("a", "b", "unknownword", "plot"))
TAGS = ([0, 0, 0, 1], [1, 2], [1], [0, 0, 0, 1])
MAX_LENGTH = 32


def split_of(form: Form) -> Split:
    if form == "words":
        labels = np.empty(len(WORDS), dtype=object)
        labels[:] = [np.array(tags) for tags in TAGS]
        return Split(WORDS, labels, form)
    inputs = TEXTS if form == "text" else PAIRS
    return Split(inputs, np.arange(len(inputs)) % 2, form)


def request_of(form: Form, tokenizer: PreTrainedTokenizerFast, split: Split | None = None) -> Request:
    split = split or split_of(form)
    tokens = tokenize_split(split, tokenizer, MAX_LENGTH, fingerprint="", name="", cache_dir=None)
    encoded = encode(tokenizer, split.inputs, split.form, MAX_LENGTH)
    rows = range(len(split))
    words = Words.of(tokens, map(encoded.word_ids, rows), map(encoded.sequence_ids, rows))
    size = len(tokenizer)

    def predicted(among: Indices, count: int) -> Candidates:
        found: Candidates = np.stack([np.roll(among, -id_)[:count] for id_ in tokens.input_ids]).astype(np.int32)
        return found

    embeddings: NDArray[np.float32] = np.random.default_rng(0).normal(size=(size, 8)).astype(np.float32)
    return Request(tokens, words, tokenizer.get_vocab(), lambda: embeddings, predicted)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    made = make_tokenizer()
    made.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return made


FORMS: tuple[Form, ...] = ("text", "pair", "words")
Made = tuple[Request, Augmentation]


@pytest.fixture(
    params=[
        (name, form) for name, kind in AUGMENTATIONS.items() for form in FORMS if form != "words" or kind.keeps_words
    ],
    ids="-".join,
)
def case(request: pytest.FixtureRequest) -> tuple[str, Form]:
    found: tuple[str, Form] = request.param
    return found


@pytest.fixture
def form(case: tuple[str, Form]) -> Form:
    return case[1]


@pytest.fixture
def made(case: tuple[str, Form], tokenizer: PreTrainedTokenizerFast) -> Made:
    request = request_of(case[1], tokenizer)
    return request, AUGMENTATIONS[case[0]].build(request)


def draws(augmentation: Augmentation, probability: float, count: int = 40) -> list[Tokens]:
    return [augmentation(probability, np.random.default_rng(seed)) for seed in range(count)]


def by_row(tokens: Tokens, array: NDArray[np.int32] | NDArray[np.int8]) -> list[list[int]]:
    return [part.tolist() for part in np.split(array, tokens.offsets[1:-1])]


def texts_of(tokens: Tokens) -> list[list[list[int]]]:
    """By row and text of it, the tokens between the special ones."""
    rows = []
    for row in by_row(tokens, tokens.input_ids):
        ends = [at for at, token in enumerate(row) if token in (2, 3)]
        rows.append([row[a + 1 : b] for a, b in pairwise(ends)])
    return rows


class TestAugmentation:
    def test_0_is_nothing(self, made: Made) -> None:
        request, augmentation = made
        before = request.tokens.input_ids.copy()
        for tokens in draws(augmentation, 0.0, 3):
            assert np.array_equal(tokens.input_ids, before)
            assert np.array_equal(tokens.offsets, request.tokens.offsets)

    def test_the_same_draw_gives_the_same_and_another_one_another(self, made: Made) -> None:
        request, augmentation = made
        before = request.tokens.input_ids.copy()
        first, again = draws(augmentation, 0.5), draws(augmentation, 0.5)
        assert all(np.array_equal(one.input_ids, other.input_ids) for one, other in zip(first, again, strict=True))
        assert len({one.input_ids.tobytes() for one in first}) > 5
        assert np.array_equal(request.tokens.input_ids, before)  # what all epochs begin with

    def test_rows_stay_in_their_order_no_longer_than_they_were_and_no_text_is_empty(self, made: Made) -> None:
        request, augmentation = made
        for tokens in draws(augmentation, 0.9):
            assert len(tokens) == len(request.tokens) and (tokens.lengths <= request.tokens.lengths).all()
            assert tokens.offsets[-1] == len(tokens.input_ids)
            assert tokens.labels is request.tokens.labels
            for row, before in zip(texts_of(tokens), texts_of(request.tokens), strict=True):
                assert len(row) == len(before) and all(row)

    def test_only_tokens_come_up_that_it_told_of(self, made: Made) -> None:
        request, augmentation = made
        known = np.union1d(request.tokens.input_ids, augmentation.token_ids)
        for tokens in draws(augmentation, 0.9):
            assert np.isin(tokens.input_ids, known).all()

    def test_token_types_follow_the_texts(self, made: Made, form: Form) -> None:
        if form != "pair":
            return
        for tokens in draws(made[1], 0.7):
            assert tokens.token_type_ids is not None
            for row, types in zip(texts_of(tokens), by_row(tokens, tokens.token_type_ids), strict=True):
                assert types == [0] * (len(row[0]) + 2) + [1] * (len(row[1]) + 1)

    def test_labelled_words_keep_their_labels(self, made: Made, form: Form) -> None:
        """Every word that is part of something is still there, read where its label is; `O` words may change."""
        if form != "words":
            return
        original = request_words(made[0].tokens)
        for tokens in draws(made[1], 0.9):
            for row, tags, before in zip(request_words(tokens), TAGS, original, strict=True):
                assert row.keys() <= before.keys()
                for word, tag in enumerate(tags):
                    assert tag == 0 or row[word] == before[word]


def request_words(tokens: Tokens) -> list[dict[int, int]]:
    """By row and number of the word, its first token."""
    assert tokens.word_of is not None
    rows = zip(by_row(tokens, tokens.input_ids), by_row(tokens, tokens.word_of), strict=True)
    return [{word: token for token, word in zip(*row, strict=True) if word >= 0} for row in rows]


def share(made: Augmentation, probability: float, differs: Callable[[Tokens], float]) -> float:
    return float(np.mean([differs(tokens) for tokens in draws(made, probability, 200)]))


@pytest.fixture
def long_row(tokenizer: PreTrainedTokenizerFast) -> Request:
    words = " ".join(("the", "a", "film", "plot", "actor", "scene", "was", "is", "and", "of"))
    return request_of("text", tokenizer, Split((words, words), np.arange(2)))


def test_how_many_words_go(long_row: Request) -> None:
    deletion = AUGMENTATIONS["deletion"].build(long_row)
    assert share(deletion, 0.3, lambda tokens: 1 - (tokens.lengths.sum() - 4) / 20) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("name", ["neighbour", "masked_model"])
def test_how_many_words_are_replaced(name: str, long_row: Request) -> None:
    made = AUGMENTATIONS[name].build(long_row)
    found = share(made, 0.3, lambda tokens: (tokens.input_ids != long_row.tokens.input_ids).sum() / 20)
    assert found == pytest.approx(0.3, abs=0.02)


def test_swapped_words_are_the_same_words(long_row: Request) -> None:
    for tokens in draws(AUGMENTATIONS["swap"].build(long_row), 0.5):
        for row, before in zip(
            by_row(tokens, tokens.input_ids), by_row(tokens, long_row.tokens.input_ids), strict=True
        ):
            assert sorted(row) == sorted(before) and row[0] == 2 and row[-1] == 3


def test_a_text_of_one_word_stays(tokenizer: PreTrainedTokenizerFast) -> None:
    request = request_of("text", tokenizer)
    for tokens in draws(AUGMENTATIONS["deletion"].build(request), 0.99):
        assert texts_of(tokens)[2] == texts_of(request.tokens)[2]


def test_words_of_several_tokens_go_as_one() -> None:
    # [CLS] play ##ing good [SEP]
    ids = np.array([2, 10, 11, 12, 3], dtype=np.int32)
    tokens = Tokens(ids, np.array([0, 5]), np.array([0]), 0)
    words = Words.of(tokens, [[None, 0, 0, 1, None]], [[None, 0, 0, 0, None]])
    assert words.lengths.tolist() == [1, 2, 1, 1] and words.free.tolist() == [False, True, True, False]
    assert words.single.tolist() == [False, False, False, True, False]
    assert words.arranged(tokens, np.array([0, 2, 1, 3])).input_ids.tolist() == [2, 12, 10, 11, 3]
    assert words.arranged(tokens, np.array([0, 2, 3])).offsets.tolist() == [0, 3]


def test_neighbours_by_hand() -> None:
    embeddings = np.array([[1, 0], [0.9, 0.1], [5, 4], [0, 1], [-1, 0]], dtype=np.float32)
    assert neighbours(embeddings, np.array([0, 3]), np.arange(5), 2).tolist() == [[1, 2], [2, 1]]
    assert neighbours(embeddings, np.array([0]), np.array([0, 3, 4]), 2).tolist() == [[3, 4]]


def test_whole_words() -> None:
    assert whole_words({"[CLS]": 0, "film": 1, "##ing": 2, "42": 3, ".": 4, "a": 5}).tolist() == [1, 5]
    assert whole_words({"Ġfilm": 1, "film": 2, "Ġ,": 3, "Ġa": 4}).tolist() == [1, 4]
    assert whole_words({"▁film": 7, "s": 2}).tolist() == [7]


def test_a_tokenizer_without_whole_words(tokenizer: PreTrainedTokenizerFast) -> None:
    request = replace(request_of("text", tokenizer), vocabulary={"##ing": 5})
    with pytest.raises(DataError, match=r"has no such words for the train split\. Choose another model"):
        AUGMENTATIONS["neighbour"].build(request)
