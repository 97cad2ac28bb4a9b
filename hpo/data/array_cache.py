"""Arrays that take long to make, kept on disk as safetensors under a name that says what they are made of.

A file that cannot be read is built again, and one that cannot be written is done without.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

logger = logging.getLogger(__name__)


def cache_path(cache_dir: Path, key: object) -> Path:
    """Where arrays of this key lie, which is plain data: all that they follow from."""
    return cache_dir / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.safetensors"


def read_arrays(path: Path, what: str, needed: Collection[str]) -> dict[str, NDArray[Any]] | None:
    """The arrays of a file; None where there is none that is whole.

    Args:
        what: is cached, in words.
        needed: the names of arrays that must be there.
    """
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError) as error:
        logger.warning("%s cache: %s is damaged (%s) and is built again", what, path, error)
        return None
    if not arrays.keys() >= set(needed):
        logger.warning("%s cache: %s does not hold what its name says and is built again", what, path)
        return None
    return arrays


def write_arrays(path: Path, what: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes beside the place and moves there, so that no other process ever reads half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            save_file(dict(arrays), Path(folder) / path.name)
            os.replace(Path(folder) / path.name, path)
    except (SafetensorError, OSError) as error:
        logger.warning("%s cache: %s cannot be written (%s); going on without", what, path, error)
