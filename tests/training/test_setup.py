"""What stands ready before the first step."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hpo import space
from hpo.errors import DataError
from hpo.spec import DataSpec, StudySpec, TrialConfig
from hpo.training.setup import set_up


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def config(spec: StudySpec) -> TrialConfig:
    return space.trial_config(spec, {}, seed=7)


def with_training(config: TrialConfig, **changed: Any) -> TrialConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=changed)})


def test_set_up(config: TrialConfig) -> None:
    setup = set_up(config, None)
    # 400 rows, 60 held out as test and 100 as validation.
    assert (len(setup.train), len(setup.validation), len(setup.splits.test)) == (240, 100, 60)
    assert setup.pretrained.model.config.id2label == {0: "negative", 1: "positive"}
    assert setup.pretrained.model.config.hidden_dropout_prob == 0.1
    assert setup.device.precision == "fp32"
    trained = [parameter for parameter in setup.pretrained.model.parameters() if parameter.requires_grad]
    grouped = [parameter for group in setup.optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in trained}
    assert len(grouped) == len(trained)
    # int(0.06 * 30) = 1 step of warm-up, so the first is at 0.
    assert setup.schedule.get_last_lr() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("epochs", "batch_size", "expected"),
    [
        (2.0, 16, 30),  # 240 / 16 = 15 an epoch
        (1.0, 100, 3),  # the last batch of an epoch is what remains
        (0.5, 16, 8),  # 7.5
        (1.2, 16, 18),
        (0.001, 16, 1),  # never none
        (1.0, 1000, 1),
    ],
)
def test_num_training_steps(config: TrialConfig, epochs: float, batch_size: int, expected: int) -> None:
    changed = with_training(config, num_train_epochs=epochs, train_batch_size=batch_size)
    assert set_up(changed, None).num_training_steps == expected


def test_the_seed_draws_the_head_and_leaves_the_splits(config: TrialConfig) -> None:
    setups = [set_up(config.model_copy(update={"seed": seed}), None) for seed in (1, 2, 1)]
    heads = [setup.pretrained.model.get_parameter("classifier.weight") for setup in setups]
    assert torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[1])
    assert setups[0].splits.fingerprint == setups[1].splits.fingerprint


def test_the_data_seed_draws_the_splits_and_leaves_the_head(config: TrialConfig) -> None:
    setups = [set_up(config.model_copy(update={"data_seed": seed}), None) for seed in (1, 2)]
    heads = [setup.pretrained.model.get_parameter("classifier.weight") for setup in setups]
    assert torch.equal(heads[0], heads[1])
    assert setups[0].splits.fingerprint != setups[1].splits.fingerprint


def test_texts_are_cut_to_max_length(config: TrialConfig, tmp_path: Path) -> None:
    # The sentences have 4 to 13 words, and each two special tokens beside them.
    whole, cut = (set_up(with_training(config, max_length=length), tmp_path) for length in (32, 8))
    assert (whole.train.n_truncated, int(whole.train.lengths.max())) == (0, 15)
    assert cut.train.n_truncated == int((whole.train.lengths > 8).sum()) > 0
    assert int(cut.train.lengths.max()) == 8
    assert len(list(tmp_path.glob("*.safetensors"))) == 4  # two splits of two lengths


THREE = [f"{word} {number},{word}" for number in range(20) for word in ("good", "bad", "dull")]


@pytest.mark.parametrize("metric", ["eval/f1", "eval/precision", "eval/recall"])
def test_metrics_of_the_positive_class_need_two(config: TrialConfig, tmp_path: Path, metric: str) -> None:
    path = tmp_path / "three.csv"
    path.write_text("text,label\n" + "\n".join(THREE))
    three = config.model_copy(update={"data": DataSpec.model_validate({"train": str(path)}), "metric": metric})
    with pytest.raises(DataError, match=rf"but got 3 classes\. Use {metric}_macro\."):
        set_up(three, None)
    macro = set_up(three.model_copy(update={"metric": f"{metric}_macro"}), None)
    assert macro.pretrained.model.config.num_labels == 3
    assert set_up(config.model_copy(update={"metric": metric}), None).config.metric == metric


@pytest.mark.parametrize(("features", "has_bf16"), [({}, False), ({"avx512_bf16": True}, True)])
def test_precision_is_checked_against_the_device(
    config: TrialConfig, monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], has_bf16: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    asked = with_training(config, precision="bf16")
    if has_bf16:
        assert set_up(asked, None).device.precision == "bf16"
    else:
        with pytest.raises(DataError, match="Use precision: auto or fp32"):
            set_up(asked, None)


def test_a_tokenizer_of_another_model(config: TrialConfig, model_folder: Path, tmp_path: Path) -> None:
    """Of more words than the model has embeddings: an IndexError in mid-training, if nobody looks."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    words = tokenizer["model"]["vocab"]
    words["film"], size = len(words), len(words)
    path.write_text(json.dumps(tokenizer))
    other = config.model_copy(update={"model": config.model.model_copy(update={"name": str(folder)})})
    with pytest.raises(DataError, match=rf"got token {size} for the {size} embeddings.*Use the tokenizer"):
        set_up(other, None)
