"""A model folder of ours, beside what transformers keeps in it: which configuration made the model."""

import json
from pathlib import Path

from hpo.errors import DataError
from hpo.output import write_atomically
from hpo.references import local_path
from hpo.spec import TrialConfig

# In a model folder: the configuration that gives this model again.
TRAINING = "training.json"
# And, where it was exported to be served, the folder of that.
ONNX = "onnx"


def tell_config(model: Path, config: TrialConfig, data_fingerprint: str) -> None:
    """Writes into a model folder which configuration made it, and from which data."""
    told = {"data_fingerprint": data_fingerprint, **config.model_dump(mode="json")}
    write_atomically(model / TRAINING, json.dumps(told, indent=1, ensure_ascii=False).encode())


def is_model_of(model: Path, config: TrialConfig) -> bool:
    """Whether a model folder says that this configuration made it."""
    try:
        return config_of(model) == config
    except DataError:
        return False


def teacher_folder(name: str) -> Path:
    """The folder that `teachers` names. Raises `DataError` if it is no model folder of ours."""
    path = local_path(name)
    if path is None or not (path / TRAINING).is_file():
        raise DataError(
            f"a teacher must be a model folder that a study or hpo.train left, with its {TRAINING}, but got `{name}`. "
            "Name such a folder: mlruns/STUDY/model."
        )
    return path


def config_of(model: Path) -> TrialConfig:
    """The configuration that a model folder says that it was made by. Raises `DataError` if it is none of ours."""
    return made_by(model)[0]


def made_by(model: Path) -> tuple[TrialConfig, str | None]:
    """The same, and the fingerprint of the data that it learned from; None in a folder of an earlier version."""
    path = model / TRAINING
    try:
        told = json.loads(path.read_bytes())
        fingerprint = told.pop("data_fingerprint", None)
        return TrialConfig.model_validate_json(json.dumps(told)), fingerprint
    except FileNotFoundError as error:
        there = sorted(str(each.parent) for each in model.parent.glob(f"*/{TRAINING}"))
        way_out = (
            f"There is {', '.join(there)}." if there else "`hpo.run` leaves one in mlruns/STUDY/model, `hpo.train` too."
        )
        raise DataError(f"a model must be a folder with `{TRAINING}` in it, but got {model}. {way_out}") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path} must hold the configuration that made the model, but it cannot be read. Use the folder as it was "
            "saved, or train it again: python -m hpo.train --config BEST.YAML."
        ) from error
