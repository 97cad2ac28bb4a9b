"""Every architecture from its checkpoint to its export: dropout, training, padding, and the same predictions again."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from hpo import space
from hpo.data.inputs import encode
from hpo.errors import DataError
from hpo.spec import ModelSpec, StudySpec, TrialConfig
from hpo.tasks.sequence_classification import SEQUENCE_CLASSIFICATION
from hpo.tasks.token_classification import TOKEN_CLASSIFICATION
from hpo.training.batches import Rows
from hpo.training.finetune import finetune, predict
from hpo.training.model import DROPOUT_FIELDS, load_pretrained
from hpo.training.setup import Setup, save_model, set_up
from models import DECODERS, N_LAYERS, save_tiny, tiny_config, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("no_gpu")

ARCHITECTURES = sorted(DROPOUT_FIELDS)
LABELS = ("negative", "positive")
# Texts of other lengths than the batch's, one of a single word, and one that `max_length` cuts.
LONG = "the film was " + "very " * 40 + "good"
TEXTS = ("the film was good", "bad", "it is a very very dull story with one awful plot and poor music", LONG)


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_tiny(request.param, tmp_path / "pretrained")


every_architecture = pytest.mark.parametrize("folder", ARCHITECTURES, indirect=True)
every_decoder = pytest.mark.parametrize("folder", DECODERS, indirect=True)


@pytest.fixture
def config(spec: StudySpec, folder: Path) -> TrialConfig:
    config = space.trial_config(spec, {}, seed=3)
    changed = {"learning_rate": 2e-3, "num_train_epochs": 8, "max_length": 12, "dropout": 0.05}
    training = config.training.model_copy(update=changed)
    return config.model_copy(update={"model": ModelSpec(name=str(folder)), "training": training})


def logits_of(model: PreTrainedModel, folder: Path, texts: tuple[str, ...], max_length: int) -> torch.Tensor:
    """As a user computes them, who knows no `hpo`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
        return_token_type_ids=False,
    )
    with torch.inference_mode():
        logits: torch.Tensor = model(**batch).logits
    return logits


@every_architecture
def test_where_a_pair_is_split_is_seen(folder: Path, tmp_path: Path) -> None:
    """By whoever loads the export, too. A text alone is what it was in pretraining."""
    loaded = load_pretrained(
        ModelSpec(name=str(folder)), SEQUENCE_CLASSIFICATION, LABELS, dropout=None, max_length=32, device="cpu", seed=0
    )
    tokenizer, pretrained = loaded.tokenizer, AutoTokenizer.from_pretrained(folder)
    assert tokenizer("the film was good")["input_ids"] == pretrained("the film was good")["input_ids"]
    pairs = [("the film", "was good"), ("the film was", "good")]
    one, other = encode(tokenizer, pairs, "pair", max_length=None)["input_ids"]
    assert one != other
    assert [len(ids) for ids in encode(tokenizer, pairs, "pair", max_length=5)["input_ids"]] == [5, 5]
    tokenizer.save_pretrained(tmp_path / "exported")
    again = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert again(*pairs[0])["input_ids"] == one and again("the film")["input_ids"] == tokenizer("the film")["input_ids"]


@every_architecture
def test_it_learns_and_its_export_predicts_the_same(config: TrialConfig, tmp_path: Path) -> None:
    setup = set_up(config, None)
    evaluations = list(finetune(setup))
    losses = [evaluation.metrics["eval/loss"] for evaluation in evaluations]
    assert losses[-1] < min(losses[0], 0.6)  # of two classes that are as frequent chance has 0.69
    ours = torch.from_numpy(predict(setup, setup.validation))
    texts, cut = setup.splits.validation.texts, setup.validation.n_truncated
    assert cut > 0
    save_model(setup, exported := tmp_path / "exported")
    for attention in ("eager", "sdpa"):
        has_sdpa = type(setup.pretrained.model)._supports_sdpa
        model = AutoModelForSequenceClassification.from_pretrained(
            exported, attn_implementation=attention if has_sdpa else "eager", dtype=torch.float32
        ).eval()
        assert model.config.id2label == dict(enumerate(LABELS))
        # All in one batch, padded to the longest, and each alone.
        together = logits_of(model, exported, texts, config.training.max_length)
        torch.testing.assert_close(together, ours, rtol=1e-3, atol=1e-4)
        for row in (0, 17, 52):
            alone = logits_of(model, exported, (texts[row],), config.training.max_length)
            torch.testing.assert_close(alone[0], ours[row], rtol=1e-3, atol=1e-4)


