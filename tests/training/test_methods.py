"""The ways to tune: what each trains and what it leaves alone, its export, its checkpoints, and what it refuses."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from hpo import space
from hpo.errors import DataError
from hpo.spec import ModelSpec, StudySpec, TrialConfig
from hpo.training.encoder import replace_layers
from hpo.training.finetune import finetune, predict
from hpo.training.layout import Layout, layout_of
from hpo.training.methods import METHODS
from hpo.training.methods.lora import ALL_LINEAR, QUERY_VALUE, target_modules
from hpo.training.model import DROPOUT_FIELDS
from hpo.training.setup import Setup, save_model, set_up
from hpo.training.vocabulary import SeenEmbedding
from hpo.training_spec import TrainingSpec
from models import DECODERS, N_LAYERS, save_tiny, tiny_config, tiny_model
from trained import all_weights, restored, stop_and_save, train, what_was_learned

pytestmark = pytest.mark.usefixtures("no_gpu")

ARCHITECTURES = sorted(DROPOUT_FIELDS)
# Settings under which each does what no other does.
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "head_only": {},
    "last_layers": {"num_trained_layers": 1},
    "lora": {"lora_rank": 4, "lora_dropout": 0.1},
}
# Of the tiny BERT, 32 wide. Its layer has 4 * (32*32 + 32) + 2*32 = 4,288 parameters for attention and
# 32*64 + 64 + 64*32 + 32 + 2*32 = 4,256 for the feed-forward; the pooler 1,056, the classifier 66, embeddings 3,200.
HEAD = 1_056 + 66
TRAINED = {
    "full": 3_200 + 2 * (4_288 + 4_256) + HEAD,
    "head_only": HEAD,
    "last_layers": 4_288 + 4_256 + HEAD,
    "lora": 2 * 2 * (4 * 32 + 32 * 4) + HEAD,  # in two layers beside two projections two matrices
}
# What is other in the exported model than it was in the pretrained one.
CHANGED = {
    "full": ("",),
    "head_only": ("classifier.", "bert.pooler."),
    "last_layers": ("classifier.", "bert.pooler.", "bert.encoder.layer.1."),
    "lora": (
        *("classifier.", "bert.pooler."),
        *(f"bert.encoder.layer.{n}.attention.self.{name}.weight" for n in (0, 1) for name in ("query", "value")),
    ),
}


@pytest.fixture
def config(spec: StudySpec) -> TrialConfig:
    return space.trial_config(spec, {}, seed=7)


def using(config: TrialConfig, **changed: Any) -> TrialConfig:
    training = TrainingSpec.model_validate(config.training.model_dump() | changed)
    return config.model_copy(update={"training": training})


def of_model(config: TrialConfig, folder: Path) -> TrialConfig:
    return config.model_copy(update={"model": ModelSpec(name=str(folder))})


@pytest.mark.parametrize("method", sorted(METHODS))
class TestEveryMethod:
    """What holds for each of them: a new one has to be named above and passes."""

    def test_every_member_is_tested(self, method: str) -> None:
        assert set(SETTINGS) == set(TRAINED) == set(CHANGED) == set(METHODS)

    def test_what_is_trained(self, config: TrialConfig, method: str) -> None:
        setup = set_up(using(config, method=method, **SETTINGS[method]), None)
        assert setup.pretrained.num_trained_parameters == TRAINED[method]
        assert setup.pretrained.num_parameters == TRAINED["full"]
        # The optimizer has what is trained, and of the words only those of the study.
        in_optimizer = {id(each) for group in setup.step.optimizer.param_groups for each in group["params"]}
        trained = {id(each) for each in setup.pretrained.model.parameters() if each.requires_grad}
        assert in_optimizer == trained
        embedding = setup.pretrained.model.get_input_embeddings()
        assert isinstance(embedding, SeenEmbedding) == (method == "full")
        assert all(setup.pretrained.model.get_parameter(name).requires_grad for name in setup.pretrained.new_weights)

    def test_what_the_export_changes(self, config: TrialConfig, method: str, tmp_path: Path) -> None:
        setup = set_up(using(config, method=method, weight_decay=0.1, **SETTINGS[method]), None)
        before = {name: tensor.clone() for name, tensor in tiny_copy(config).state_dict().items()}
        list(finetune(setup))
        ours = torch.from_numpy(predict(setup, setup.validation))
        save_model(setup, tmp_path / "model")
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype=torch.float32)
        after = model.state_dict()
        assert set(after) == set(before)
        never_moves = "bert.encoder.layer.1.attention.self.key.bias"  # nor has it a gradient: it cancels out
        for name, tensor in after.items():
            expected = name.startswith(CHANGED[method]) and name != never_moves
            assert torch.equal(tensor, before[name]) != expected, name
        again = Checked(model, setup)
        torch.testing.assert_close(again.logits, ours, rtol=1e-4, atol=1e-5)

    def test_it_learns(self, config: TrialConfig, method: str, tmp_path: Path) -> None:
        folder = save_tiny("bert", tmp_path / "wide")
        learned = using(config, method=method, learning_rate=5e-3, num_train_epochs=6, **SETTINGS[method])
        losses = [each.metrics["eval/loss"] for each in finetune(set_up(of_model(learned, folder), None))]
        assert losses[-1] < losses[0]

    def test_nothing_is_passed_back_below_what_is_trained(self, config: TrialConfig, method: str) -> None:
        setup = set_up(using(config, method=method, **SETTINGS[method]), None)
        needs_gradient: dict[str, bool] = {}

        def look(name: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            needs_gradient.setdefault(name, output.requires_grad)

        for name in ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"):
            setup.pretrained.model.get_submodule(name).register_forward_hook(functools.partial(look, name))
        next(iter(finetune(setup)))
        lowest = {"full": 0, "lora": 1, "last_layers": 2, "head_only": 3}[method]
        assert list(needs_gradient.values()) == [position >= lowest for position in range(3)]

    def test_the_same_seed_gives_the_same_bits(self, config: TrialConfig, method: str) -> None:
        same = using(config, method=method, num_train_epochs=0.5, **SETTINGS[method])
        (weights, evaluations), (others, again) = train(same), train(same)
        assert torch.equal(weights, others) and what_was_learned(evaluations) == what_was_learned(again)

    def test_it_goes_on_from_a_checkpoint_to_the_same_bit(
        self, config: TrialConfig, method: str, tmp_path: Path
    ) -> None:
        stopped = using(config, method=method, layer_lr_decay=0.8, **SETTINGS[method])
        weights, evaluations = train(stopped)
        stop_and_save(stopped, tmp_path / "0.pt", at=17)
        torch.manual_seed(99)
        again, progress = restored(stopped, tmp_path / "0.pt")
        assert progress.global_step == 17
        gone_on = list(finetune(again, progress=progress))
        assert torch.equal(all_weights(again), weights)
        assert what_was_learned(gone_on) == what_was_learned(evaluations)

    def test_with_activation_checkpointing(self, config: TrialConfig, method: str) -> None:
        short = using(config, method=method, num_train_epochs=0.3, dropout=0.2, **SETTINGS[method])
        assert torch.equal(train(short)[0], train(using(short, activation_checkpointing=True))[0])

    @pytest.mark.parametrize("model_type", ARCHITECTURES)
    def test_every_architecture(self, config: TrialConfig, method: str, model_type: str, tmp_path: Path) -> None:
        """Trained for some steps, exported, and the same predictions again."""
        chosen = using(config, method=method, layer_lr_decay=0.9, num_train_epochs=0.5, **SETTINGS[method])
        setup = set_up(of_model(chosen, save_tiny(model_type, tmp_path / "pretrained")), None)
        curve = [point.loss for each in finetune(setup) for point in each.curve]
        assert all(loss < 3.0 for loss in curve)
        ours = torch.from_numpy(predict(setup, setup.validation))
        save_model(setup, tmp_path / "model")
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype=torch.float32)
        torch.testing.assert_close(Checked(model, setup).logits, ours, rtol=1e-3, atol=1e-4)


class Checked:
    """What a model of transformers predicts for the validation split of a setup."""

    def __init__(self, model: nn.Module, setup: Setup) -> None:
        model.eval()
        split, tokenizer = setup.splits.validation, setup.pretrained.tokenizer
        inputs = tokenizer(
            list(split.texts),
            padding=True,
            truncation=True,
            max_length=setup.config.training.max_length,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        with torch.inference_mode():
            self.logits: torch.Tensor = model(**inputs).logits


def tiny_copy(config: TrialConfig) -> PreTrainedModel:
    """As a trial with this configuration starts."""
    return set_up(using(config, method="head_only"), None).pretrained.model


# Layout


HEADS = {
    "albert": ("albert.pooler", "classifier"),
    "bert": ("bert.pooler", "classifier"),
    "camembert": ("classifier",),
    "deberta-v2": ("pooler", "classifier"),
    "distilbert": ("pre_classifier", "classifier"),
    "electra": ("classifier",),
    "gpt2": ("transformer.ln_f", "score"),
    "llama": ("model.norm", "score"),
    "mistral": ("model.norm", "score"),
    "modernbert": ("model.final_norm", "head", "classifier"),
    "mpnet": ("classifier",),
    "qwen2": ("model.norm", "score"),
    "qwen3": ("model.norm", "score"),
    "roberta": ("classifier",),
    "xlm-roberta": ("classifier",),
}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_layout(model_type: str) -> None:
    model = tiny_model(tiny_config(model_type))
    layout = layout_of(model)
    assert layout.head == HEADS[model_type]
    assert layout.num_layers == (1 if model_type == "albert" else N_LAYERS)
    depths = {name: layout.depth(name) for name, _ in model.named_parameters()}
    assert set(depths.values()) == set(range(layout.num_layers + 2))
    below = [name for name, depth in depths.items() if depth == 0]
    assert below and all("embed" in name or ".wte." in name or ".wpe." in name or "bias" in name for name in below)
    for name, depth in depths.items():
        if f".{depth - 1}." in name and 0 < depth <= layout.num_layers:
            assert name.startswith(f"{layout.layers}.{depth - 1}.")


def test_what_all_layers_read_is_below_them() -> None:
    relative = ("deberta.encoder.rel_embeddings.weight", "mpnet.encoder.relative_attention_bias.weight")
    for model_type, name in zip(("deberta-v2", "mpnet"), relative, strict=True):
        model = tiny_model(tiny_config(model_type))
        assert model.get_parameter(name) is not None and layout_of(model).depth(name) == 0


class Flat(nn.Module):
    """Something without layers."""

    base_model_prefix, config = "base", tiny_config("bert")

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(2, 2)


def test_a_model_without_layers() -> None:
    model: Any = Flat()
    with pytest.raises(DataError, match=r"one stack of layers, but .* has none\. Use method: full and layer_lr_decay"):
        layout_of(model)


def test_an_encoder_with_a_decoder() -> None:
    """Its decoder stands behind the encoder's layers, and is no head."""
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 32}
    model = tiny_model(AutoConfig.for_model("bart", **sizes, **heads))
    with pytest.raises(DataError, match=r"one stack of layers, but a `bart` model has several\. Use method: full"):
        layout_of(model)


