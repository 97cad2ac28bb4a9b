"""How each task reads its labels, and what it says of those that are none; a word, a pair or a file that is wrong."""

import json
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pandas as pd
import pytest

from hpo.data.splits import Splits, load_splits
from hpo.errors import DataError
from hpo.spec import DataSpec


def load(task: str, rows: list[dict[str, Any]], folder: Path, suffix: str = "jsonl", **data: Any) -> Splits:
    path = folder / f"rows.{suffix}"
    if suffix == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    spec = DataSpec.model_validate({"train": str(path), "validation_size": 2, "test_size": 2} | data)
    return load_splits(task, spec, 0)


def labels_of(splits: Splits) -> dict[str, str]:
    """By text, of all splits."""
    return {
        text: splits.label_text(split, row)
        for split in (splits.train, splits.validation, splits.test)
        for row, text in enumerate(split.texts)
    }


class TestPairs:
    ROWS: ClassVar[list[dict[str, Any]]] = [
        {"premise": f"a {n}", "hypothesis": f"b {n}", "label": n % 2} for n in range(12)
    ]

    def test_both_texts_are_read(self, tmp_path: Path) -> None:
        splits = load("sequence_classification", self.ROWS, tmp_path, text_column=["premise", "hypothesis"])
        assert ("a 3", "b 3") in splits.train.inputs + splits.validation.inputs + splits.test.inputs
        assert labels_of(splits)["a 3 || b 3"] == "1"

    def test_a_missing_second_text(self, tmp_path: Path) -> None:
        rows = [*self.ROWS, {"premise": "a", "hypothesis": None, "label": 0}]
        with pytest.raises(DataError, match="every row must have a text, but got no value in column `hypothesis`"):
            load("sequence_classification", rows, tmp_path, text_column=["premise", "hypothesis"])

    def test_a_column_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="Did you mean `hypothesis`"):
            load("sequence_classification", self.ROWS, tmp_path, text_column=["premise", "hypotesis"])


class TestClasses:
    def test_names_that_are_partly_numbers_are_no_positions(self, tmp_path: Path) -> None:
        """A split without the others would read as integers."""
        names = ["1", "2", "3", "other"]
        rows = [{"text": f"t {n}", "label": names[n % 4]} for n in range(40)]
        test = tmp_path / "test.jsonl"
        test.write_text("".join(f'{{"text": "u {n}", "label": "{names[n % 3]}"}}\n' for n in range(9)), "utf-8")
        splits = load(
            "sequence_classification", rows, tmp_path, test=str(test), test_size=None, validation_size=8, labels=names
        )
        assert splits.labels_by == "name" and splits.class_counts["test"] == {"1": 3, "2": 3, "3": 3, "other": 0}
        assert labels_of(splits)["u 1"] == "2"


