"""Every file format, the Hub's exceptions, and each way in which a source can be wrong."""

import contextlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpo.data.sources import Rows, read_rows
from hpo.errors import DataError
from hpo.spec import DataSpec
from hpo.tasks.sequence_classification import SEQUENCE_CLASSIFICATION

FRAME = pd.DataFrame({"text": ["good", "bad", "NA"], "label": [1, 0, 1], "site": ["a", "b", "a"]})


def read(source: str | Path, name: str = "train", *, data: dict[str, Any] | None = None, **given: Any) -> Rows:
    """Read `source`, with the keys `given` beside it in the study, as our split `name`."""
    spec = DataSpec.model_validate({"train": {"source": str(source), **given}, **(data or {})})
    return read_rows(SEQUENCE_CLASSIFICATION, spec.train, name, spec)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


# Formats


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"reviews.{suffix}"
    match suffix:
        case "csv" | "tsv":
            FRAME.to_csv(path, index=False, sep="," if suffix == "csv" else "\t")
        case "jsonl" | "json":
            FRAME.to_json(path, orient="records", lines=suffix == "jsonl")
        case "parquet":
            FRAME.to_parquet(path)
    rows = read(path)
    assert rows == Rows(["good", "bad", "NA"], [1, 0, 1], None, str(path))
    assert {type(label) for label in rows.labels} == {int}


def test_a_tab_separated_file_has_no_quoting(tmp_path: Path) -> None:
    path = write(tmp_path / "glue.tsv", 'text\tlabel\n"half a quote\t0\nsaid " so , twice "\t1\nnull\t1\n')
    assert read(path).inputs == ['"half a quote', 'said " so , twice "', "null"]


def test_a_csv_file_has_quoting_and_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufefftext,label\n"a, b",neg\n"two\nlines",pos\n007,pos\n')
    rows = read(path)
    assert rows.inputs == ["a, b", "two\nlines", "007"]
    assert rows.labels == ["neg", "pos", "pos"]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "one\\u2028line", "label": 0}\n\n{"text": \n')
    with pytest.raises(DataError, match="line 3"):
        read(path)


def test_texts_that_look_like_numbers_or_dates_stay_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"date": text, "label": 0}) for text in ("2020-01-01", "1e5", "3.0")))
    assert read(path, data={"text_column": "date"}).inputs == ["2020-01-01", "1e5", "3.0"]


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        (np.array([0.0, 1.0]), [0, 1]),
        (pd.array([0, 1], dtype="Int64"), [0, 1]),
        (["0", "1"], [0, 1]),
        (["0.0", "1.0"], [0, 1]),
        (["007", "1"], ["007", "1"]),
        (["1", "neg"], ["1", "neg"]),
        ([False, True], ["False", "True"]),
        (pd.Categorical(["pos", "neg"]), ["pos", "neg"]),
    ],
)
def test_labels_become_integers_or_names(tmp_path: Path, column: Any, labels: list[str | int]) -> None:
    pd.DataFrame({"text": ["a", "b"], "label": column}).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").labels == labels


def test_where_keeps_rows_by_equality(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    FRAME.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        assert read(tmp_path / name, where={"site": "a"}).inputs == ["good", "NA"]
        assert read(tmp_path / name, where={"site": "a", "label": 1}).inputs == ["good", "NA"]
        assert read(tmp_path / name, where={"label": 0}).inputs == ["bad"]


# Bad input


class Ran:
    """What pickle runs as it reads it: a file says so."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("key", ["arrow.py_extension_type", "pandas.period", "datasets.Array2D", "own"])
def test_a_pickle_in_a_parquet_file_is_not_run(tmp_path: Path, key: str) -> None:
    """Arrow once unpickled the types of columns that call themselves Python's (CVE-2023-47248)."""
    metadata = {b"ARROW:extension:name": key.encode(), b"ARROW:extension:metadata": pickle.dumps(Ran(tmp_path / "ran"))}
    fields = [pa.field("text", pa.string(), metadata=metadata), pa.field("label", pa.int64())]
    table = pa.table([["a", "b"], [0, 1]], schema=pa.schema(fields, metadata={b"pandas": pickle.dumps(Ran(tmp_path))}))
    pq.write_table(table, tmp_path / "a.parquet")
    with contextlib.suppress(DataError):
        read(tmp_path / "a.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.pt", "a.npy", "a.arrow", "a.py", "a.json.pkl"])
