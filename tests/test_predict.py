"""A file is labelled as the model was measured: every task, every format, and what cannot be labelled."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hpo.data.splits import load_splits
from hpo.labelling import ANSWERS, label
from hpo.model_folder import tell_config
from hpo.predict import main
from hpo.space import default_params, trial_config
from hpo.study_file import parse_study
from hpo.tasks import TASKS
from hpo.training.finetune import finetune, predict
from hpo.training.setup import save_model, set_up
from hpo.training.trained import read_trained
from task_data import KINDS, rows, task_study


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders of every kind of data, and the file that each was trained on."""
    folder = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        spec = parse_study(task_study(kind, model_folder, folder), "tiny.yaml")
        config = trial_config(spec, default_params(spec), seed=0)
        setup = set_up(config, None)
        list(finetune(setup))
        np.save(folder / f"{kind}.npy", predict(setup, setup.validation))
        save_model(setup, folder / kind)
        tell_config(folder / kind, config, setup.splits.fingerprint)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_outputs_are_those_of_the_evaluation(kind: str, folder: Path) -> None:
    trained = read_trained(folder / kind)
    config = trained.config
    split = load_splits(config.task, config.data, config.data_seed).validation
    outputs = trained.outputs(trained.on_device(trained.tokens(split)))
    assert np.allclose(outputs, np.load(folder / f"{kind}.npy"), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gets_its_predictions_row_by_row(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = rows(kind, 30, seed=5)
    labels = {"label", "labels", "stars", "tags"}
    path = tmp_path / "new.jsonl"
    unlabelled = [{name: value for name, value in row.items() if name not in labels} for row in new]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in unlabelled), encoding="utf-8")
    assert main(["--model", str(folder / kind), str(path)]) == 0
    assert "rows    30 of" in capsys.readouterr().out
    labelled = [json.loads(line) for line in (tmp_path / "new.labelled.jsonl").read_text("utf-8").splitlines()]
    assert [{name: row[name] for name in unlabelled[0]} for row in labelled] == unlabelled
    inputs = [tuple(row.values()) if kind == "pairs" else next(iter(row.values())) for row in unlabelled]
    trained = read_trained(folder / kind)
    expected, _ = label(trained, [tuple(each) if isinstance(each, list) else each for each in inputs])
    for name, values in expected.items():
        found = [row[name] for row in labelled]
        assert found == values if not isinstance(values[0], float) else found == pytest.approx(values, abs=1e-6)
    if kind == "tags":
        assert [len(row["prediction"]) for row in labelled] == [len(row["words"]) for row in unlabelled]
    if kind == "classes":
        assert {row["prediction"] for row in labelled} <= {"praise", "blame", "mixed"}
        assert all(1 / 3 <= row["probability"] <= 1 for row in labelled)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_it_stays_in_its_format_with_its_columns(suffix: str, folder: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["7", "8"], "comment": ["a good film", "a bad plot"], "prediction": ["x", "y"]})
    path = tmp_path / f"new.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if suffix == "csv" else "\t")
    target = tmp_path / f"out.{suffix}"
    arguments = ["--model", str(folder / "classes"), str(path), "--text", "comment", "--output", str(target)]
    assert main(arguments) == 0
    read = pd.read_parquet(target) if suffix == "parquet" else pd.read_csv(target, sep="," if suffix == "csv" else "\t")
    assert list(read.columns) == ["id", "comment", "prediction", "prediction_", "probability"]
    assert read["prediction"].tolist() == ["x", "y"] and set(read["prediction_"]) <= {"praise", "blame", "mixed"}


def test_cells_of_json_lines_stay_as_they_are(folder: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a good film", "id": 1234567890123456789, "score": 0.12345678901234567, "more": {"a": [1, None]}},
        {"text": "a bad plot", "id": 7, "flag": True},
        {"text": "a film", "score": 1.0},
    ]
    path = tmp_path / "new.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert main(["--model", str(folder / "classes"), str(path)]) == 0
    written = [json.loads(line) for line in (tmp_path / "new.labelled.jsonl").read_text("utf-8").splitlines()]
    found = [{name: row[name] for name in row if name not in ("prediction", "probability")} for row in written]
    assert found == rows and [type(row.get("id")) for row in found] == [int, int, type(None)]


