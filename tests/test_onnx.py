"""`python -m hpo.onnx`: files and comparison beside the model, the same with the study, and mistakes told."""

import shutil
import sys
from pathlib import Path

import pytest

from hpo.model_folder import ONNX, config_of
from hpo.onnx import COMPARISON, main
from hpo.predict import main as predict
from hpo.results import Serving
from hpo.run import main as run
from hpo.storage import open_storage
from hpo.study import load_study, stored_serving
from hpo.train import main as train
from hpo.training.serving import MODEL, QUANTIZED

pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.fixture
def model(study_path: Path, output: Path) -> Path:
    """Of the best trial of a study without finalists."""
    arguments = ["--study", str(study_path), "--output", str(output), "--trials", "1", "--set", "finalists=null"]
    assert run(arguments) == 0
    assert train(["--config", str(output / "tiny" / "best.yaml")]) == 0
    return output / "tiny" / "model"


def test_a_study_s_model_is_measured_shown_and_kept(
    model: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    assert main(["--model", str(model), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines() if str(output) not in line)
    for words in ("PyTorch", "ONNX int8", "Same predictions", "One text (ms)", "File (MiB)", "weights have 7 bits"):
        assert words in " ".join(said.split())
    assert {path.name for path in (model / ONNX).iterdir()} == {MODEL, QUANTIZED, COMPARISON}
    assert not list(model.glob(".onnx-*"))
    kept = Serving.model_validate_json((model / ONNX / COMPARISON).read_bytes())
    assert kept.trial == 0 and [each.name for each in kept.models] == ["PyTorch", "ONNX", "ONNX int8"]
    assert stored_serving(load_study(open_storage(output), "tiny").user_attrs) == kept
    for name, heading in (("report.html", 'id="serving"'), ("report.md", "## Serving")):
        page = (output / "tiny" / name).read_text(encoding="utf-8")
        assert heading in page and "as float32 ONNX it takes" in page

    elsewhere = tmp_path / "elsewhere"  # the study does not know this one
    shutil.copytree(model, elsewhere, ignore=shutil.ignore_patterns(ONNX))
    assert main(["--model", str(elsewhere), "--output", str(output), "--full-range"]) == 0
    assert "weights have 8 bits" in " ".join(capsys.readouterr().out.split())
    assert Serving.model_validate_json((elsewhere / ONNX / COMPARISON).read_bytes()).trial is None
    assert stored_serving(load_study(open_storage(output), "tiny").user_attrs) == kept

    assert train(["--config", str(output / "tiny" / "best.yaml")]) == 0
    assert not (model / ONNX).exists()  # another model may be here now


def test_the_weights_that_a_search_keeps_are_a_model_folder_too(
    model: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`hpo.run` names them where there were no finalists."""
    weights = output / "tiny" / "weights" / "trial-0000"
    assert config_of(weights) == config_of(model)
    texts = tmp_path / "texts.csv"
    texts.write_text("text\na fine film\n", encoding="utf-8")
    assert predict(["--model", str(weights), str(texts)]) == 0
    assert main(["--model", str(weights), "--output", str(output)]) == 0
    assert "Same predictions" in " ".join(capsys.readouterr().out.split())


def test_where_it_was_not_measured_the_report_has_no_such_section(model: Path, output: Path) -> None:
    assert 'id="serving"' not in (output / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "## Serving" not in (output / "tiny" / "report.md").read_text(encoding="utf-8")


def test_without_the_extra_it_says_how_to_install_it(
    model: Path, output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["--model", str(model), "--output", str(output)]) == 2
    assert "Run `pip install 'hpo[onnx]'`" in capsys.readouterr().err


def test_a_folder_that_is_none_of_ours_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(tmp_path)]) == 2
    assert "with `training.json` in it, but got" in capsys.readouterr().err
