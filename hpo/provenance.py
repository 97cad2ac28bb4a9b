"""Where a result came from: versions, the commit of the code, the machine."""

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

# Those that can change a result, by their names as distributions.
PACKAGES = (
    *("torch", "transformers", "tokenizers", "optuna", "mlflow", "datasets"),
    *("numpy", "pandas", "scipy", "scikit-learn"),
)


@functools.cache
def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a result."""
    return {"python": platform.python_version(), **{package: metadata.version(package) for package in PACKAGES}}


@functools.cache
def git_commit() -> str | None:
    """The commit of this code, `-dirty` if tracked files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # or this is installed inside somebody else's checkout
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None