class TestLabelSets:
    ROWS: ClassVar[list[dict[str, Any]]] = [
        {"text": f"t {n}", "label": [*["joy"] * (n % 2 > 0), *["anger"] * (n % 3 > 0)]} for n in range(30)
    ]

    def test_lists_of_names(self, tmp_path: Path) -> None:
        splits = load("multi_label_classification", self.ROWS, tmp_path)
        assert splits.labels == ("anger", "joy")
        assert splits.train.labels.dtype == np.float32 and splits.train.labels.shape == (26, 2)
        found = labels_of(splits)
        assert [found[f"t {n}"] for n in range(4)] == ["no label", "anger, joy", "anger", "joy"]
        assert sum(splits.class_counts[split]["joy"] for split in splits.class_counts) == 15

    def test_names_with_commas_between_in_a_csv_file(self, tmp_path: Path) -> None:
        rows = [row | {"label": ", ".join(row["label"])} for row in self.ROWS]
        assert labels_of(load("multi_label_classification", rows, tmp_path, "csv")) == labels_of(
            load("multi_label_classification", self.ROWS, tmp_path)
        )

    def test_a_column_for_each(self, tmp_path: Path) -> None:
        rows = [
            {"text": row["text"], "joy": int("joy" in row["label"]), "anger": "anger" in row["label"]}
            for row in self.ROWS
        ]
        splits = load("multi_label_classification", rows, tmp_path, "csv", label_column=["joy", "anger"])
        assert splits.labels == ("joy", "anger")
        assert labels_of(splits)["t 1"] == "joy, anger"

    @pytest.mark.parametrize(
        ("label", "message"),
        [
            (None, "have labels, or an empty list, but got no value"),
            ([["joy"]], "have a list of names or integers, but got another type"),
            (0.5, "have a list of names or integers, but got another type"),
        ],
    )
    def test_no_set_of_labels(self, label: Any, message: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=message):
            load("multi_label_classification", [*self.ROWS, {"text": "x", "label": label}], tmp_path)

    def test_a_column_of_something_else(self, tmp_path: Path) -> None:
        rows = [{"text": f"t {n}", "joy": n % 2, "anger": "maybe"} for n in range(12)]
        with pytest.raises(DataError, match=r"0 or 1, or false or true, but got another value in column `anger`"):
            load("multi_label_classification", rows, tmp_path, label_column=["joy", "anger"])

    def test_a_split_without_any_label(self, tmp_path: Path) -> None:
        path = tmp_path / "test.jsonl"
        path.write_text('{"text": "x", "label": []}\n{"text": "y", "label": []}\n', encoding="utf-8")
        with pytest.raises(DataError, match=r"some row of test must have a label.*Is that split unlabelled"):
            load("multi_label_classification", self.ROWS, tmp_path, test=str(path), test_size=None)

    @pytest.mark.parametrize("row", [[0, 0, 1], [1, 1, 0], ["joy", "joy"]])
    def test_a_label_that_is_named_twice_as_in_a_0_or_1_for_each(self, row: list[Any], tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"every row must name each of its labels once .*make a column each"):
            load("multi_label_classification", [*self.ROWS, {"text": "x", "label": row}], tmp_path)

    def test_true_and_false_are_no_labels(self, tmp_path: Path) -> None:
        rows = [{"text": f"t {n}", "label": [n % 2 == 0, n % 3 == 0]} for n in range(30)]
        with pytest.raises(DataError, match="every row must have a list of names or integers, but got another type"):
            load("multi_label_classification", rows, tmp_path)

    def test_codes_keep_their_zeros(self, tmp_path: Path) -> None:
        rows = [{"text": f"t {n}", "label": [["01", "10", "010", "001"][n % 4]]} for n in range(40)]
        assert load("multi_label_classification", rows, tmp_path).labels == ("001", "01", "010", "10")

    def test_white_space_makes_no_other_label(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="every row must be spelt alike, but got white space around"):
            load("multi_label_classification", [*self.ROWS, {"text": "x", "label": [" joy"]}], tmp_path)

    def test_a_label_that_train_has_not(self, tmp_path: Path) -> None:
        path = tmp_path / "test.jsonl"
        path.write_text('{"text": "x", "label": ["fear"]}\n{"text": "y", "label": []}\n', encoding="utf-8")
        with pytest.raises(DataError, match=r"every label of test must be a label of train .*'fear' \(1 rows\)"):
            load("multi_label_classification", self.ROWS, tmp_path, test=str(path), test_size=None)


class TestNumbers:
    ROWS = [{"text": f"t {n}", "stars": n / 5} for n in range(50)]

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_numbers(self, suffix: str, tmp_path: Path) -> None:
        splits = load("regression", self.ROWS, tmp_path, suffix, label_column="stars", test_size=10)
        assert splits.labels == ("stars",)
        assert labels_of(splits)["t 3"] == "0.6"
        # Two of each fifth of the numbers, which go from 0 to 9.8.
        assert np.bincount((splits.test.labels / 2).astype(int)).tolist() == [2, 2, 2, 2, 2]
        assert splits.class_counts["train"] == {} and splits.notes == ()

    def test_numbers_far_from_where_a_head_begins_are_told(self, tmp_path: Path) -> None:
        rows = [{"text": f"t {n}", "stars": 100 + n / 5} for n in range(50)]
        (note,) = load("regression", rows, tmp_path, label_column="stars").notes
        assert note.startswith("train: its numbers have a mean of 10") and "divided by a constant" in note

    @pytest.mark.parametrize("label", ["four", True, [1.0], "nan", "inf", "1_000", "٣", 1e39])
    def test_no_number(self, label: Any, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="every row must be a number, but got something else"):
            load("regression", [*self.ROWS, {"text": "x", "stars": label}], tmp_path, label_column="stars")

    def test_all_the_same(self, tmp_path: Path) -> None:
        rows = [row | {"stars": 3} for row in self.ROWS]
        with pytest.raises(DataError, match="the numbers of train must differ, but all its rows have 3"):
            load("regression", rows, tmp_path, label_column="stars")


