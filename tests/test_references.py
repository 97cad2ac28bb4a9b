"""The one grammar for data and models."""

import subprocess
import sys
from pathlib import Path

import pytest

from hpo.errors import DataError
from hpo.references import local_path, parse_reference


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that breaks when it is imported."""
    folder = tmp_path / "site" / "some_reviews"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "data" / "reviews.csv").write_text("text,label\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("stanfordnlp/sst2", "hub"),
        ("sst2", "hub"),
        ("FacebookAI/roberta-base_v1.5", "hub"),
        ("./model", "file"),
        ("/data/model", "file"),
        ("~/model", "file"),
        ("reviews.csv", "file"),
        ("data/reviews.PARQUET", "file"),
        ("package://some_reviews/data/reviews.csv", "package"),
    ],
)
def test_kinds(text: str, kind: str) -> None:
    assert parse_reference(text).kind == kind


def test_what_exists_on_disk_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_reference("org/model").kind == "hub"
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert parse_reference("org/model").kind == "file"
    assert local_path("org/model") == Path("org/model")


@pytest.mark.parametrize(
    "text",
    ["a/b/c", "https://x.org/a", "my model", "org/", "a..b", "a--b", "-a", "a.", "org/model@main", "é/sst2"],
)
def test_neither_id_nor_path(text: str) -> None:
    with pytest.raises(DataError, match="must be a Hub id, a path or package://"):
        parse_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "package://",
        "package://some_reviews",
        "package://some_reviews/",
        "package://some_reviews//etc/passwd",
        "package://some_reviews/../other",
        "package://some_reviews/data/../../other",
        "package://some.reviews/data",
        "package://../x",
    ],
)
def test_a_package_reference_stays_inside_the_package(package: Path, text: str) -> None:
    with pytest.raises(DataError, match="inside an installed package"):
        local_path(text)


def test_a_package_is_located_but_not_imported(package: Path) -> None:
    assert local_path("package://some_reviews/data/reviews.csv") == package / "data" / "reviews.csv"
    assert local_path("package://some_reviews/data") == package / "data"
    assert "some_reviews" not in sys.modules


def test_a_hub_id_has_no_local_path() -> None:
    assert local_path("stanfordnlp/sst2") is None


@pytest.mark.parametrize("name", ["not_installed_here", "sys", "__main__"])
def test_a_missing_package_says_how_to_get_it(name: str) -> None:
    with pytest.raises(DataError, match=f"pip install {name.replace('_', '-')}"):
        local_path(f"package://{name}/data.csv")


@pytest.mark.parametrize(
    ("inner", "hint"),
    [("data/review.csv", "Did you mean .*reviews.csv"), ("dat/reviews.csv", "Did you mean .*data`")],
)
def test_a_missing_inner_file_names_the_close_one(package: Path, inner: str, hint: str) -> None:
    with pytest.raises(DataError, match=hint):
        local_path(f"package://some_reviews/{inner}")


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    with pytest.raises(DataError, match=r"must exist, but got .*Did you mean .*train\.csv"):
        local_path(str(tmp_path / "trian.csv"))
    with pytest.raises(DataError, match=r"holds train\.csv"):
        local_path(str(tmp_path / "xyz.parquet"))
    with pytest.raises(DataError, match="is a file"):
        local_path(str(tmp_path / "train.csv" / "x.csv"))


def test_a_home_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "train.csv").touch()
    assert local_path("~/train.csv") == tmp_path / "train.csv"


def test_a_home_of_nobody_is_a_path_that_is_not_there() -> None:
    with pytest.raises(DataError, match=r"must exist, but got `~no-such-user/train\.csv`"):
        local_path("~no-such-user/train.csv")


def test_references_import_no_heavy_library() -> None:
    code = "import sys, hpo.references; print({'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