def test_no_other_format_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Ran(tmp_path / "ran")))
    with pytest.raises(DataError, match="a data file must end in one of"):
        read(f"{tmp_path}/{name}")
    assert not (tmp_path / "ran").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must exist"):
        read(tmp_path / "none.csv")


def test_a_missing_column_names_those_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sentence,labels\ngood,1\n")
    with pytest.raises(DataError, match=r"`text` \(data.text_column\).*`sentence`, `labels`"):
        read(path)
    with pytest.raises(DataError, match=r"`label` \(data.label_column\).*Did you mean `labels`"):
        read(path, data={"text_column": "sentence"})
    with pytest.raises(DataError, match=r"`site` \(data.train.where\)"):
        read(path, data={"text_column": "sentence", "label_column": "labels"}, where={"site": "a"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", "not parquet"),
        ("a.jsonl", '{"text": "a", "label": 0}\n{"text": '),
        ("a.json", '{"text": '),
        ("a.json", "3"),
        ("a.json", '{"text": "a", "label": 0}'),
        ("a.json", "[" * 100_000),
        ("a.jsonl", '{"text": ' * 100_000),
        ("a.json", f'[{{"text": "a", "label": {"9" * 5000}}}]'),
        ("a.csv", f"{'a' * 200_000},label\n"),
        ("a.csv", 'text,label\n"never closed,0\n'),
        ("a.csv", "text,label\na,0\nb,c,1,2,3\n"),
        ("a.csv", "text,label\na, more,0\n"),
    ],
)
def test_a_file_that_cannot_be_parsed(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(DataError, match=r"cannot be read as|as many cells as the header"):
        read(write(tmp_path / name, content))


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\ncafé,0\n".encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read as csv"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", ""), ("a.csv", "text,label\n"), ("a.jsonl", ""), ("a.json", "[]")]
)
def test_an_empty_file(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(DataError, match=r"has none|is empty"):
        read(write(tmp_path / name, content))


def test_a_folder_or_an_unknown_format(tmp_path: Path) -> None:
    for path in (tmp_path, write(tmp_path / "a.xlsx", "")):
        with pytest.raises(DataError, match=r"must end in one of \.csv"):
            read(path)


def test_where_that_keeps_no_row(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match=r"`where` must keep some rows.*site: c"):
        read(tmp_path / "a.csv", where={"label": 1, "site": "c"})


@pytest.mark.parametrize(("text", "given"), [("", "an empty one"), (" \t", "an empty one")])
def test_empty_texts_are_counted(tmp_path: Path, text: str, given: str) -> None:
    FRAME.assign(text=["good", text, text]).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match=rf"{given} in column `text` .* at rows 2, 3 \(2 in all"):
        read(tmp_path / "a.csv")


def test_row_numbers_are_the_files_own(tmp_path: Path) -> None:
    texts = ["", "b", "", "", "", ""]
    pd.DataFrame({"text": texts, "label": 0, "site": list("xxyyyy")}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match=r"rows 3, 4, 5 and 1 more \(4 in all"):
        read(tmp_path / "a.csv", where={"site": "y"})


