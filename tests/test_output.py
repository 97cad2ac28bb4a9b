"""Where a study's files stand."""

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hpo.errors import StorageError
from hpo.output import disk_error, output_option, replacing, study_folder


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "/x", "a/b", "a/..", "cache", "mlflow.db", "Artifacts"])
def test_a_study_stands_in_a_folder_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="must be that of a folder of its own"):
        study_folder(tmp_path, name)


def test_its_folder(tmp_path: Path) -> None:
    assert study_folder(tmp_path, "a.b-until-20260101-000000") == tmp_path / "a.b-until-20260101-000000"


def test_the_option_that_names_the_folder() -> None:
    assert output_option(Path("mlruns")) == ""
    assert output_option(Path("a b")) == " --output 'a b'"
    assert output_option(Path("a\x1b")) == " --output $'a\\033'"


def test_two_may_write_the_same_file_at_once(tmp_path: Path) -> None:
    """Machines that share a folder, on which the processes may have the same numbers."""
    with replacing(tmp_path / "x") as one, replacing(tmp_path / "x") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "x").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_is_known_by_the_words_of_safetensors(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(Exception) as raised:
            save_file({"weights": torch.zeros(10_000)}, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not isinstance(raised.value, OSError)
    assert "File too large" in str(disk_error(raised.value))
    assert disk_error(ValueError("no such thing (os error 2)")) is None
