"""A model folder is read whole, or it is told what is wrong with it; what it says is held in tests/test_predict.py."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from hpo.errors import DataError
from hpo.model_folder import tell_config
from hpo.space import default_params, trial_config
from hpo.spec import StudySpec
from hpo.training.setup import save_model, set_up
from hpo.training.trained import read_trained

pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.fixture
def folder(spec: StudySpec, tmp_path: Path) -> Path:
    config = trial_config(spec, default_params(spec), seed=0)
    setup = set_up(config, None)
    save_model(setup, tmp_path / "model")
    tell_config(tmp_path / "model", config, setup.splits.fingerprint)
    return tmp_path / "model"


def test_what_is_read_is_what_was_saved(folder: Path, spec: StudySpec) -> None:
    trained = read_trained(folder)
    assert trained.config == trial_config(spec, default_params(spec), seed=0)
    assert trained.classes == ("negative", "positive") and trained.form == "text"
    config = trained.config.model_copy(update={"model": trained.config.model.model_copy(update={"name": str(folder)})})
    again = set_up(config, None).pretrained
    assert trained.num_parameters == again.num_parameters
    trial = again.model.get_parameter("classifier.weight")
    assert torch.equal(trained.model.get_parameter("classifier.weight"), trial)


def test_one_without_its_head(folder: Path, model_folder: Path) -> None:
    shutil.copy(model_folder / "model.safetensors", folder)
    with pytest.raises(DataError, match="must hold a whole trained model, but got no classifier"):
        read_trained(folder)


@pytest.mark.parametrize("labels", [None, {"1": "negative"}, ["negative"]])
def test_one_that_does_not_name_its_labels(labels: object, folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"id2label": labels}), encoding="utf-8")
    with pytest.raises(DataError, match="a model must name its labels"):
        read_trained(folder)
