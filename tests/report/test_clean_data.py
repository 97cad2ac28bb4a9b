"""What the page says of the data: every number of a quality that was found out, and nothing of one it does not know."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.tiny import write_csv
from conftest import StudyMaker
from hpo.data.quality import data_quality
from hpo.data.splits import load_splits
from hpo.report.clean_data import clean_data
from hpo.report.parts import Findings
from hpo.study_file import parse_study

REPEATED = "The film has one good scenes; and a story of its own!"


@pytest.fixture
def found(raw_study: StudyMaker, tmp_path: Path) -> dict[str, Any]:
    """Of a study whose test split nearly repeats a row of train, and whose train contradicts itself."""
    numbers = ("one", "two", "three", "four", "five", "six", "seven", "eight")
    rows = [(f"the film has {number} good scenes and a story of its own", len(number) % 2) for number in numbers]
    train = [*rows, ("a plot that is dull", 0), ("a plot that is dull", 1)]
    files = {
        "train": write_csv(tmp_path / "train.csv", train),
        "validation": write_csv(tmp_path / "validation.csv", [("quite another text", 0), ("and one more of them", 1)]),
        "test": write_csv(tmp_path / "test.csv", [(REPEATED, 0), ("no", 1)]),
    }
    data = {name: str(path) for name, path in files.items()} | {"labels": ["negative", "positive"]}
    spec = parse_study(raw_study(data=data), "tiny.yaml")
    splits = load_splits("sequence_classification", spec.data, 0)
    lengths = {name: np.array([len(text.split()) for text in getattr(splits, name).texts]) for name in files}
    quality = data_quality(splits, lengths, max_length=10).model_dump(mode="json")
    kept: dict[str, Any] = json.loads(json.dumps(quality))
    return kept


def rows_of(findings: Findings, title: str) -> list[list[str]]:
    (table,) = [table for table in findings.tables if table.title.startswith(title)]
    return [list(row) for row in table.rows]


def test_rows_classes_lengths_and_what_splits_share(found: dict[str, Any]) -> None:
    findings = clean_data(found)
    assert rows_of(findings, "Rows and classes")[0] == ["train", "10", "3 (30%)", "7 (70%)", "1", "2"]
    lengths = rows_of(findings, "Tokens of a text")
    assert lengths[0][0] == "train" and lengths[0][1] == "5" and lengths[0][-2] == "8"
    (of_train,) = [row for row in rows_of(findings, "What splits share") if row[0] == "train and test"]
    assert of_train[-1] == "1" and "1" in of_train[1:-2]
    texts = rows_of(findings, "Some of these texts")
    assert any("The film has one good scenes" in row[2] for row in texts)
    assert rows_of(findings, "Some texts with several labels") == [
        ["train", "a plot that is dull", "negative 1, positive 1"]
    ]
    assert "Classes, in the order of their ids: negative, positive" in findings.sentences[0]
    assert "the positive one is positive" in findings.sentences[0]
    assert not any("No text of one split" in sentence for sentence in findings.sentences)


def test_a_part_that_was_compared_is_told(found: dict[str, Any]) -> None:
    found["compared"]["train"] = 7
    assert any("7 of 10 of train" in sentence for sentence in clean_data(found).sentences)


@pytest.mark.parametrize("other", [None, {}, {"near_duplicates": 12}, "text", [1]])
def test_what_another_version_kept_is_left_out(other: Any) -> None:
    assert clean_data(other) == Findings()
