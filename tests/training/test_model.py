"""Loading a model: where its dropout is, what is refused, what its head and its fingerprint are."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    OPTConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    ViTConfig,
    ViTModel,
)

from hpo.data.inputs import encode
from hpo.errors import DataError
from hpo.spec import ModelSpec
from hpo.tasks.base import Task
from hpo.tasks.sequence_classification import SEQUENCE_CLASSIFICATION
from hpo.tasks.token_classification import TOKEN_CLASSIFICATION
from hpo.training import attention as attention_module
from hpo.training import dropout as dropout_module
from hpo.training.model import (
    DROPOUT_FIELDS,
    Pretrained,
    folder_fingerprint,
    load_pretrained,
    read_checkpoint,
    set_dropout,
)
from models import N_LAYERS, SIZES, tiny_config, tiny_model

LABELS = ("negative", "positive")


def active_dropouts(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every probability with which something is dropped in one forward pass, 0 where nothing is."""
    seen: list[float] = []
    dropout, attention = functional.dropout, functional.scaled_dot_product_attention
    scaled_mask = dropout_module.scaled_mask

    def record_dropout(
        input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        seen.append(p if training else 0.0)
        return dropout(input, p, training, inplace)

    def record_attention(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(kwargs["dropout_p"])
        return attention(*args, **kwargs)

    def record_mask(input: torch.Tensor, p: float) -> torch.Tensor:
        seen.append(p)
        return scaled_mask(input, p)

    input_ids = torch.arange(4, 11).reshape(1, 7)  # a decoder without a padding token takes one text
    with monkeypatch.context() as patched:
        patched.setattr(functional, "dropout", record_dropout)
        patched.setattr(dropout_module, "scaled_mask", record_mask)
        patched.setattr(attention_module, "scaled_mask", record_mask)
        patched.setattr(functional, "scaled_dot_product_attention", record_attention)
        model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
    return seen


# A layer drops: the attention's probabilities, the attention's output, the feed-forward's output.
PLACES = {
    "bert": 1 + 3 * N_LAYERS + 1,  # embeddings, layers, before the classifier
    "roberta": 1 + 3 * N_LAYERS + 2,  # its head drops before and after its hidden layer
    "electra": 1 + 3 * N_LAYERS + 2,  # likewise
    "distilbert": 1 + 2 * N_LAYERS + 1,  # does not drop the attention's output
    "modernbert": 1 + 3 * N_LAYERS + 1,
    "xlm-roberta": 1 + 3 * N_LAYERS + 2,
    "camembert": 1 + 3 * N_LAYERS + 2,
    "mpnet": 1 + 3 * N_LAYERS + 2,
    "albert": 1 + 2 * N_LAYERS + 1,  # does not drop the feed-forward's output
    "deberta-v2": 1 + 4 * N_LAYERS + 2,  # also a layer's relative positions, and before the pooler
    "gpt2": 1 + 3 * N_LAYERS,  # nothing before the head
    # The attention's probabilities, and nothing else.
    "llama": N_LAYERS,
    "mistral": N_LAYERS,
    "qwen2": N_LAYERS,
    "qwen3": N_LAYERS,
}
# What they drop without being asked to. ModernBERT nowhere: and at 0 it leaves out the attention output's dropout.
DEFAULTS = {
    "bert": [0.1] * 8,
    "roberta": [0.1] * 9,
    "electra": [0.1] * 9,
    "distilbert": [0.1] * 5 + [0.2],
    "modernbert": [0.0] * (1 + 2 * N_LAYERS + 1),
    "xlm-roberta": [0.1] * 9,
    "camembert": [0.1] * 9,
    "mpnet": [0.1] * 9,
    "albert": [0.0] * 5 + [0.1],
    "deberta-v2": [0.0] + [0.1] * 10,
    "gpt2": [0.1] * 7,
    "llama": [0.0] * 2,
    "mistral": [0.0] * 2,
    "qwen2": [0.0] * 2,
    "qwen3": [0.0] * 2,
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", PLACES)
def test_dropout_is_set_at_every_place(model_type: str, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(model_type)
    set_dropout(config, 0.25)
    model = tiny_model(config, attention)
    assert active_dropouts(model.train(), monkeypatch) == [0.25] * PLACES[model_type]
    assert not any(active_dropouts(model.eval(), monkeypatch))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", PLACES)
def test_dropout_that_is_not_set_is_the_models_own(
    model_type: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tiny_config(model_type), attention)
    assert sorted(active_dropouts(model.train(), monkeypatch)) == DEFAULTS[model_type]


@pytest.mark.parametrize("model_type", PLACES)
def test_dropout_of_zero_drops_nothing(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(model_type)
    set_dropout(config, 0.0)
    assert not any(active_dropouts(tiny_model(config).train(), monkeypatch))


def test_every_known_architecture_is_tested() -> None:
    assert set(PLACES) == set(DEFAULTS) == set(DROPOUT_FIELDS)


def test_dropout_of_an_unknown_architecture() -> None:
    known = r"dropout can be set for albert, bert, .*, xlm-roberta, but got a `opt` model\. Remove"
    with pytest.raises(DataError, match=known):
        set_dropout(OPTConfig(), 0.1)


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Save:
    """Saves a model and the tokenizer in a folder of their own."""

    def save_model(model: PreTrainedModel, with_tokenizer: bool = True) -> Path:
        folder = tmp_path / "saved"
        model.save_pretrained(folder)
        if with_tokenizer:
            tokenizer.save_pretrained(folder)
        return folder

    return save_model


@pytest.fixture
def copy(tmp_path: Path, model_folder: Path) -> Path:
    """The shared model's folder, free to be broken."""
    return shutil.copytree(model_folder, tmp_path / "copy")


def load(
    name: Path | str,
    labels: tuple[str, ...] = LABELS,
    dropout: float | None = None,
    max_length: int = 16,
    device: str = "cpu",
    seed: int = 0,
    task: Task = SEQUENCE_CLASSIFICATION,
) -> Pretrained:
    return load_pretrained(
        ModelSpec(name=str(name)),
        task,
        labels,
        dropout=dropout,
        max_length=max_length,
        device=device,
        seed=seed,
    )


def test_loading(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained = load(model_folder, dropout=0.3)
    model = pretrained.model
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.label2id == {"negative": 0, "positive": 1}
    assert model.config.num_labels == 2
    # The encoder was saved, the head is new: a weight for each of 32 x 2, and two biases.
    assert pretrained.new_weights == ("classifier.bias", "classifier.weight")
    assert model.get_parameter("classifier.weight").shape == (2, 32)
    assert active_dropouts(model.train(), monkeypatch) == [0.3] * PLACES["bert"]
    # Embeddings: (32 words + 64 positions + 2 types) * 32 + 2 * 32 = 3,200. A layer: 4 * (32*32 + 32) + 2*32 = 4,288
    # for attention, 32*64 + 64 + 64*32 + 32 + 2*32 = 4,256 for the feed-forward. Pooler: 32*32 + 32 = 1,056. Head: 66.
    assert pretrained.num_parameters == 3_200 + 2 * (4_288 + 4_256) + 1_056 + 66


def test_the_new_head_follows_the_seed(model_folder: Path) -> None:
    heads = []
    for seed in (1, 2, 1):
        heads.append(load(model_folder, seed=seed).model.get_parameter("classifier.weight"))
    assert torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[1])


@pytest.mark.parametrize("model_type", PLACES)
def test_what_upstream_reads_and_draws(save: Save, model_type: str) -> None:
    """The same for the second trial, which reads nothing any more, as for the first."""
    config = tiny_config(model_type)
    folder = save(AutoModel.from_config(config))
    upstream = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    models = []
    for _ in range(2):
        pretrained = load(folder, seed=3)
        models.append(pretrained.model)
    new = set(pretrained.new_weights)
    assert new
    for name, parameter in upstream.named_parameters():
        first, second = (model.get_parameter(name) for model in models)
        assert torch.equal(first, second), name
        if name not in new:
            assert torch.equal(first, parameter), name
        elif not parameter.any():
            assert not first.any(), name  # a bias of the head starts at 0
        else:  # 64 numbers or more: their spread is within half of what it should be
            assert first.std().item() == pytest.approx(parameter.std().item(), rel=0.5), name
    for name, buffer in upstream.named_buffers():
        assert all(torch.equal(model.get_buffer(name), buffer) for model in models), name


def test_a_copy_shares_nothing_with_what_was_read(model_folder: Path) -> None:
    first = load(model_folder).model
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.fill_(7.0)
    second = load(model_folder).model
    assert not any((parameter == 7.0).all() for parameter in second.parameters())


def test_the_encoder_is_the_saved_one(save: Save) -> None:
    saved = tiny_model(tiny_config("bert"))
    loaded = load(save(saved)).model
    name = "bert.encoder.layer.1.output.dense.weight"
    assert torch.equal(loaded.get_parameter(name), saved.get_parameter(name))


def test_a_head_for_other_labels_is_replaced(save: Save) -> None:
    config = tiny_config("bert")
    config.num_labels = 3
    config.problem_type = "multi_label_classification"
    pretrained = load(save(tiny_model(config)))
    assert pretrained.new_weights == ("classifier.bias", "classifier.weight")
    assert pretrained.model.get_parameter("classifier.weight").shape == (2, 32)
    assert pretrained.model.config.id2label == {0: "negative", 1: "positive"}
    assert pretrained.model.config.problem_type == "single_label_classification"  # or a pipeline's scores are sigmoids


def test_a_head_for_as_many_labels_is_kept(save: Save) -> None:
    saved = tiny_model(tiny_config("bert"))
    pretrained = load(save(saved))
    assert pretrained.new_weights == ()
    assert torch.equal(pretrained.model.get_parameter("classifier.weight"), saved.get_parameter("classifier.weight"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(save: Save, dtype: torch.dtype) -> None:
    half = tiny_model(tiny_config("bert"))
    nn.Module.to(half, dtype)
    folder = save(half)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    model = load(folder).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("model_type", "device", "attention"),
    [
        ("bert", "cpu", "eager"),
        ("bert", "cuda", "sdpa"),
        ("deberta-v2", "cuda", "eager"),  # has no sdpa
    ],
)
def test_attention(save: Save, model_type: str, device: str, attention: str) -> None:
    spec = ModelSpec(name=str(save(tiny_model(AutoConfig.for_model(model_type, **SIZES)))))
    checkpoint = read_checkpoint(spec, "AutoModelForSequenceClassification", None, False, LABELS, device, ())
    assert checkpoint.model.config._attn_implementation == attention


@pytest.mark.parametrize(
    ("model_type", "positions"),
    [("bert", 64), ("distilbert", 64), ("electra", 64), ("modernbert", 64), ("roberta", 63), ("mpnet", 62)],
)
def test_max_length_beyond_the_positions(save: Save, model_type: str, positions: int) -> None:
    # RoBERTa's first position is behind the padding id, 0 here; MPNet's padding id is always 1.
    folder = save(tiny_model(tiny_config(model_type)))
    model = load(folder, max_length=positions).model.eval()
    text = torch.full((1, positions), 5)
    assert model(input_ids=text, attention_mask=torch.ones_like(text)).logits.shape == (1, 2)
    rule = rf"max_length must be at most the model's {positions} positions, but got {positions + 1}\. Lower it"
    with pytest.raises(DataError, match=rule):
        load(folder, max_length=positions + 1)


def test_max_length_beyond_the_tokenizers(copy: Path) -> None:
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 20}))
    load(copy, max_length=20)
    with pytest.raises(DataError, match=r"at most the model's 20 positions, but got 21\. Lower it"):
        load(copy, max_length=21)


def test_dropout_in_an_unknown_architecture_is_refused_when_asked_for(save: Save) -> None:
    folder = save(tiny_model(AutoConfig.for_model("xlnet", vocab_size=32, d_model=32, n_layer=1, n_head=2, d_inner=64)))
    load(folder)
    with pytest.raises(DataError, match="but got a `xlnet` model"):
        load(folder, dropout=0.1)


def test_unknown_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"must be a model that transformers can load, but got `no/such-model`.*Check"):
        load("no/such-model")
    with pytest.raises(DataError, match=r"must exist, but got"):
        load(tmp_path / "nowhere")


def _remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _pickle(content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return damage


def _configure(**settings: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return damage


def _remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _replace(name: str, content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(content)

    return damage


def _unknown_architecture(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')


def _remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def _remove_padding(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": None}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove_weights, r"must have weights that can be read into it, but got: .*Save or download them again"),
        (_cut_weights, r"must have weights that can be read into it, but got: .*Save or download them again"),
        (_pickle(b""), r"must have weights that can be read into it, but got: .*Save or download them again"),
        (_pickle(b"version https://git-lfs.github.com/spec/v1\n"), r"must have weights that can be read into it"),
        (_configure(num_attention_heads=3), r"must have weights that can be read into it, but got: .*multiple"),
        (_configure(hidden_act="nope"), r"must have weights that can be read into it, but got: .*nope"),
        (_configure(hidden_size="32"), r"must be a model that transformers can load, but got .*hidden_size"),
        (_remove_config, r"must be a model that transformers can load, but got .*Check the Hub id or the folder"),
        (_break_config, r"must be a model that transformers can load, but got .*Check the Hub id or the folder"),
        (_unknown_architecture, r"must be a model that transformers can load, but got .*`unheard-of`.*Check"),
        (_remove_tokenizer, r"must have a tokenizer, but got none.*Save it there, or choose another model"),
        (_break_tokenizer, r"must be a model that transformers can load, but got .*Check the Hub id or the folder"),
        (_configure(pad_token_id=10**12), r"must have weights that can be read into it, but got: Padding_idx"),
        (_configure(quantization_config={"quant_method": "awq"}), r"must have weights that can be read into it"),
        (_configure(dtype="nope"), r"must be a model that transformers can load, but got .*nope"),
        (_configure(model_type=["bert"]), r"must be a model that transformers can load, but got .*unhashable"),
        (_replace("config.json", "null"), r"must be a model that transformers can load, but got .*NoneType"),
        (_replace("config.json", "[" * 100_000), r"must be a model that transformers can load, but got .*recursion"),
        (_replace("tokenizer_config.json", "[1]"), r"must be a model that transformers can load, but got .*list"),
        (_replace("tokenizer_config.json", '{"model_max_length": "x"}'), r"must be a model .*invalid literal.*'x'"),
        (_remove_padding, r"must have a fast tokenizer with a padding token, but got .*pad_token=None"),
    ],
)
def test_damaged_folder(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    load(copy)
    damage(copy)
    with pytest.raises(DataError, match=message):
        load(copy)


@pytest.mark.parametrize(
    ("setting", "value", "first"), [("num_hidden_layers", 3, "layer.2"), ("hidden_size", 64, "embeddings")]
)
def test_a_configuration_of_other_weights(copy: Path, setting: str, value: int, first: str) -> None:
    """transformers would train what is missing, or has another shape, from random weights."""
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    with pytest.raises(DataError, match=rf"must hold the weights that its config\.json describes, .*bert\..*{first}"):
        load(copy)


class Ran:
    """What pickle runs as it reads it: a file in the folder where it is read says so."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


OWN_CODE = """
from pathlib import Path
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
Path({marker!r}).touch()
class OwnConfig(BertConfig): model_type = "own"
class OwnModel(BertForSequenceClassification): pass
class OwnTokenizer(PreTrainedTokenizerFast): pass
"""
OF_THE_MODEL = {
    "AutoConfig": "own.OwnConfig",
    "AutoModelForSequenceClassification": "own.OwnModel",
    "AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"],
}


@pytest.mark.parametrize(
    ("of_config", "of_tokenizer", "loads"),
    [
        ({"model_type": "own", "auto_map": OF_THE_MODEL}, {}, False),
        ({"auto_map": OF_THE_MODEL, "trust_remote_code": True}, {}, True),
        ({}, {"auto_map": OF_THE_MODEL, "tokenizer_class": "OwnTokenizer", "trust_remote_code": True}, True),
        ({}, {"auto_map": OF_THE_MODEL["AutoTokenizer"]}, True),
        ({"_attn_implementation": "own/kernel", "use_kernels": True}, {}, True),
        ({}, {"chat_template": [{"name": "../../own", "template": "{{ 1 }}"}]}, True),
    ],
    ids=["type", "model", "tokenizer", "list", "kernel", "template"],
)
def test_code_of_a_model_is_neither_run_nor_passed_on(
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_config: dict[str, Any],
    of_tokenizer: dict[str, Any],
    loads: bool,
) -> None:
    """transformers would ask on the terminal whether it may, for a model type that it does not know."""
    marker = tmp_path / "ran"
    (copy / "own.py").write_text(OWN_CODE.format(marker=str(marker)))
    for name, settings in (("config.json", of_config), ("tokenizer_config.json", of_tokenizer)):
        path = copy / name
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    if loads:
        pretrained = load(copy)
        saved = tmp_path / "of" / "saved"
        pretrained.model.save_pretrained(saved)
        pretrained.tokenizer.save_pretrained(saved)
        names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
        assert {path.name for path in saved.iterdir()} == names
        assert not any("auto_map" in (saved / name).read_text() for name in names if name.endswith(".json"))
    else:
        with pytest.raises(DataError, match="must be a model that transformers can load"):
            load(copy)
    assert not marker.exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"copy", "of"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "shard.bin"])
@pytest.mark.parametrize(
    "save_file", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))]
)
def test_a_pickle_in_the_weights_is_not_run(
    copy: Path, tmp_path: Path, name: str, save_file: Callable[[Any, Path], None]
) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    save_file({**weights, "own": Ran(tmp_path / "ran")}, copy / name)
    if name == "shard.bin":
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
        (copy / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="must have weights that can be read into it, but got: Weights only load"):
        load(copy)
    assert not (tmp_path / "ran").exists()


def test_weights_without_code_are_read_from_a_pickle_too(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    name = "encoder.layer.0.output.dense.weight"
    assert torch.equal(load(copy).model.get_parameter(f"bert.{name}"), weights[name])


def test_an_adapter_is_refused(copy: Path) -> None:
    """Where `peft` is installed, transformers would load the model that its file names instead."""
    (copy / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "other"}))
    with pytest.raises(DataError, match=r"must be a whole model, but got an adapter\. Merge it"):
        load(copy)


def test_a_model_without_a_padding_token_takes_the_tokenizers(save: Save) -> None:
    """Such as GPT-2, which finds each text's last token by it and takes no batch without."""
    model = load(save(tiny_model(AutoConfig.for_model("gpt2", vocab_size=32, n_embd=32, n_layer=1, n_head=2)))).model
    assert model.config.pad_token_id == 0
    texts = torch.tensor([[5, 6, 7], [5, 6, 0]])
    logits = model(input_ids=texts, attention_mask=(texts > 0).long()).logits
    alone = model(input_ids=texts[1:, :2], attention_mask=torch.ones(1, 2, dtype=torch.int64)).logits
    assert torch.allclose(logits[1], alone[0], atol=1e-6)


def test_a_model_without_a_bound_on_positions(save: Save) -> None:
    config = AutoConfig.for_model("xlnet", vocab_size=32, d_model=32, n_layer=1, n_head=2, d_inner=64, pad_token_id=0)
    assert config.max_position_embeddings == -1
    assert load(save(tiny_model(config)), max_length=1000).model.config.model_type == "xlnet"


def test_a_pooler_may_be_new(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Models pretrained on masked words alone have none."""
    AutoModelForMaskedLM.from_config(tiny_config("bert")).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    new = load(tmp_path).new_weights
    assert new == ("bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight")


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_architecture_without_such_a_head(save: Save, with_tokenizer: bool) -> None:
    vision = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32)
    with pytest.raises(DataError, match=r"a head for this task, but .* is `vit`, .*Choose another model"):
        load(save(ViTModel(vision), with_tokenizer))


def test_fingerprint(model_folder: Path, tmp_path: Path) -> None:
    original = folder_fingerprint(model_folder)
    assert load(model_folder).fingerprint == original

    def changed(name: str, change: Callable[[Path], None]) -> str:
        folder = shutil.copytree(model_folder, tmp_path / name)
        change(folder)
        return folder_fingerprint(folder)

    def other_weight(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))

    def add_readme(folder: Path) -> None:
        (folder / "README.md").write_text("hello")

    def other_name(folder: Path) -> None:
        (folder / "tokenizer.json").rename(folder / "other.json")

    assert changed("same", lambda folder: None) == original
    assert changed("readme", add_readme) == original
    others = {changed("weight", other_weight), changed("name", other_name), original}
    assert len(others) == 3
    assert all(fingerprint.startswith("sha256:") for fingerprint in others)


def test_the_fingerprint_of_a_folder_that_changes(copy: Path) -> None:
    original = folder_fingerprint(copy)
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert folder_fingerprint(copy) != original


def test_the_loaded_class_has_the_tasks_head(model_folder: Path) -> None:
    assert isinstance(load(model_folder).model, BertForSequenceClassification)


def test_a_byte_level_tokenizer_takes_each_word_with_the_space_before_it(tmp_path: Path) -> None:
    """Else `film` as a word would be other pieces than within the texts that the model was pretrained on."""
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(["a the film was good"] * 20, vocab_size=300, min_frequency=2, special_tokens=special)
    trained.save_model(str(tmp_path))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    merges = [tuple(line.split()) for line in (tmp_path / "merges.txt").read_text("utf-8").splitlines()[1:]]
    made: Any = RobertaTokenizer  # its types know no pairs
    made(vocab=vocabulary, merges=merges).save_pretrained(tmp_path / "model")
    sizes = SIZES | {"vocab_size": len(vocabulary), "pad_token_id": 1}
    tiny_model(AutoConfig.for_model("roberta", **sizes)).save_pretrained(tmp_path / "model")
    tokenizer = load(tmp_path / "model", task=TOKEN_CLASSIFICATION).tokenizer
    encoded = encode(tokenizer, [("the", "film", "was")], "words", max_length=None)
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"][0]) == ["<s>", "Ġthe", "Ġfilm", "Ġwas", "</s>"]
    tokenizer.save_pretrained(tmp_path / "exported")
    again = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert again("the film", add_special_tokens=False)["input_ids"] == encoded["input_ids"][0][1:3]
