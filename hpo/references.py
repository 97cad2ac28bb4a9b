"""One grammar for where data and models come from: a Hub id, a path, or a file inside an installed package.

Nothing is downloaded here and no package is imported: a package is only located on disk.
"""

import difflib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from hpo.errors import DataError

DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
CONLL_SUFFIXES = (".conll", ".iob", ".iob2", ".bio")
"""Of files with a word a line and its tag last."""
PACKAGE = "package://"
COMMIT = "commit:"  # how the fingerprint of a model of the Hub begins
# The Hub's own rule: letters, digits, `-`, `_`, `.`; no `--` or `..`; neither `-` nor `.` at an end.
_HUB_NAME = r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"{_HUB_NAME}(?:/{_HUB_NAME})?")
# Neither a dotted name, whose parent would be imported, nor a backslash, which is a `/` on Windows.
_PACKAGE_PATH = re.compile(r"([A-Za-z_]\w*)/([^/\\\n][^\\\n]*)", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """What a user wrote, what kind of place it names, and that place without the `package://` before it."""

    kind: Literal["hub", "file", "package"]
    text: str
    location: str


def parse_reference(text: str) -> Reference:
    """Tell a Hub id, a path and a `package://` reference apart; whether it exists is not looked at.

    Raises:
        DataError: it is none of them.
    """
    if not _is_encodable(text):
        raise DataError(f"a reference must be text that can be a path, but got {text!r}. Write it anew.")
    if text.startswith(PACKAGE):
        location = text.removeprefix(PACKAGE)
        match = _PACKAGE_PATH.fullmatch(location)
        if match is None or ".." in PurePosixPath(match[2]).parts:
            raise DataError(
                f"a package reference must name something inside an installed package, but got `{text}`. "
                f"Write {PACKAGE}NAME/inner/path, without `..`."
            )
        return Reference("package", text, location)
    if (
        text.startswith((".", "/", "~"))
        or text.lower().endswith((*DATA_SUFFIXES, *CONLL_SUFFIXES))
        or os.path.exists(text)
    ):
        return Reference("file", text, text)
    if _HUB_ID.fullmatch(text) is None:
        raise DataError(
            f"a reference must be a Hub id, a path or {PACKAGE}NAME/inner/path, but got `{text}`. "
            "Write a Hub id as `org/name`, and a path with `./` before it."
        )
    return Reference("hub", text, text)


def local_path(text: str) -> Path | None:
    """Return the existing file or folder that `text` refers to, or None where it is a Hub id.

    Raises:
        DataError: it is no reference, there is no such thing, or a link leads out of the package.
    """
    reference = parse_reference(text)
    if reference.kind == "hub":
        return None
    if reference.kind == "file":
        path = Path(os.path.expanduser(reference.location))  # Path's own raises for a user that is not there
        if not os.path.exists(path):  # Path's own raises for a name that is too long, or a folder that is locked
            raise DataError(f"the file or folder must exist, but got `{text}`.{_way_out(path)}")
        return path
    name, inner = reference.location.split("/", 1)
    folders = _package_folders(name, text)
    for folder in folders:
        path = folder / inner
        if os.path.exists(path):
            if not path.resolve().is_relative_to(folder.resolve()):
                raise DataError(
                    f"a package reference must stay inside the package, but got `{text}`, a link to {path.resolve()}. "
                    "Name that file by its path."
                )
            return path
    raise DataError(
        f"the package `{name}` is installed, but holds no `{inner}`, and got `{text}`.{_way_out(folders[0] / inner)}"
    )


def _package_folders(name: str, text: str) -> list[Path]:
    try:
        # Of a top-level name this reads folders only; of a dotted one it would import the parent.
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module in memory without a spec, such as `__main__`
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the package `{name}` must be installed, but got `{text}`. "
            f"Install it (pip install {name.replace('_', '-')}), or name another source."
        )
    return [Path(location) for location in spec.submodule_search_locations]


def _is_encodable(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _way_out(path: Path) -> str:
    """Name what stands where the path goes wrong: the close matches, or the first few."""
    while not os.path.exists(path.parent):
        path = path.parent
    try:
        there = sorted(name for name in os.listdir(path.parent) if not name.startswith((".", "__")))
    except NotADirectoryError:
        return f" `{path.parent}` is a file."
    except OSError as error:
        return f" `{path.parent}` cannot be read: {error.strerror}."
    if close := difflib.get_close_matches(path.name, there):
        return f" Did you mean {' or '.join(f'`{path.parent / name}`' for name in close)}?"
    listed = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
    return f" `{path.parent}` holds {listed or 'nothing'}."
