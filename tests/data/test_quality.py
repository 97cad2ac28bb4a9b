"""Every number of the quality of hand-made data, worked out by hand, and what is said of it."""

from collections.abc import Sequence

import numpy as np
import pytest

from hpo.data import quality
from hpo.data.quality import data_quality, quality_notes
from hpo.data.splits import SPLITS, Split, Splits
from hpo.results import Conflict, DataQuality, Relatives
from hpo.tasks.labels import LabelsBy

Row = tuple[str, int]
TEN = "a b c d e f g h i j"


def split(rows: Sequence[Row]) -> Split:
    return Split(tuple(text for text, _ in rows), np.array([label for _, label in rows], dtype=np.int64))


def distinct(tag: str, *counts: int) -> list[Row]:
    """So many rows of each class that have nothing in common with any other."""
    return [
        (" ".join(f"{tag}{label}x{number}{word}" for word in "pqrst"), label)
        for label, count in enumerate(counts)
        for number in range(count)
    ]


def splits(
    train: Sequence[Row] | None = None,
    validation: Sequence[Row] | None = None,
    test: Sequence[Row] | None = None,
    *,
    labels: tuple[str, ...] = ("neg", "pos"),
    labels_by: LabelsBy = "name",
    source: dict[str, tuple[str, ...]] | None = None,
) -> Splits:
    return Splits(
        split(distinct("t", 60, 60) if train is None else train),
        split(distinct("v", 30, 30) if validation is None else validation),
        split(distinct("s", 30, 30) if test is None else test),
        labels,
        "f" * 64,
        (),
        {"train": {"repeated": 2}},
        source or {},
        labels_by,
    )


def measured(data: Splits, max_length: int = 100, lengths: dict[str, list[int]] | None = None) -> DataQuality:
    """With a token a word, unless the lengths are given."""
    counted = {name: [len(text.split()) for text in getattr(data, name).texts] for name in SPLITS}
    return data_quality(
        data, {name: np.array(of, dtype=np.int64) for name, of in (counted | (lengths or {})).items()}, max_length
    )


def said(data: Splits, metric: str = "eval/accuracy", max_length: int = 100) -> list[str]:
    return list(quality_notes(measured(data, max_length), metric))


def test_clean_data_is_not_spoken_of() -> None:
    assert said(splits()) == []


def test_rows_classes_and_what_was_removed() -> None:
    found = measured(splits(train=distinct("t", 3, 1))).splits["train"]
    assert (found.rows, found.removed) == (4, {"repeated": 2})
    assert (found.class_counts, found.class_shares) == ({"neg": 3, "pos": 1}, {"neg": 0.75, "pos": 0.25})


def test_lengths_and_what_truncation_cuts() -> None:
    lengths = [*range(1, 101)] * 2  # 200 rows of 1 to 100 tokens
    data = splits(train=distinct("t", 100, 100))
    found = measured(data, 90, {"train": lengths}).splits["train"].lengths
    assert found.percentiles == {"min": 1, "5": 5, "25": 25, "50": 50, "75": 75, "95": 95, "99": 99, "max": 100}
    assert found.truncated == 20
    assert found.tokens_cut == pytest.approx(2 * 55 / (2 * 5050))  # 1 + 2 + ... + 10 of 1 + 2 + ... + 100
    (note,) = quality_notes(measured(data, 50, {"train": lengths}), "eval/accuracy")
    # 1 + ... + 50 = 1275 of 5050
    assert note == "train: 25.2 % of its tokens are cut at training.max_length=50; 95 % of its texts have up to 95."


OVERLAPPING: list[Row] = [
    (f"{TEN[:-2]}, J!", 0),  # equal to the first of validation
    (f"{TEN} k", 1),  # near it, with another label
    (f"{TEN} k", 1),  # and once more
    ("b c d e f", 0),  # within it
    ("no yes oh v w x y z", 1),  # contains the second
]


def test_overlaps() -> None:
    data = splits(
        train=[*OVERLAPPING, *distinct("t", 60, 60)],
        validation=[(TEN, 0), ("v w x y z", 1), *distinct("v", 20, 20)],
    )
    found = measured(data)
    assert [(each.earlier, each.later, each.rows) for each in found.overlaps] == [
        ("train", "validation", 5),
        ("train", "test", 0),
        ("validation", "test", 0),
    ]
    overlap = found.overlaps[0]
    assert overlap.kinds == {
        "equal but for case and punctuation": 1,
        "near duplicates": 2,
        "contained in one": 1,
        "containing one": 1,
    }
    assert (overlap.other_label, overlap.later_rows) == (2, 2)
    assert found.compared == {"train": 125, "validation": 42, "test": 60}
    assert [example.kind for example in overlap.examples] == [*overlap.kinds, "near duplicates"]  # each kind first
    assert overlap.examples[1] == Relatives(
        kind="near duplicates",
        similarity=10 / 11,
        text=f"{TEN} k",
        label="pos",
        other=TEN,
        other_label="neg",
    )
    assert said(data) == [
        "validation: 2 of 42 rows (4.8 %) nearly stand in train (5 rows of it; near duplicates, or one within the "
        "other), so that its scores may be too good. `data.leaks: drop` removes them from train."
    ]