# Last layers


def test_more_layers_than_there_are(config: TrialConfig) -> None:
    with pytest.raises(DataError, match=r"at most the model's 2 layers, but got 3 for a `bert` model\. Lower it"):
        set_up(using(config, method="last_layers", num_trained_layers=3), None)


def test_layers_that_are_one(config: TrialConfig, tmp_path: Path) -> None:
    shared = of_model(config, save_tiny("albert", tmp_path))
    with pytest.raises(DataError, match=r"model's 1 layers, but got 2 .*\(it computes one several times\)"):
        set_up(using(shared, method="last_layers", num_trained_layers=2), None)


def test_all_layers_are_all_but_the_embeddings(config: TrialConfig) -> None:
    setup = set_up(using(config, method="last_layers", num_trained_layers=2), None)
    assert setup.pretrained.num_trained_parameters == TRAINED["full"] - 3_200


# LoRA


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own question
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_peft_reads_the_adapter(config: TrialConfig, model_type: str, tmp_path: Path) -> None:
    """Beside the model that it was made from; and it is the same as the merged one."""
    pretrained = save_tiny(model_type, tmp_path / "pretrained")
    chosen = using(config, method="lora", learning_rate=1e-2, lora_target_modules="all_linear", num_train_epochs=0.5)
    setup = set_up(of_model(chosen, pretrained), None)
    list(finetune(setup))
    ours = torch.from_numpy(predict(setup, setup.validation))
    save_model(setup, tmp_path / "model")
    base = AutoModelForSequenceClassification.from_pretrained(pretrained, num_labels=2, dtype=torch.float32)
    base.config.pad_token_id = setup.pretrained.model.config.pad_token_id
    unadapted = Checked(base, setup).logits
    adapted = PeftModel.from_pretrained(base, tmp_path / "model" / "adapter")
    logits = Checked(adapted, setup).logits
    torch.testing.assert_close(logits, ours, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(unadapted, ours, atol=1e-2)
    about = json.loads((tmp_path / "model" / "adapter" / "adapter_config.json").read_text())
    assert (about["base_model_name_or_path"], about["task_type"]) == (str(pretrained), "SEQ_CLS")
    files = {path.name for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert "adapter_model.safetensors" in files
    merged = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert (tmp_path / "model" / "adapter" / "adapter_model.safetensors").stat().st_size < merged


def test_the_export_is_no_adapter_to_who_loads_it(config: TrialConfig, tmp_path: Path) -> None:
    setup = set_up(using(config, method="lora"), None)
    save_model(setup, tmp_path)
    assert not any("lora" in name for name, _ in setup.pretrained.model.named_parameters())
    again = set_up(using(of_model(config, tmp_path), method="lora"), None)
    assert again.pretrained.new_weights == ()


@pytest.mark.parametrize("first_token_only", [False, True])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "distilbert", "xlm-roberta"])
@pytest.mark.parametrize("wanted", [QUERY_VALUE, ALL_LINEAR])
def test_the_fast_layers_compute_the_adapters(model_type: str, first_token_only: bool, wanted: str) -> None:
    """Predictions and gradients against transformers' own layers with the same adapters."""
    results = []
    training = TrainingSpec.model_validate({"method": "lora", "lora_target_modules": wanted})
    for fast in (False, True):
        torch.manual_seed(0)
        model = tiny_model(tiny_config(model_type)).eval()
        METHODS["lora"].prepare(model, training)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)  # the second matrix of an adapter starts at 0
        assert not fast or replace_layers(model, first_token_only)
        ids = torch.randint(4, 32, (3, 9), generator=torch.Generator().manual_seed(1))
        mask = (torch.arange(9) < torch.tensor([9, 4, 7])[:, None]).long()
        logits = model(input_ids=ids * mask, attention_mask=mask).logits
        logits.square().sum().backward()
        gradients = {name: each.grad for name, each in model.named_parameters() if each.requires_grad}
        results.append((logits.detach(), gradients))
    (logits, gradients), (fast_logits, fast_gradients) = results
    torch.testing.assert_close(fast_logits, logits, rtol=1e-4, atol=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values() if gradient is not None)
    assert gradients and any(".lora_B." in name for name in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_queries_and_values_are_known_everywhere(model_type: str) -> None:
    model = tiny_model(tiny_config(model_type))
    names = target_modules(model, QUERY_VALUE)
    in_one = model_type in ("gpt2", "modernbert")
    assert len(names) == (1 if in_one else 2) * layout_of(model).num_layers
    attention = ("attention", "attn", "self_attn")
    assert all(any(f".{part}." in name for part in attention) for name in names)
    every = target_modules(model, ALL_LINEAR)
    assert set(names) < set(every) and all(name.startswith(layout_of(model).layers) for name in every)


def test_modules_by_their_own_names() -> None:
    model = tiny_model(tiny_config("bert"))
    assert target_modules(model, "intermediate.dense, key") == [
        f"bert.encoder.layer.{number}.{name}"
        for number in range(N_LAYERS)
        for name in ("attention.self.key", "intermediate.dense")
    ]


@pytest.mark.parametrize(
    ("model_type", "wanted", "message"),
    [
        (
            "bert",
            "q_proj,value",
            r"`q_proj,value`, and a `bert` model has no q_proj\. Use all_linear, or some of query",
        ),
        ("bert", "pooler", r"has no pooler"),
        ("bert", ",", r"has no"),
        ("gpt2", "query", r"a `gpt2` model has no query\. Use all_linear, or some of c_attn, c_proj, c_fc"),
    ],
)
def test_modules_that_a_model_has_not(
    config: TrialConfig, tmp_path: Path, model_type: str, wanted: str, message: str
) -> None:
    mistaken = using(of_model(config, save_tiny(model_type, tmp_path)), method="lora", lora_target_modules=wanted)
    with pytest.raises(DataError, match=rf"lora_target_modules must name linear layers.*{message}"):
        set_up(mistaken, None)


def test_an_architecture_whose_queries_nobody_has_named() -> None:
    model = tiny_model(tiny_config("bert"))
    model.config.model_type = "unheard-of"  # type: ignore[misc]
    with pytest.raises(DataError, match=r"an architecture whose queries nobody has named\. Use all_linear"):
        target_modules(model, QUERY_VALUE)


# Layer-wise decay


def test_rates_fall_from_layer_to_layer(config: TrialConfig) -> None:
    setup = set_up(using(config, layer_lr_decay=0.5, num_train_epochs=0.1, warmup_ratio=0.0), None)
    names = {id(each): name for name, each in setup.pretrained.model.named_parameters()}
    setup.step(next(setup.train.rows([torch.arange(4).numpy()])), 0.8)
    rates = {names[id(each)]: group["lr"] for group in setup.step.optimizer.param_groups for each in group["params"]}
    assert rates["classifier.weight"] == rates["bert.pooler.dense.bias"] == 0.8
    assert rates["bert.encoder.layer.1.output.dense.weight"] == rates["bert.encoder.layer.1.output.dense.bias"] == 0.4
    assert rates["bert.encoder.layer.0.attention.self.query.weight"] == 0.2
    assert rates["bert.embeddings.word_embeddings.weight"] == 0.1
    decays = {group["weight_decay"] for group in setup.step.optimizer.param_groups}
    assert len(setup.step.optimizer.param_groups) == 8 and decays == {0.0, 0.01}


def test_words_that_no_text_has_decay_at_the_rate_of_the_embeddings(config: TrialConfig, tmp_path: Path) -> None:
    """As if they had been trained with the others, and had no gradient."""
    decayed = using(config, layer_lr_decay=0.5, weight_decay=0.5, learning_rate=0.05, num_train_epochs=0.5)
    folder = save_tiny("bert", tmp_path / "pretrained")
    setup = set_up(of_model(decayed, folder), None)
    kept = setup.pretrained.model.get_input_embeddings()
    assert isinstance(kept, SeenEmbedding)
    unseen = sorted(set(range(32)) - set(kept.seen.tolist()))
    before = setup.pretrained.embeddings[unseen].clone()
    list(finetune(setup))
    save_model(setup, tmp_path / "model")
    after = setup.pretrained.model.get_input_embeddings().get_parameter("weight")[unseen]
    factor = 1.0
    for rate in setup.learning_rates:
        factor *= 1 - rate * 0.125 * 0.5
    assert unseen and factor < 0.99
    torch.testing.assert_close(after, before * factor, rtol=1e-5, atol=1e-7)


def test_without_decay_the_groups_are_the_plain_ones(config: TrialConfig) -> None:
    groups = set_up(config, None).step.optimizer.param_groups
    assert [(group["weight_decay"], group["lr_scale"]) for group in groups] == [(0.01, 1.0), (0.0, 1.0)]


def test_decoders_are_among_the_architectures() -> None:
    assert set(DECODERS) < set(ARCHITECTURES)
    assert isinstance(layout_of(tiny_model(tiny_config("gpt2"))), Layout)