def _passes(setup: Setup) -> list[torch.Tensor]:
    model = setup.pretrained.model.train()
    batch = setup.train.gather(Rows(torch.arange(8), int(setup.train.padded[:8].max())))
    return [model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits for _ in range(2)]


@every_architecture
def test_two_passes_differ_by_their_dropout_alone(config: TrialConfig) -> None:
    for probability in (0.0, 0.3):
        training = config.training.model_copy(update={"dropout": probability})
        one, other = _passes(set_up(config.model_copy(update={"training": training}), None))
        assert torch.equal(one, other) == (probability == 0.0)


@every_architecture
def test_a_label_a_token(folder: Path, tmp_path: Path) -> None:
    """The other head: its dropout, and the same logits from the export."""
    pretrained = load_pretrained(
        ModelSpec(name=str(folder)),
        TOKEN_CLASSIFICATION,
        ("O", "B-X", "I-X"),
        dropout=0.25,
        max_length=12,
        device="cpu",
        seed=0,
    )
    model, tokenizer = pretrained.model, pretrained.tokenizer
    probabilities = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert probabilities == {0.25}
    batch = tokenizer(list(TEXTS), padding=True, truncation=True, max_length=12, return_tensors="pt")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    real = inputs["attention_mask"].bool()
    with torch.inference_mode():
        expected = model.eval()(**inputs).logits[real]
    model.save_pretrained(tmp_path / "exported")
    again = AutoModelForTokenClassification.from_pretrained(tmp_path / "exported", dtype=torch.float32).eval()
    with torch.inference_mode():
        torch.testing.assert_close(again(**inputs).logits[real], expected, rtol=1e-4, atol=1e-5)


@every_decoder
def test_a_decoder_pads_with_the_end_of_a_text(folder: Path, config: TrialConfig) -> None:
    """It has no token for padding. The head reads the last token that is not one, whatever is behind it."""
    pretrained = set_up(config, None).pretrained
    model, tokenizer = pretrained.model.eval(), pretrained.tokenizer
    assert (tokenizer.pad_token, model.config.pad_token_id, tokenizer.padding_side) == ("<|endoftext|>", 0, "right")
    assert model.config.use_cache is False

    def read(*rows: list[int]) -> torch.Tensor:
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        with torch.inference_mode():
            logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits

    plain, ended, within, only = [5, 6, 7], [5, 6, 7, 0], [5, 0, 7], [0]
    alone = torch.cat([read(row) for row in (plain, ended, within, only)])
    torch.testing.assert_close(read(plain, ended, within, only, [9] * 8)[:4], alone, rtol=1e-4, atol=1e-5)
    # A real end of the text is passed over like padding, so it changes nothing; within a text it is a token.
    torch.testing.assert_close(alone[1], alone[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone[2], alone[0], atol=1e-5)


@every_decoder
def test_a_decoder_takes_its_padding_from_the_tokenizer(folder: Path, config: TrialConfig) -> None:
    """A configuration that names another token, such as the -1 of some Llamas, would have the head read the padding."""
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"pad_token_id": null', '"pad_token_id": 9'))
    assert set_up(config, None).pretrained.model.config.pad_token_id == 0


@pytest.mark.parametrize("folder", ["gpt2"], indirect=True)
def test_a_tokenizer_with_neither_padding_nor_end(folder: Path, config: TrialConfig) -> None:
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(DataError, match=r"a fast tokenizer with a padding token, but got .* Choose another model"):
        set_up(config, None)


def test_layers_of_the_tiny_models() -> None:
    assert all(tiny_config(model_type).num_hidden_layers == N_LAYERS for model_type in ARCHITECTURES)