def test_leaks_are_said_from_the_standard_error_of_a_score_on() -> None:
    """Of 60 rows, at an accuracy of 0.9: the root of 0.09 * 60 is 2.3 rows."""
    planted = [f"{TEN} {number} {number}x" for number in range(3)]
    for number, told in ((2, 0), (3, 1)):
        validation = [(text, 0) for text in planted[:number]] + distinct("v", 30, 30 - number)
        data = splits(train=[(TEN, 0), *distinct("t", 60, 60)], validation=validation)
        assert measured(data).overlaps[0].later_rows == number
        assert len(said(data)) == told


def test_long_examples_are_cut() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    data = splits(train=[(f"{text} more", 0), *distinct("t", 20, 20)], validation=[(text, 0)])
    (example,) = measured(data).overlaps[0].examples
    assert (len(example.text), example.text[-1]) == (quality.EXAMPLE_CHARACTERS, "…")


def test_of_much_text_a_part_is_compared_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    validation = distinct("v", 30, 30)
    data = splits(train=[(f"{text} more", label) for text, label in validation] * 2, validation=validation)
    characters = sum(map(len, data.train.texts))
    monkeypatch.setattr(quality, "MOST_CHARACTERS", characters // 2)
    found = measured(data)
    assert found.compared == {"train": 120 * (characters // 2) // characters, "validation": 60, "test": 60}
    overlap = found.overlaps[0]
    assert overlap.rows == found.compared["train"]
    assert 0 < overlap.later_rows < 60
    assert any(f"validation: at least {overlap.later_rows} of 60 rows" in note for note in said(data))
    assert measured(data) == found  # the same part each time


def test_repeated_rows_and_contradictions() -> None:
    train = [("same", 0), (" same ", 1), ("same", 1), ("twice", 0), ("twice", 0), *distinct("t", 30, 25)]
    found = measured(splits(train=train))
    assert found.splits["train"].repeated == 3
    assert (found.conflicts["train"].texts, found.conflicts["train"].rows) == (1, 3)
    assert found.conflicts["train"].examples == [Conflict(text="same", labels={"neg": 1, "pos": 2})]
    assert (found.conflicts["validation"].texts, found.conflicts["validation"].examples) == (0, [])
    assert said(splits(train=train)) == [
        "train: 3 of 60 rows (5.0 %) repeat an earlier one of it.",
        "train: 3 of 60 rows (5.0 %) have a text that also stands there with another label.",
    ]


def test_a_majority_and_a_rare_class_are_said() -> None:
    data = splits(train=distinct("t", 80, 20), validation=distinct("v", 35, 5), test=distinct("s", 30, 20))
    assert said(data) == [
        "train: 80.0 % of its rows are 'neg'; to answer nothing else has an accuracy of 87.5 % on validation.",
        "validation: only 5 rows of 'pos': under 20, a class's scores say little.",
    ]
    several = splits(test=distinct("s", 1, 3))
    assert said(several) == [
        "test: only 1 row of 'neg' and of 1 more class: under 20, a class's scores say little.",
    ]


@pytest.mark.parametrize(
    ("labels", "source", "swapped"),
    [
        (("Negative", "Positive"), ("neg", "pos"), None),
        (("Positive", "Negative"), ("neg", "pos"), "0 is 'neg' in train and 'Positive' here, which has 'Negative'"),
        (("bad", "good"), ("neg", "pos"), None),
        (("good", "bad"), ("neg", "pos"), None),  # nobody can know
    ],
)
def test_declared_names_in_another_order_than_the_sources(
    labels: tuple[str, ...], source: tuple[str, ...], swapped: str | None
) -> None:
    data = splits(labels=labels, labels_by="position", source={"train": source})
    order = measured(data).label_order
    assert (order.labels, order.source, order.by, order.positive) == (
        list(labels),
        list(source),
        "position",
        labels[1],
    )
    assert order.swapped == swapped
    assert said(data) == (
        []
        if swapped is None
        else [f"Labels: integers get the names of data.labels by position, but {swapped}. Check their order."]
    )


def test_which_class_is_positive_is_said_where_nobody_chose_it() -> None:
    data = splits(labels=("hate", "none"), labels_by="sorted")
    assert said(data) == []
    assert said(data, "eval/f1") == [
        "eval/f1 is of 'none', the last in sorted order: data.labels says which class is positive."
    ]
    assert said(splits(labels=("0", "1"), labels_by="sorted"), "eval/f1") == []
    assert said(splits(labels=("hate", "none"), labels_by="name"), "eval/f1") == []
    three = splits(train=distinct("t", 40, 40, 40), labels=("a", "b", "c"), labels_by="sorted")
    assert measured(three).label_order.positive is None
