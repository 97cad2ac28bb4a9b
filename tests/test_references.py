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
        "package://some_reviews/data\\..\\..\\other",
        "package://some_reviews/\\other",
        "package://some_reviews/data\n",
    ],
)
def test_a_package_reference_stays_inside_the_package(package: Path, text: str) -> None:
    with pytest.raises(DataError, match="inside an installed package"):
        local_path(text)


def test_a_package_is_located_but_not_imported(package: Path) -> None:
    assert local_path("package://some_reviews/data/reviews.csv") == package / "data" / "reviews.csv"
    assert local_path("package://some_reviews/data") == package / "data"
    assert "some_reviews" not in sys.modules


@pytest.mark.parametrize("inner", ["%2e%2e/other.csv", "data/%2e%2e/%2e%2e/other.csv", "..%2fother.csv"])
def test_percents_stand_for_nothing(package: Path, inner: str) -> None:
    (package.parent / "other.csv").touch()
    with pytest.raises(DataError, match="is installed, but holds no"):
        local_path(f"package://some_reviews/{inner}")


def test_a_link_out_of_the_package_is_not_followed(package: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").touch()
    (package / "link.csv").symlink_to(tmp_path / "secret.csv")
    (package / "folder").symlink_to(tmp_path)
    for inner in ("link.csv", "folder/secret.csv", "folder"):
        with pytest.raises(DataError, match=r"must stay inside the package, .*Name that file by its path"):
            local_path(f"package://some_reviews/{inner}")
    (package / "inside.csv").symlink_to(package / "data" / "reviews.csv")
    assert local_path("package://some_reviews/inside.csv") == package / "inside.csv"


def test_a_package_without_init_is_as_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python joins such folders of the same name; the file is found in any of them, and outside in none."""
    for place in ("one", "two"):
        (tmp_path / place / "open_reviews").mkdir(parents=True)
        monkeypatch.syspath_prepend(str(tmp_path / place))
    (tmp_path / "one" / "open_reviews" / "a.csv").touch()
    (tmp_path / "secret.csv").touch()
    (tmp_path / "two" / "open_reviews" / "b.csv").symlink_to(tmp_path / "secret.csv")
    assert local_path("package://open_reviews/a.csv") == tmp_path / "one" / "open_reviews" / "a.csv"
    with pytest.raises(DataError, match="must stay inside the package"):
        local_path("package://open_reviews/b.csv")


@pytest.mark.parametrize("text", ["a\0b", "./a\0b", "~\0/a", "package://some_reviews/a\0b", "\ud800", "~\ud800/a"])
def test_what_no_path_can_hold(package: Path, text: str) -> None:
    with pytest.raises(DataError, match="must be text that can be a path"):
        local_path(text)


@pytest.mark.parametrize("text", ["./" + "a" * 300, "a" * 300 + ".csv", "package://some_reviews/" + "a" * 300])
def test_a_name_longer_than_a_disk_takes(package: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"must exist|holds no"):
        local_path(text)
    with pytest.raises(DataError, match="must be a Hub id"):
        local_path("a" * 300)


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