class TestTags:
    ROWS = [{"words": ["Ann", "saw", f"w{n}"], "tags": ["B-person", "O", "O"]} for n in range(20)]
    COLUMNS = {"text_column": "words", "label_column": "tags"}

    def test_lists_of_words_and_tags(self, tmp_path: Path) -> None:
        splits = load("token_classification", self.ROWS, tmp_path, **self.COLUMNS)
        # Every prefix of every type: a model may have to say what train happens not to hold.
        assert splits.labels == ("O", "B-person", "I-person")
        assert labels_of(splits)["Ann saw w3"] == "B-person O O"
        assert splits.class_counts["train"] == {"O": 16, "B-person": 16, "I-person": 0}

    @pytest.mark.parametrize("separator", [" ", "   ", "\t"])
    def test_a_no_break_space_stands_within_a_word(self, separator: str, tmp_path: Path) -> None:
        path = tmp_path / "rows.conll"
        path.write_text("".join(f"10\u00a0000{separator}B-sum\nzone{n}{separator}O\n\n" for n in range(20)), "utf-8")
        spec = DataSpec(train=str(path), validation_size=2, test_size=2)  # type: ignore[arg-type]
        inputs = load_splits("token_classification", spec, 0).train.inputs
        assert len(inputs) == 16 and all(words[0] == "10\u00a0000" for words in inputs)

    def test_conll_files(self, tmp_path: Path) -> None:
        lines = [
            "-DOCSTART- -X- O",
            *(f"Ann NNP B-person\nsaw VBD O\nw{n} NN O\r\n\t" for n in range(20)),
        ]
        path = tmp_path / "rows.conll"
        path.write_text("\n".join(lines), encoding="utf-8")
        spec = DataSpec.model_validate({"train": str(path), "validation_size": 2, "test_size": 2})
        splits = load_splits("token_classification", spec, 0)
        assert labels_of(splits) == labels_of(load("token_classification", self.ROWS, tmp_path, **self.COLUMNS))

    def test_the_hubs_features(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def load_dataset(path: str, name: str | None, split: str, revision: str | None) -> Any:
            asked.append(revision)
            tags = datasets.ClassLabel(names=["B-person", "O"])
            features = datasets.Features(
                {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(tags)}
            )
            rows = {"tokens": [["Ann", f"{split}{n}"] for n in range(3)], "ner_tags": [[0, 1]] * 3}
            return datasets.Dataset.from_dict(rows, features=features)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        source = {"source": "org/x", "revision": "refs/convert/parquet"}
        columns = {"text_column": "tokens", "label_column": "ner_tags"}
        spec = DataSpec.model_validate({"train": source, "validation": source, "test": source, **columns})
        splits = load_splits("token_classification", spec, 0)
        assert splits.labels == ("O", "B-person")  # O is what a word is taken for of which nothing is known
        assert labels_of(splits)["Ann train0"] == "B-person O"
        assert asked == ["refs/convert/parquet"] * 3

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"tags": ["O"]}, "have as many tags as words in `words`, but got more or fewer in column `tags`"),
            ({"tags": "O O O"}, "have a list of tags, but got another type"),
            ({"words": "Ann saw him"}, "have a list of words, but got another type"),
            ({"words": ["Ann", " ", "him"]}, "have words, but got an empty one among them"),
            ({"words": [], "tags": []}, "have words, but got none"),
            (
                {"tags": ["PER", "O", "O"]},
                "prefix of B, I, E, S with the type of an entity.*got 'PER'.*Convert the tags",
            ),
            ({"tags": ["B-", "O", "O"]}, "got 'B-'"),
        ],
    )
    def test_wrong_words_and_tags(self, row: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=message):
            load("token_classification", [*self.ROWS, self.ROWS[0] | row], tmp_path, **self.COLUMNS)

    def test_no_entity_at_all(self, tmp_path: Path) -> None:
        rows = [row | {"tags": ["O", "O", "O"]} for row in self.ROWS]
        with pytest.raises(DataError, match="some word must be part of an entity"):
            load("token_classification", rows, tmp_path, **self.COLUMNS)

    @pytest.mark.parametrize("line", ["Ann", "\tB-person"])
    def test_a_line_without_word_or_tag(self, line: str, tmp_path: Path) -> None:
        path = tmp_path / "rows.conll"
        path.write_text(f"Ann B-person\n{line}\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"must have a word and a tag, or be empty, but got .* in line 2 of"):
            load_splits("token_classification", DataSpec.model_validate({"train": str(path)}), 0)

    def test_a_type_that_train_has_not(self, tmp_path: Path) -> None:
        path = tmp_path / "test.jsonl"
        path.write_text('{"words": ["Rome"], "tags": ["B-place"]}\n', encoding="utf-8")
        with pytest.raises(DataError, match="'B-place'"):
            load("token_classification", self.ROWS, tmp_path, test=str(path), test_size=None, **self.COLUMNS)
