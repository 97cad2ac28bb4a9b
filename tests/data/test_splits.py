"""What is held out, removed, capped and refused, against hand-made rows and hand-computed counts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hpo.data.splits import Split, Splits, load_splits
from hpo.errors import DataError
from hpo.spec import DataSpec
from hpo.study_file import read_study

Row = tuple[str, Any]


def rows_of(counts: dict[Any, int], tag: str = "t") -> list[Row]:
    """So many distinct texts of each label."""
    return [(f"{tag} {label} {number}", label) for label, n in counts.items() for number in range(n)]


class Study:
    """Writes rows to files and loads them as splits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, *, seed: int = 0, **data: Any) -> Splits:
        for name in ("train", "validation", "test"):
            if isinstance(rows := data.get(name), list):
                path = self.folder / f"{name}.parquet"
                pd.DataFrame(rows, columns=["text", "label"]).to_parquet(path)
                data[name] = str(path)
        return load_splits("sequence_classification", DataSpec.model_validate(data), seed)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def counts(split: Split) -> list[int]:
    return [int(count) for count in np.bincount(split.labels)]


def three(validation: list[Row] | None = None, test: list[Row] | None = None) -> dict[str, Any]:
    """Three clean splits of two classes."""
    return {
        "train": rows_of({0: 6, 1: 4}),
        "validation": rows_of({0: 2, 1: 2}, "v") if validation is None else validation,
        "test": rows_of({0: 3, 1: 1}, "s") if test is None else test,
    }


# Labels


@pytest.mark.parametrize(
    ("labels", "declared", "classes", "ids"),
    [
        ([1, 0, 1], None, ("0", "1"), [1, 0, 1]),
        ([10, 9, 10], None, ("9", "10"), [1, 0, 1]),  # as numbers, not as text
        (["pos", "neg", "pos"], None, ("neg", "pos"), [1, 0, 1]),
        (["pos", "neg", "pos"], ["pos", "neg"], ("pos", "neg"), [0, 1, 0]),
        ([1, 0, 1], ["bad", "good"], ("bad", "good"), [1, 0, 1]),
        ([1, 0, 1], ["1", "0"], ("1", "0"), [0, 1, 0]),  # declared names win
        ([5, 1, 5], ["1", "5"], ("1", "5"), [1, 0, 1]),
        ([-1, 1, -1], None, ("-1", "1"), [0, 1, 0]),
    ],
)
def test_class_ids(
    study: Study, labels: list[Any], declared: list[str] | None, classes: tuple[str, ...], ids: list[int]
) -> None:
    splits: dict[str, Any] = {
        name: [(f"{name} {number}", label) for number, label in enumerate(labels)]
        for name in ("train", "validation", "test")
    }
    loaded = study.load(**splits, labels=declared)
    assert loaded.labels == classes
    assert loaded.train.labels.tolist() == loaded.test.labels.tolist() == ids
    assert loaded.train.labels.dtype == np.int64


def hub_load(name: str, labels: list[str] | None = None) -> Splits:
    data = {"train": name, "validation": name, "test": name, "labels": labels}
    return load_splits("sequence_classification", DataSpec.model_validate(data), 0)


