"""Where a result is said to come from: the versions that were there, and a commit only if it is this code's."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from hpo import provenance

ASK = "from hpo.provenance import git_commit; print(git_commit())"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def asked(folder: Path) -> str:
    """What the copy of the code in `folder` says of itself."""
    command = [sys.executable, "-c", ASK]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Somebody's repository, with a file of their own in it."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("installed/\n")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def copy_code(folder: Path) -> None:
    (folder / "hpo").mkdir(parents=True)
    for name in ("__init__.py", "provenance.py"):
        shutil.copy(Path(provenance.__file__).with_name(name), folder / "hpo" / name)


def test_the_commit_is_that_of_the_code(checkout: Path) -> None:
    copy_code(checkout)
    git(checkout, "add", "hpo")
    git(checkout, "commit", "--quiet", "--message", "the code")
    commit = git(checkout, "rev-parse", "HEAD")
    assert asked(checkout) == commit
    (checkout / "untracked").touch()
    assert asked(checkout) == commit
    (checkout / "hpo" / "__init__.py").write_text("# changed\n")
    assert asked(checkout) == f"{commit}-dirty"


def test_of_code_installed_inside_another_checkout_there_is_none(checkout: Path) -> None:
    copy_code(checkout / "installed")
    assert asked(checkout / "installed") == "None"


def test_outside_a_checkout_there_is_none(tmp_path: Path) -> None:
    copy_code(tmp_path)
    assert asked(tmp_path) == "None"


def test_versions_are_those_installed() -> None:
    told = provenance.versions()
    assert {"python", "torch", "tokenizers", "numpy", "scikit-learn"} <= set(told)
    assert all(told[name] == metadata.version(name) for name in told if name != "python")
