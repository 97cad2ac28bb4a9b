"""Which texts count as relatives of which, against rows and similarities worked out by hand."""

import random

import pytest

from hpo.data.overlap import JACCARD, Words, contained_in, jaccard, kinds, near_duplicates, relations, words_of

TEN = "a b c d e f g h i j"


def words(*texts: str) -> list[Words]:
    return [words_of(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's  Good,\tno: GREAT!", ("its", "good", "no", "great")),
        ("Straße 9_1", ("strasse", "9", "1")),
        ("好看 film", ("好", "看", "film")),
        ("カメラ", ("カ", "メ", "ラ")),
        (" :-) ", (":-)",)),
        ("...", ("...",)),
    ],
)
def test_words(text: str, expected: Words) -> None:
    assert words_of(text) == expected


def test_jaccard() -> None:
    assert jaccard(("a", "b", "b"), ("b", "c")) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("row", "similarity"),
    [
        (f"{TEN} k l", 10 / 12),
        ("a b c d e f g h i x", 9 / 11),
        ("a b c d e f g h", 8 / 10),  # just enough
        ("a b c d e f g h x", None),  # 8 / 11
        ("a b c d e f g", None),  # 7 / 10
        ("j i h g f e d c b a a", 1.0),  # sets have no order
    ],
)
def test_near_duplicates_of_ten_words(row: str, similarity: float | None) -> None:
    found = near_duplicates(words(row, "x y z"), words(TEN))
    if similarity is None:
        assert (found.rows, found.others) == ({}, set())
    else:
        assert found.rows == {words_of(row): (words_of(TEN), similarity)}
        assert found.others == {words_of(TEN)}


def test_the_most_similar_one_is_named_and_all_are_counted() -> None:
    others = words(f"{TEN} k", "x", TEN)
    found = near_duplicates(words(f"{TEN} l"), others)
    assert found.rows == {words_of(f"{TEN} l"): (words_of(TEN), 10 / 11)}
    assert found.others == {others[0], others[2]}


def test_near_duplicates_against_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefix filtering and blocks lose nothing."""
    monkeypatch.setattr("hpo.data.overlap._CELLS", 700)  # blocks of a few rows
    monkeypatch.setattr("hpo.data.overlap._PAIRS", 7)
    draw = random.Random(0)
    rows, others = (
        [tuple(draw.choices("abcdefgh", k=draw.randint(1, 12))) for _ in range(number)] for number in (200, 150)
    )
    found = near_duplicates(rows, others)
    pairs = [(row, other) for row in rows for other in others if jaccard(row, other) >= JACCARD]
    assert len(pairs) > 100
    assert set(found.rows) == {row for row, _ in pairs}
    assert found.others == {other for _, other in pairs}
    for row, (other, similarity) in found.rows.items():
        assert similarity == pytest.approx(max(jaccard(row, each) for each in others)) == jaccard(row, other)


def test_the_closest_kind() -> None:
    rows = words(
        "A b, c d e f g h i j!",  # equal
        f"{TEN} k",  # near; it also contains the other
        "b c d e f",  # within it
        "b c d e",  # four words are chance
        "b c d e g",  # not unbroken
        "k l b m n o p q r s",  # contains nothing
        "l l v w x y z m m",  # contains the second
    )
    others = words(TEN, "v w x y z")
    related = relations(rows, others)
    assert kinds(rows, related) == ["equal", "near", "contained", None, None, None, "containing"]
    assert related["contained"].rows == {rows[2]: (others[0], 0.5)}
    assert related["containing"].rows[rows[6]] == (others[1], 5 / 7)
    assert related["containing"].others == set(others)  # ten words with one more contain them, too


def test_containment_is_of_longer_texts_only_and_ignores_punctuation() -> None:
    related = relations(words("v w x y z"), words("V w x, y z.", "no: v w x y z"))
    assert related["equal"].others == {("v", "w", "x", "y", "z")}
    assert related["contained"].others == {("no", "v", "w", "x", "y", "z")}
    assert related["containing"].rows == {}


def inside(phrases: list[Words], rows: list[Words], fewest: int = 1) -> set[Words]:
    return {phrase for phrase, _ in contained_in(phrases, rows, fewest)}


def test_what_stands_in_a_row() -> None:
    rows = words("a b c d", "b c", "a c", "d", "c d e", "a b c d", "b c d", "x")
    assert inside(rows, rows) == set(words("b c", "d", "b c d"))
    assert inside(rows, rows, 2) == set(words("b c", "b c d"))
    assert list(contained_in(rows[1:2], rows[:1])) == [(("b", "c"), ("a", "b", "c", "d"))]


def test_words_are_whole_and_contiguous() -> None:
    assert inside(words("good", "not good", "a film"), words("goods not so good a filmed")) == {("good",)}


def test_a_text_does_not_stand_in_itself() -> None:
    assert inside(words("a b"), words("a b")) == set()


@pytest.mark.parametrize("head", ["", "a b a c b a"], ids=["", "after one head"])
@pytest.mark.parametrize("fewest", [1, 2, 5])
def test_containment_against_the_plain_definition(head: str, fewest: int) -> None:
    draw = random.Random(0)
    texts = [" ".join([head, *draw.choices("abc", k=draw.randint(1, 12))]).split() for _ in range(240)]
    phrases = [tuple(text[draw.choice([0, 0, 1, 6]) :]) or ("a",) for text in texts[:120]]
    rows = [tuple(text) for text in texts[120:]]
    plain = {
        (phrase, row)
        for phrase in phrases
        for row in rows
        if len(phrase) >= fewest and len(phrase) < len(row) and f" {' '.join(phrase)} " in f" {' '.join(row)} "
    }
    assert len(plain) > 20
    assert set(contained_in(phrases, rows, fewest)) == plain


class Counted(str):
    """A word that counts how often it is compared."""

    times = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.times += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize("words_after", [(1, 40), (30, 40)], ids=["of many lengths", "of few"])
def test_texts_that_begin_alike_are_not_compared_with_all_others(words_after: tuple[int, int]) -> None:
    """One prompt before each: the comparisons must grow as the texts do, not as the pairs of them."""

    def comparisons(count: int) -> int:
        draw = random.Random(0)

        def texts() -> list[Words]:
            return [
                tuple(map(Counted, ["this", "is", "what", "he", "wrote", *draw.choices("abcdefgh", k=length)]))
                for length in (draw.randint(*words_after) for _ in range(count))
            ]

        phrases, rows = texts(), texts()
        Counted.times = 0
        assert sum(1 for _ in contained_in(phrases, rows, 5)) < 10 * count
        return Counted.times

    assert comparisons(400) < 8 * comparisons(100)  # four times the texts; sixteen times the pairs


def test_nothing_to_compare_with() -> None:
    assert kinds(words("a"), relations(words("a"), [])) == [None]
    assert relations([], words("a"))["near"].rows == {}