def hub_splits(monkeypatch: pytest.MonkeyPatch, names: list[str], test_label: int = 1) -> None:
    import datasets

    def load_dataset(path: str, name: str | None, split: str, revision: str | None) -> Any:
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        labels = [0, test_label if split == "test" else 1]
        columns = {"text": [f"{split} a", f"{split} b"], "label": labels}
        return datasets.Dataset.from_dict(columns, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.parametrize(
    ("declared", "classes", "ids"),
    [
        (None, ("neg", "pos"), [0, 1]),
        (["pos", "neg"], ("pos", "neg"), [1, 0]),  # the same names in another order keep their meaning
        (["bad", "good"], ("bad", "good"), [0, 1]),  # other names are by position
    ],
)
def test_the_hubs_class_names(
    monkeypatch: pytest.MonkeyPatch, declared: list[str] | None, classes: tuple[str, ...], ids: list[int]
) -> None:
    hub_splits(monkeypatch, ["neg", "pos"])
    hub = f"org/{'-'.join(classes)}"
    splits = hub_load(hub, declared)
    assert splits.labels == classes
    assert splits.train.labels.tolist() == splits.test.labels.tolist() == ids


def test_an_unlabelled_hub_split(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_splits(monkeypatch, ["neg", "pos"], test_label=-1)
    with pytest.raises(DataError, match=r"label of test must be .* but got '-1' .*unlabelled\?"):
        hub_load("org/x")


def test_a_label_that_train_has_not(study: Study) -> None:
    with pytest.raises(DataError, match=r"label of validation must be a label of train .*'2' \(1 rows\)"):
        study.load(**three(validation=[("a", 0), ("b", 2)]))


def test_a_label_that_is_not_declared(study: Study) -> None:
    with pytest.raises(DataError, match=r"one of data.labels \('neg', 'pos'\), but got 'mixed'"):
        study.load(train=[("a", "neg"), ("b", "mixed")], labels=["neg", "pos"])
    with pytest.raises(DataError, match="but got '2'"):
        study.load(train=[("a", 0), ("b", 2)], labels=["neg", "pos"])


def test_declared_labels_must_differ(study: Study) -> None:
    with pytest.raises(DataError, match="class names must differ"):
        study.load(train=rows_of({0: 5, 1: 5}), labels=["a", "a"])


# Holding out


def test_rows_are_held_out_stratified(study: Study) -> None:
    splits = study.load(train=rows_of({0: 60, 1: 40}), validation_size=20, test_size=0.1)
    assert counts(splits.test) == [6, 4]
    assert counts(splits.validation) == [12, 8]
    assert counts(splits.train) == [42, 28]
    texts = [*splits.train.texts, *splits.validation.texts, *splits.test.texts]
    assert sorted(texts) == sorted(text for text, _ in rows_of({0: 60, 1: 40}))
    assert splits.class_counts["test"] == {"0": 6, "1": 4}
    assert splits.notes == ()


def test_both_shares_are_of_the_whole(study: Study) -> None:
    splits = study.load(train=rows_of({0: 50, 1: 50}), validation_size=0.2, test_size=0.2)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (60, 20, 20)


def test_only_what_is_not_given_is_held_out(study: Study) -> None:
    given = rows_of({0: 3, 1: 1}, "s")
    splits = study.load(train=rows_of({0: 10, 1: 10}), test=given, validation_size=4)
    assert splits.test.texts == tuple(text for text, _ in given)
    assert (len(splits.train), len(splits.validation)) == (16, 4)


def test_the_test_split_does_not_depend_on_validations_size(study: Study) -> None:
    train = rows_of({0: 50, 1: 50})
    small, large = (study.load(train=train, validation_size=size) for size in (10, 40))
    assert small.test.texts == large.test.texts


@pytest.mark.parametrize(
    ("train", "sizes", "message"),
    [
        ({0: 5, 1: 5}, {"test_size": 10}, "test is held out of train and must leave some of its rows"),
        ({0: 5, 1: 5}, {"test_size": 4, "validation_size": 7}, "validation is held out .* there are 6"),
        ({0: 9, 1: 1}, {"test_size": 2}, "at least 2 rows left to draw from, but got 1 of '1'"),
        ({0: 9, 1: 9, 2: 9}, {"test_size": 2}, r"room for every class, but got test_size=2 .* 3 classes"),
    ],
)
def test_what_cannot_be_held_out(study: Study, train: dict[Any, int], sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        study.load(train=rows_of(train), **sizes)


# Sentences


@pytest.fixture
def treebank() -> list[Row]:
    """20 sentences of five words, each with its phrases of one to four words."""
    rows: list[Row] = []
    for number in range(20):
        words = [f"{word}{number}" for word in "abcde"]
        label = number % 2
        rows += [(" ".join(words[:length]), label) for length in range(1, 6)]
    return rows


def test_whole_sentences_are_held_out_with_all_their_phrases(study: Study, treebank: list[Row]) -> None:
    splits = study.load(train=treebank, hold_out="sentences", validation_size=6, test_size=0.2)
    assert counts(splits.test) == [2, 2]  # a share is of the 20 sentences
    assert counts(splits.validation) == [3, 3]
    assert counts(splits.train) == [25, 25]
    held = [*splits.validation.texts, *splits.test.texts]
    assert {len(text.split()) for text in held} == {5}
    assert not any(f" {text} " in f" {other} " for text in splits.train.texts for other in held)
    assert splits.notes == (
        "train: 40 rows removed that are contained in one of the 10 sentences held out as validation and test.",
    )


def test_too_few_whole_sentences(study: Study, treebank: list[Row]) -> None:
    with pytest.raises(DataError, match=r"whole sentences .*20 rows.* there are 20"):
        study.load(train=treebank, hold_out="sentences", test_size=20)


# Duplicates


def test_rows_that_stand_in_a_later_split_are_removed(study: Study) -> None:
    validation = [("v0", 0), ("v1", 1), ("t 0 0", 0), ("both", 0)]
    test = [("s0", 0), ("s1", 1), (" t  1 1", 1), ("both", 0)]
    splits = study.load(**three(validation, test))
    assert splits.validation.texts == ("v0", "v1", "t 0 0")
    assert len(splits.test) == 4
    assert "t 0 0" not in splits.train.texts
    assert "t 1 1" not in splits.train.texts
    assert counts(splits.train) == [5, 3]
    assert splits.notes == (
        "validation: 1 row removed that also stands in test.",
        "train: 2 rows removed that also stand in validation or test.",
    )


def test_a_split_of_duplicates_only_has_no_rows(study: Study) -> None:
    same = rows_of({0: 2, 1: 2}, "v")
    with pytest.raises(DataError, match=r"validation must have rows, but got none. So far: .*4 rows removed"):
        study.load(**three(same, same))


# Leaks

TEN = "a b c d e f g h i j"
# Two relatives of each kind, one of validation's first row and one of test's; the last two are none.
RELATIVES: list[Row] = [
    ("A B c d e f g h, i j", 0),
    ("k l m n o p q r s t!", 1),
    (f"{TEN} more", 0),
    ("k l m n o p q r s more", 1),
    ("b c d e f", 0),
    ("l m n o p q", 1),
    (f"once upon a time {TEN}", 0),
    ("k l m n o p q r s t and so they lived", 1),
    ("b c d e", 0),
    ("a c e g i k m o q s", 1),
]


def leaking() -> dict[str, Any]:
    return {
        "train": [*RELATIVES, (TEN, 1), *rows_of({0: 4, 1: 4})],
        "validation": [(TEN, 0), ("k l m n o p q r s t u", 1), *rows_of({0: 2, 1: 2}, "v")],
        "test": [("k l m n o p q r s t", 1), *rows_of({0: 2, 1: 2}, "s")],
    }


def test_leaks_are_kept_unless_asked(study: Study) -> None:
    splits = study.load(**leaking())
    assert len(splits.train) == len(RELATIVES) + 8
    assert len(splits.validation) == 6
    assert splits.notes == ("train: 1 row removed that also stands in validation or test.",)
    assert splits.removed == {"train": {"repeated": 1}, "validation": {}, "test": {}}


def test_dropping_leaks_drops_exactly_them(study: Study) -> None:
    splits = study.load(**leaking(), leaks="drop")
    assert splits.train.texts == tuple(text for text, _ in [*RELATIVES[-2:], *rows_of({0: 4, 1: 4})])
    assert splits.train.labels.tolist() == [0, 1, *[0] * 4, *[1] * 4]
    assert splits.validation.texts == (TEN, *(text for text, _ in rows_of({0: 2, 1: 2}, "v")))
    assert splits.test.texts == tuple(text for text, _ in leaking()["test"])
    assert splits.notes == (
        "validation: 1 row removed as a leak of test (1 near duplicates; data.leaks).",
        "train: 1 row removed that also stands in validation or test.",
        "train: 8 rows removed as leaks of validation or test (2 equal but for case and punctuation, 2 near "
        "duplicates, 2 contained in one, 2 containing one; data.leaks).",
    )
    assert splits.removed == {
        "train": {
            "repeated": 1,
            "equal but for case and punctuation": 2,
            "near duplicates": 2,
            "contained in one": 2,
            "containing one": 2,
        },
        "validation": {"near duplicates": 1},
        "test": {},
    }
    assert splits.fingerprint == study.load(**leaking(), leaks="drop", seed=1).fingerprint


def test_leaks_are_dropped_where_rows_are_held_out_and_before_the_cap(study: Study) -> None:
    train = [
        (" ".join(f"{word}{number}" for word in "abcdefghi") + end, number % 2)
        for number in range(40)
        for end in ("", "!")
    ]
    splits = study.load(train=train, validation_size=8, test_size=8, leaks="drop", max_rows=30)
    held = {text.rstrip("!") for text in (*splits.validation.texts, *splits.test.texts)}
    assert not held & {text.rstrip("!") for text in splits.train.texts}
    assert len(splits.train) == 30  # of the at least 48 that are left
    assert not {text.rstrip("!") for text in splits.validation.texts} & {text.rstrip("!") for text in splits.test.texts}


def test_all_of_train_may_leak(study: Study) -> None:
    given = leaking() | {"train": RELATIVES[:8]}
    with pytest.raises(DataError, match=r"train must have rows, but got none\. So far: .*8 rows removed as leaks"):
        study.load(**given, leaks="drop")


# Sizes and classes


def test_max_rows_caps_each_split_stratified(study: Study) -> None:
    splits = study.load(
        train=rows_of({0: 60, 1: 40}),
        validation=rows_of({0: 18, 1: 2}, "v"),
        test=rows_of({0: 3, 1: 1}, "s"),
        max_rows=10,
    )
    assert counts(splits.train) == [6, 4]
    assert counts(splits.validation) == [9, 1]
    assert counts(splits.test) == [3, 1]
    assert splits.notes == (
        "train: 10 of 100 rows kept (data.max_rows).",
        "validation: 10 of 20 rows kept (data.max_rows).",
    )


def test_one_class_only(study: Study) -> None:
    with pytest.raises(DataError, match="at least two classes, but all its rows are '0'"):
        study.load(train=rows_of({0: 20}))


def test_a_class_that_only_validation_has(study: Study) -> None:
    given = three(validation=[("a", 0), ("b", 2)])
    with pytest.raises(DataError, match="every class of validation must also be in train, but got 'c'"):
        study.load(**given, labels=["a", "b", "c"])


def test_a_class_that_the_cap_left_out(study: Study) -> None:
    given: dict[str, Any] = {
        "train": rows_of({0: 9, 1: 9, 2: 1}),
        "validation": rows_of({2: 1}, "v"),
        "test": rows_of({0: 1}, "s"),
    }
    with pytest.raises(DataError, match=r"raise data\.max_rows"):
        study.load(**given, max_rows=2)


def test_the_cap_comes_after_duplicates_and_follows_the_seed(study: Study) -> None:
    train = rows_of({0: 40, 1: 40})
    test = train[:20] + train[40:60]
    given: dict[str, Any] = {"train": train, "validation": rows_of({0: 2, 1: 2}, "v"), "test": test}
    capped = [study.load(**given, max_rows=40, seed=seed) for seed in (0, 1)]
    assert [len(splits.train) for splits in capped] == [40, 40]  # all that no other split has
    smaller = [set(study.load(**given, max_rows=10, seed=seed).train.texts) for seed in (0, 1, 0)]
    assert smaller[0] == smaller[2] != smaller[1]


def test_a_class_without_rows_is_said(study: Study) -> None:
    splits = study.load(**three(test=[("s", 1)]), labels=["a", "b"])
    assert splits.notes == ("test: no row of 'a'.",)


# Determinism and the fingerprint

FRESH = """
import sys
from hpo.data.splits import load_splits
from hpo.spec import DataSpec
print(load_splits("sequence_classification", DataSpec(train=sys.argv[1], hold_out="sentences"), 3).fingerprint)
"""


def test_the_same_seed_gives_the_same_splits_in_every_process(
    study: Study, treebank: list[Row], tmp_path: Path
) -> None:
    here = study.load(train=treebank, hold_out="sentences", seed=3).fingerprint
    command = [sys.executable, "-c", FRESH, str(tmp_path / "train.parquet")]
    there = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


def test_another_seed_gives_other_splits(study: Study) -> None:
    train = rows_of({0: 50, 1: 50})
    one, other = (study.load(train=train, seed=seed) for seed in (0, 1))
    assert one.test.texts != other.test.texts
    assert one.fingerprint != other.fingerprint


def test_the_shipped_studies_have_the_data_that_they_always_had() -> None:
    """Recorded before `leaks` was an option. A study goes on only on the same data."""
    studies = Path(__file__).parents[2] / "studies"
    spec = read_study(studies / "rotten_tomatoes.yaml", [])
    splits = load_splits("sequence_classification", spec.data, spec.seed)
    assert splits.fingerprint == "0b2113804ed79b2dc6a87fcb222f9af750a485ede5082c6e7905f29ef468ec16"
    fallback = read_study(studies / "sst2.yaml", []).fallback
    assert fallback is not None and fallback.data is not None
    splits = load_splits("sequence_classification", fallback.data, 0)
    assert splits.fingerprint == "203a75c73dede79a92fce37776e9e57896416e0666ab89891332d2f38ff6a287"
    assert splits.notes == ("train: 1,500 of 6,464 rows kept (data.max_rows).",)


def test_the_sst2_studys_carve_is_what_it_always_was(study: Study, treebank: list[Row]) -> None:
    """Its data is on the Hub; the same rule on other phrases, recorded before `leaks` was an option."""
    test = rows_of({0: 3, 1: 1}, "s")
    splits = study.load(
        train=treebank, test=test, validation_size=6, hold_out="sentences", labels=["negative", "positive"]
    )
    assert splits.fingerprint == "2f57c52375f7dca36650161b12e00c77e6e1c82a01bceb005b73b008ddd018eb"


@pytest.mark.parametrize("change", ["text", "label", "names", "split"])
def test_the_fingerprint_changes_with_the_content(study: Study, change: str) -> None:
    given: dict[str, Any] = three()
    before = study.load(**given).fingerprint
    assert len(before) == 64
    match change:
        case "text":
            given["train"][0] = ("other", 0)
        case "label":
            given["train"][0] = (given["train"][0][0], 1)
        case "names":
            given["labels"] = ["neg", "pos"]
        case "split":
            given["train"].append(given["validation"].pop())
    assert study.load(**given).fingerprint != before


def test_splits_are_read_once_in_a_process(study: Study, tmp_path: Path) -> None:
    first = study.load(**three())
    data = DataSpec.model_validate(
        {name: str(tmp_path / f"{name}.parquet") for name in ("train", "validation", "test")}
    )
    again = load_splits("sequence_classification", data, 0)
    assert again is first
    assert not again.train.labels.flags.writeable
    assert load_splits("sequence_classification", data, 1) is not first


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_an_empty_split_is_refused(study: Study, name: str) -> None:
    given: dict[str, Any] = three()
    given[name] = []
    with pytest.raises(DataError, match=f"{name} must have rows"):
        study.load(**given)


def test_an_empty_text_is_refused(study: Study) -> None:
    with pytest.raises(DataError, match="every row must have a text"):
        study.load(train=[*rows_of({0: 5, 1: 5}), ("  ", 1)])
