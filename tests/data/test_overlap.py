"""Which texts count as relatives of which, against rows and similarities worked out by hand."""

import random

import pytest

from hpo.data.overlap import JACCARD, Words, jaccard, kinds, near_duplicates, relations, words_of

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


def test_nothing_to_compare_with() -> None:
    assert kinds(words("a"), relations(words("a"), [])) == [None]
    assert relations([], words("a"))["near"].rows == {}