def test_missing_values(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a", None], "label": [0, 1]}).to_parquet(tmp_path / "text.parquet")
    pd.DataFrame({"text": ["a", "b"], "label": [0, None]}).to_parquet(tmp_path / "label.parquet")
    write(tmp_path / "label.csv", "text,label\na,0\nb,\n")
    write(tmp_path / "short.csv", "text,label\na,0\nb\n")
    write(tmp_path / "label.jsonl", '{"text": "a", "label": 0}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"have a text, but got no value .* at row 2 "):
        read(tmp_path / "text.parquet")
    for name in ("label.parquet", "label.csv", "short.csv", "label.jsonl"):
        with pytest.raises(DataError, match=r"have a label, but got no value .* at row 2 "):
            read(tmp_path / name)


def test_columns_of_the_wrong_type(tmp_path: Path) -> None:
    pd.DataFrame({"text": [1, 2], "label": [0.5, 1.0]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="be text"):
        read(tmp_path / "a.parquet")
    pd.DataFrame({"text": ["a", "b"], "label": [0.5, 1.0]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="be a name or an integer, but got a fraction"):
        read(tmp_path / "b.parquet")


@pytest.mark.parametrize("label", [[0, 1], [1], {"a": 1}, b"pos"])
def test_labels_that_are_no_single_value(tmp_path: Path, label: Any) -> None:
    pd.DataFrame({"text": ["a", "b"], "label": [label, label]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"be a name or an integer, but got a list or another type .* rows 1, 2 "):
        read(tmp_path / "a.parquet")
    if not isinstance(label, bytes):
        write(tmp_path / "a.jsonl", "".join(json.dumps({"text": text, "label": label}) + "\n" for text in "ab"))
        with pytest.raises(DataError, match="be a name or an integer, but got a list"):
            read(tmp_path / "a.jsonl")


def test_a_list_is_no_value_to_keep_rows_by(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a", "b"], "label": [0, 1], "tags": [[1, 2], [3]]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no row is left"):
        read(tmp_path / "a.parquet", where={"tags": 3})


def test_labels_that_differ_in_white_space_only(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "text,label\na,pos\nb, pos\nc,neg \nd,neg\n")
    with pytest.raises(DataError, match=r"be spelt alike, but got white space around .* rows 2, 3 "):
        read(tmp_path / "a.csv")
    write(tmp_path / "b.csv", "text,label\na, pos\nb, neg\n")  # odd, but of two classes
    assert read(tmp_path / "b.csv").labels == [" pos", " neg"]


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "text,label,text\na,0,b\n")
    with pytest.raises(DataError, match="two columns are named `text`"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize("key", ["split", "subset"])
def test_split_and_subset_are_for_the_hub(tmp_path: Path, key: str) -> None:
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    given: dict[str, Any] = {key: "train"}
    with pytest.raises(DataError, match=f"`{key}` is for Hub data sets, but got {key}=train"):
        read(tmp_path / "a.csv", **given)


# The Hub, without a network: `load_dataset` is replaced, what it returns and raises is real.


def test_hub_rows_with_class_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str, str | None, str, str | None]] = []

    def load_dataset(path: str, name: str | None, split: str, revision: str | None) -> Any:
        asked.append((path, name, split, revision))
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
        )
        return datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = read("nyu-mll/glue", "test", subset="sst2")
    assert rows == Rows(["a", "b"], [1, -1], ("neg", "pos"), "the Hub's nyu-mll/glue, subset sst2, split test")
    read("nyu-mll/glue", "test", subset="sst2", split="validation")
    assert asked == [("nyu-mll/glue", "sst2", "test", None), ("nyu-mll/glue", "sst2", "validation", None)]


def test_the_hubs_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    for error, message in (
        (datasets.exceptions.DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub"), "must exist on the Hub"),
        (ValueError("Unknown split \"test\". Should be one of ['train']."), "Unknown split .* data.test"),
        (ConnectionError("Couldn't reach 'x' on the Hub"), "cannot be reached"),
        (FileNotFoundError("no data"), "cannot be loaded: no data"),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts are no longer supported"),
    ):

        def load_dataset(*_: object, raised: Exception = error, **__: object) -> None:
            raise raised

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        with pytest.raises(DataError, match=message):
            read("org/x", "test")


def test_importing_the_module_does_not_import_datasets() -> None:
    code = "import sys, hpo.data.splits; print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