def test_quotes_of_a_tab_separated_file_are_letters(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.tsv"
    path.write_text('text\nfilm "great" movie\n"unbalanced\n', encoding="utf-8")
    assert main(["--model", str(folder / "classes"), str(path)]) == 0
    lines = (tmp_path / "new.labelled.tsv").read_text("utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines] == ["text", 'film "great" movie', '"unbalanced']


def test_no_two_columns_have_one_name(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("text,prediction,prediction_\na film,x,y\n", encoding="utf-8")
    assert main(["--model", str(folder / "classes"), str(path)]) == 0
    header = (tmp_path / "new.labelled.csv").read_text("utf-8").splitlines()[0]
    assert header == "text,prediction,prediction_,prediction__,probability"


def test_what_is_too_long_to_be_read_whole_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.csv"
    path.write_text(f"text\na good film\n{'very ' * 300}good\n", encoding="utf-8")
    assert main(["--model", str(folder / "classes"), str(path)]) == 0
    limit = read_trained(folder / "classes").config.training.max_length
    told = " ".join(capsys.readouterr().out.split())
    assert f"1 rows are longer than the {limit} tokens that the model reads of each" in told


class TestMistakes:
    def told(self, capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        return capsys.readouterr().err

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "new.csv"
        path.write_text("text\na good film\n", encoding="utf-8")
        return path

    def test_no_model(self, folder: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = self.told(capsys, "--model", folder / "none", file)
        assert "a model must be a folder with `training.json` in it" in said and str(folder / "classes") in said

    def test_a_damaged_model(
        self, folder: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        damaged = shutil.copytree(folder / "classes", tmp_path / "damaged")
        (damaged / "model.safetensors").write_bytes(b"no weights")
        assert "must have weights that can be read into it" in self.told(capsys, "--model", damaged, file)

    def test_no_file(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "a data file must exist" in self.told(capsys, "--model", folder / "classes", tmp_path / "none.csv")

    @pytest.mark.parametrize(("name", "content"), [("none.csv", "text\n"), ("none.conll", "\n")])
    def test_no_rows(
        self, name: str, content: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / name).write_text(content, encoding="utf-8")
        model = folder / ("tags" if name.endswith("conll") else "classes")
        assert "a data file must have rows, but got none in" in self.told(capsys, "--model", model, tmp_path / name)

    def test_a_folder(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "a data file must exist, but got ." in self.told(capsys, "--model", folder / "classes", ".")

    @pytest.mark.parametrize("name", ["out.json", "out.xlsx", "out"])
    def test_a_format_that_is_not_written(
        self, name: str, folder: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = self.told(capsys, "--model", folder / "classes", file, "--output", tmp_path / name)
        assert "--output must end in one of .csv, .tsv, .parquet, .jsonl" in said

    def test_a_line_break_in_a_tab_separated_file(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "new.jsonl"
        path.write_text('{"text": "two\\nlines"}\n', encoding="utf-8")
        said = self.told(capsys, "--model", folder / "classes", path, "--output", tmp_path / "out.tsv")
        assert "a .tsv holds no tabs or line breaks" in said and not (tmp_path / "out.tsv").exists()

    def test_a_column_that_is_not_there(self, folder: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = self.told(capsys, "--model", folder / "classes", file, "--text", "texd")
        assert "the column `texd` (--text) must exist" in said and "Did you mean `text`?" in said

    def test_a_pair_model_with_one_column(self, folder: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = self.told(capsys, "--model", folder / "pairs", file, "--text", "text")
        assert "the model reads two columns, but got --text text" in said

    def test_words_that_are_a_text(self, folder: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = self.told(capsys, "--model", folder / "tags", file, "--text", "text")
        assert "every row must have a list of words" in said

    def test_nothing_is_written_over(self, folder: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--model", str(folder / "classes"), str(file)]) == 0
        assert "a file is not written over" in self.told(capsys, "--model", folder / "classes", file)


def test_every_task_has_its_answers() -> None:
    assert {task.serves for task in TASKS.values()} == set(ANSWERS)
