"""Where a study's files stand."""

from pathlib import Path

import pytest

from hpo.errors import StorageError
from hpo.output import output_option, study_folder


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
