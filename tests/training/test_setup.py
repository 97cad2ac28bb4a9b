"""What stands ready before the first step."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hpo import space
from hpo.errors import DataError
from hpo.spec import DataSpec, StudySpec, TrialConfig
from hpo.training.finetune import finetune
from hpo.training.setup import set_up, trained_model
from hpo.training.step import Step
from hpo.training.vocabulary import SeenEmbedding

pytestmark = pytest.mark.usefixtures("no_gpu")

ROOT = Path(__file__).parent.parent.parent


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
    assert isinstance(setup.step, Step)  # a GPU's is graphed
    grouped = [parameter for group in setup.step.optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in trained}
    assert len(grouped) == len(trained)
    # int(0.06 * 30) = 1 step of warm-up, so the first is at 0, and the second at the peak.
    assert setup.learning_rates[:2] == [0.0, 1e-3]


def test_attention_drops_as_often_as_it_is_told(config: TrialConfig) -> None:
    """cuDNN's would round the probability to a sixteenth."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    set_up(config, None)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


def test_the_words_of_the_study_are_the_vocabulary(config: TrialConfig) -> None:
    setup = set_up(config, None)
    kept = setup.pretrained.model.get_input_embeddings()
    assert isinstance(kept, SeenEmbedding)
    words = set(setup.train.token_ids.tolist()) | set(setup.validation.token_ids.tolist())
    assert set(kept.seen.tolist()) == words | {0}  # and padding
    # Its parameters are counted with the words that no text contains.
    assert setup.pretrained.num_parameters == sum(each.numel() for each in trained_model(setup).parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adam"])
def test_leaving_words_out_changes_no_result(
    config: TrialConfig, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """Not even of the words left out, which weight decay shrinks: here `[UNK]`."""
    changed = with_training(config, optimizer=optimizer, weight_decay=0.1, learning_rate=0.05, num_train_epochs=1.0)
    small = set_up(changed, None)
    with monkeypatch.context() as patched:
        patched.setattr("hpo.training.setup.keep_seen", lambda model, token_ids: None)
        whole = set_up(changed, None)
    kept = small.pretrained.model.get_input_embeddings().get_parameter("weight")
    left_out = len(whole.pretrained.embeddings) - len(kept)
    assert (left_out > 0) == (optimizer != "adam")
    for setup in (small, whole):
        list(finetune(setup))
    for name, parameter in trained_model(whole).named_parameters():
        torch.testing.assert_close(trained_model(small).get_parameter(name), parameter, rtol=1e-5, atol=1e-7, msg=name)


def test_warm_and_cold_are_the_same(config: TrialConfig) -> None:
    """What the process keeps between trials: the texts, the tokenizer, the weights as they were read."""
    first, again = set_up(config, None), set_up(config, None)
    assert again.train is first.train
    assert again.pretrained.tokenizer is first.pretrained.tokenizer
    assert again.pretrained.model is not first.pretrained.model
    list(finetune(first))
    once_more = set_up(config, None)
    for name, parameter in again.pretrained.model.named_parameters():
        assert torch.equal(once_more.pretrained.model.get_parameter(name), parameter), name
    other = set_up(with_training(config, dropout=0.4), None).pretrained.model
    assert (other.config.hidden_dropout_prob, once_more.pretrained.model.config.hidden_dropout_prob) == (0.4, 0.1)


MEMORY = """
import gc, sys
from pathlib import Path
import psutil, torch
from hpo.spec import TrialConfig
from hpo.training.finetune import finetune
from hpo.training.setup import set_up

config = TrialConfig.model_validate_json(Path(sys.argv[1]).read_text())
for trial in range(1, 51):
    training = config.training.model_copy(update={"dropout": trial / 100, "learning_rate": trial * 1e-4})
    evaluations = finetune(set_up(config.model_copy(update={"training": training, "seed": trial}), None))
    for evaluation in evaluations:
        if trial % 3 == 0:
            break  # as a pruned one is left
    if trial in (5, 50):
        del evaluations
        gc.collect()
        tensors = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
        print(len(tensors), sum(each.nbytes for each in tensors), psutil.Process().memory_info().rss)
"""


@pytest.mark.timeout(120)
def test_fifty_trials_take_no_more_memory_than_five(config: TrialConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(with_training(config, num_train_epochs=0.5, num_evaluations=2).model_dump_json())
    command = [sys.executable, "-c", MEMORY, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    five, fifty = (tuple(map(int, line.split())) for line in answer.splitlines())
    assert five[:2] == fifty[:2]
    assert fifty[2] - five[2] < 4 * 2**20  # of half a gigabyte; the model and its optimizer are 0.4 MiB a trial


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
