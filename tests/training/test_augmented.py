"""Augmentation within a training: batches from memory that every epoch writes over, and mixup's objective."""

import math
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from benchmarks.tiny import make_tokenizer
from hpo import space
from hpo.data.augment import AUGMENTATIONS
from hpo.errors import DataError
from hpo.spec import StudySpec, TrialConfig
from hpo.study_file import parse_study
from hpo.training.augmented import AugmentedTokens
from hpo.training.batches import IGNORED, Batch
from hpo.training.dropout import replace_dropouts
from hpo.training.finetune import finetune
from hpo.training.losses import CrossEntropy, MeanSquaredError
from hpo.training.model import DROPOUT_FIELDS
from hpo.training.objectives.base import Forward, Objective
from hpo.training.objectives.distillation import Distillation
from hpo.training.objectives.mixup import Mixup
from hpo.training.objectives.supervised import Supervised
from hpo.training.setup import set_up
from hpo.training.step import in_parts
from hpo.training.vocabulary import SeenEmbedding
from hpo.training_spec import TrainingSpec
from models import tiny_config, tiny_model
from task_data import task_study
from trained import restored, stop_and_save

pytestmark = pytest.mark.usefixtures("no_gpu")


def with_training(config: TrialConfig, **changed: Any) -> TrialConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=changed)})


@pytest.fixture(scope="module")
def masked_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was saved with its masked-language-model head, and a tokenizer with a mask."""
    folder, tokenizer = tmp_path_factory.mktemp("masked"), make_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def config(spec: StudySpec, masked_folder: Path) -> TrialConfig:
    found = space.trial_config(spec, {}, seed=7)
    return found.model_copy(update={"model": found.model.model_copy(update={"name": str(masked_folder)})})


def batches(config: TrialConfig, count: int) -> list[Batch]:
    train = set_up(config, None).train
    rows = train.training_rows(config.training.train_batch_size, np.random.default_rng(config.seed))
    return [train.gather(each) for each in islice(rows, count)]


@pytest.fixture(params=AUGMENTATIONS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


class TestEpochs:
    def test_each_has_other_texts_and_the_same_labels(self, config: TrialConfig, name: str) -> None:
        train = set_up(with_training(config, augment_method=name, augment_probability=0.4), None).train
        assert isinstance(train, AugmentedTokens)
        plain = set_up(config, None).train
        rows = train.training_rows(240, np.random.default_rng(0))
        seen = []
        for _ in range(3):
            now = next(rows)
            batch, before = train.gather(now), plain.gather(now)
            assert torch.equal(batch["labels"], before["labels"])
            order = now.indices.argsort()
            seen.append(torch.nn.functional.pad(batch["input_ids"][order], (0, 32 - now.length)))
        assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])

    def test_the_same_seed_gives_the_same(self, config: TrialConfig, name: str) -> None:
        changed = with_training(config, augment_method=name, augment_probability=0.4)
        for one, other in zip(batches(changed, 35), batches(changed, 35), strict=True):  # 15 an epoch
            assert all(torch.equal(one[key], other[key]) for key in one)

    def test_0_is_none(self, config: TrialConfig, name: str) -> None:
        without = batches(config, 35)
        for one, other in zip(
            batches(with_training(config, augment_method=name, augment_probability=0.0), 35), without, strict=True
        ):
            assert all(torch.equal(one[key], other[key]) for key in one)

    def test_evaluation_sees_the_texts_as_they_are(self, config: TrialConfig, name: str) -> None:
        changed = set_up(with_training(config, augment_method=name, augment_probability=0.9), None)
        assert changed.validation is set_up(config, None).validation
        assert len(changed.learning_rates) == 30

    def test_no_word_comes_up_that_has_no_embedding(self, config: TrialConfig, name: str) -> None:
        setup = set_up(with_training(config, augment_method=name, augment_probability=0.9), None)
        assert isinstance(setup.pretrained.model.get_input_embeddings(), SeenEmbedding)
        assert len(list(finetune(setup))) == 4  # an id without one is an IndexError


def test_the_memory_that_a_captured_step_reads_stays(config: TrialConfig) -> None:
    train = set_up(with_training(config, augment_method="deletion", augment_probability=0.5), None).train
    storage = [train._input_ids.data_ptr(), train._starts.data_ptr(), train._lengths.data_ptr()]
    list(islice(train.training_rows(16, np.random.default_rng(0)), 40))
    assert [train._input_ids.data_ptr(), train._starts.data_ptr(), train._lengths.data_ptr()] == storage


@pytest.mark.parametrize("method", ["deletion", "mixup"])
@pytest.mark.parametrize("stopped_after", [7, 15, 22])
def test_a_trial_goes_on_to_the_bit(config: TrialConfig, method: str, stopped_after: int, tmp_path: Path) -> None:
    changed = with_training(config, augment_method=method, augment_probability=0.4)
    whole = list(finetune(set_up(changed, None)))

    stop_and_save(changed, tmp_path / "trial.pt", stopped_after)
    again, progress = restored(changed, tmp_path / "trial.pt")
    assert progress.global_step == stopped_after
    resumed = list(finetune(again, progress=progress))
    assert [each.metrics for each in resumed] == [each.metrics for each in whole]
    assert [point.loss for each in resumed for point in each.curve] == [
        point.loss for each in whole for point in each.curve
    ]


@pytest.mark.parametrize("name", ["deletion", "neighbour"])
def test_entities_keep_their_tags(name: str, model_folder: Path, tmp_path: Path) -> None:
    study = parse_study(task_study("tags", model_folder, tmp_path), "tiny.yaml")
    config = space.trial_config(study, space.default_params(study) | {"augment_method": name}, seed=0)
    setup = set_up(with_training(config, augment_probability=0.6), None)
    words = setup.pretrained.tokenizer.get_vocab()
    inside = {words[word] for word in ("good", "great", "fine", "lovely", "bad", "awful", "poor", "dull")}
    fewer = False
    for rows in islice(setup.train.training_rows(16, np.random.default_rng(0)), 60):
        batch = setup.train.gather(rows)
        ids, labels = batch["input_ids"], batch["labels"]
        entity = torch.isin(ids, torch.tensor(sorted(inside)))
        assert (labels[entity] != IGNORED).all()
        if name == "deletion":  # a replaced `O` word may be one of them by chance
            assert (labels[entity] > 0).all()
        kept = (labels > 0).sum(1).tolist()
        for row, count in zip(rows.indices.tolist(), kept, strict=True):
            assert count == int((setup.train.labels[row] > 0).sum())
            fewer |= int((labels[rows.indices.tolist().index(row)] != IGNORED).sum()) < len(setup.train.labels[row])
    assert fewer == (name == "deletion")


class TestMaskedModel:
    def test_a_checkpoint_without_the_head(self, spec: StudySpec) -> None:
        config = with_training(space.trial_config(spec, {}, seed=7), augment_method="masked_model")
        with pytest.raises(DataError, match=r"was saved without it: .* Choose augment_method: neighbour, or a model"):
            set_up(config, None)

    def test_a_tokenizer_without_a_mask(self, config: TrialConfig, masked_folder: Path, tmp_path: Path) -> None:
        BertForMaskedLM.from_pretrained(masked_folder).save_pretrained(tmp_path)
        make_tokenizer().save_pretrained(tmp_path)
        other = config.model_copy(update={"model": config.model.model_copy(update={"name": str(tmp_path)})})
        with pytest.raises(DataError, match=r"needs a tokenizer with a mask token, but that of .* has none"):
            set_up(with_training(other, augment_method="masked_model"), None)

    def test_an_architecture_without_the_head(self, config: TrialConfig, tmp_path: Path) -> None:
        tiny_model(tiny_config("gpt2")).save_pretrained(tmp_path)
        make_tokenizer().save_pretrained(tmp_path)
        other = config.model_copy(update={"model": config.model.model_copy(update={"name": str(tmp_path)})})
        with pytest.raises(DataError, match=r"is of an architecture that does not\. Choose augment_method: neighbour"):
            set_up(with_training(other, augment_method="masked_model", dropout=None), None)

    @torch.inference_mode()
    def test_others_are_the_likeliest_words_where_the_word_is_masked(
        self, config: TrialConfig, masked_folder: Path
    ) -> None:
        train = set_up(with_training(config, augment_method="masked_model"), None).train
        assert isinstance(train, AugmentedTokens)
        augmentation: Any = train._augmentation
        tokens, place = augmentation.request.tokens, 100
        at = int(augmentation.places[place])
        row = int(np.searchsorted(tokens.offsets, at, side="right")) - 1
        first, end = tokens.offsets[row : row + 2]
        # Whoever is masked beside it: every seventh of all words that have others.
        turn = {int(each): order % 7 for order, each in enumerate(augmentation.places)}
        ids = [
            PreTrainedTokenizerFast.from_pretrained(masked_folder).mask_token_id
            if turn.get(each) == turn[at]
            else int(tokens.input_ids[each])
            for each in range(first, end)
        ]
        logits = BertForMaskedLM.from_pretrained(masked_folder).eval()(torch.tensor([ids])).logits[0, at - first]
        ranked = [token for token in logits.argsort(descending=True).tolist() if 4 <= token < 32]
        likeliest = [token for token in ranked if token != tokens.input_ids[at]][:5]
        assert augmentation.others[place].tolist() == likeliest


class Embeds(nn.Module):
    """A model whose logits are the sum of its words' embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding: nn.Embedding = nn.Embedding.from_pretrained(torch.tensor([[0.0], [1.0], [10.0]]))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def logits(self, batch: Batch) -> torch.Tensor:
        found: torch.Tensor = (self.embedding(batch["input_ids"]) * batch["attention_mask"][..., None]).sum(1)
        return found


def mixed_loss(objective: Objective, forward: Forward, batch: Batch) -> torch.Tensor:
    whole = objective.prepare(batch)
    return objective(forward, whole, whole)


def weighted_batch() -> Batch:
    return {
        "input_ids": torch.tensor([[1, 1], [2, 0], [1, 2], [2, 2], [1, 0]]),
        "attention_mask": torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1], [1, 0]]),
        "labels": torch.tensor([0, 1, 0, IGNORED, 0]),
    }


class TestMixup:
    @pytest.mark.parametrize("at_once", [1, 2, 3])
    def test_parts_are_mixed_as_the_whole_is(self, at_once: int) -> None:
        """A text whose partner is in another part is mixed with it all the same."""
        torch.manual_seed(0)
        model, head = Embeds(), nn.Linear(1, 2)
        model.embedding.weight.requires_grad_()
        mixup = Mixup(Supervised(CrossEntropy(class_weights=torch.tensor([1.0, 10.0]))), cast("Any", model), 0.9)
        whole, weights = mixup.prepare(weighted_batch()), (model.embedding.weight, *head.parameters())
        assert not torch.equal(whole["partner_input_ids"], whole["input_ids"])

        def forward(part: Batch) -> torch.Tensor:
            logits: torch.Tensor = head(model.logits(part))
            return logits

        expected = mixup(forward, whole, whole)
        gradients = torch.autograd.grad(expected, weights)
        parts = torch.stack([mixup(forward, part, whole) for part in in_parts(whole, 5, at_once)]).sum()
        torch.testing.assert_close(parts, expected)
        torch.testing.assert_close(torch.autograd.grad(parts, weights), gradients)

    def test_the_partners_labels_are_a_mean_of_their_own(self) -> None:
        """What takes both classes for equally likely loses ln 2, whatever the classes weigh and whoever is whose."""
        torch.manual_seed(0)
        model: Any = Embeds()
        mixup = Mixup(Supervised(CrossEntropy(class_weights=torch.tensor([1.0, 10.0]))), model, 0.5)
        for _ in range(8):
            loss = mixed_loss(mixup, lambda part: model.logits(part) * torch.zeros(2), weighted_batch())
            assert loss.item() == pytest.approx(math.log(2.0))

    @pytest.mark.parametrize("taught", [False, True])
    def test_by_hand(self, taught: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        # `1 1` with label 0 and `2` with label 6, each mixed with the other, 0.75 of its own. What the second has no
        # second word for stays 1; what the first has beyond the end of the second is left out. Or a teacher says 0 and
        # 6, and labels do not count.
        drawn = iter([torch.tensor(0.25), torch.tensor([0.9, 0.1]), torch.tensor([0.0, 0.0])])
        monkeypatch.setattr(torch, "rand", lambda *shape, device: next(drawn))
        batch = {
            "input_ids": torch.tensor([[1, 1], [2, 0]]),
            "attention_mask": torch.tensor([[1, 1], [1, 0]]),
            "labels": torch.tensor([0.0, 6.0]),
        }
        model: Any = Embeds()
        inner: Objective = Supervised(MeanSquaredError())
        if taught:
            batch |= {"labels": torch.tensor([7.0, -9.0]), "teacher_logits": torch.tensor([[0.0], [6.0]])}
            inner = Distillation(inner, MeanSquaredError(), alpha=1.0, temperature=2.0)
        loss = mixed_loss(Mixup(inner, model, 0.5), model.logits, batch)
        logits = (0.75 * 1 + 0.25 * 10 + 1, 0.75 * 10 + 0.25 * 1)
        own = (logits[0] ** 2 + (logits[1] - 6) ** 2) / 2
        other = ((logits[0] - 6) ** 2 + logits[1] ** 2) / 2
        assert loss.item() == pytest.approx(0.75 * own + 0.25 * other)
        assert not model.embedding._forward_hooks

    def test_0_is_none(self, config: TrialConfig) -> None:
        changed = set_up(with_training(config, augment_method="mixup", augment_probability=0.0), None)
        assert isinstance(changed.step.objective, Supervised)  # type: ignore[union-attr]

    @pytest.mark.parametrize("model_type", DROPOUT_FIELDS)
    def test_of_every_architecture(self, model_type: str) -> None:
        """The gradient goes into both texts' words; nothing is mixed outside."""
        torch.manual_seed(0)
        model = tiny_model(tiny_config(model_type)).eval()
        replace_dropouts(model)
        model.config.pad_token_id = 0
        batch = {
            "input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 11, 0]]),
            "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
            "labels": torch.tensor([0, 1]),
        }

        def forward(part: Batch) -> torch.Tensor:
            logits: torch.Tensor = model(input_ids=part["input_ids"], attention_mask=part["attention_mask"]).logits
            return logits

        plain = Supervised(CrossEntropy())(forward, batch, batch).item()
        mixed = [mixed_loss(Mixup(Supervised(CrossEntropy()), model, 0.99), forward, batch) for _ in range(8)]
        assert len({round(loss.item(), 6) for loss in mixed}) > 2
        assert Supervised(CrossEntropy())(forward, batch, batch).item() == plain
        mixed[0].backward()
        assert model.get_input_embeddings().weight.grad is not None

    def test_it_learns(self, config: TrialConfig) -> None:
        changed = with_training(config, augment_method="mixup", augment_probability=0.3, num_train_epochs=6.0)
        evaluations = list(finetune(set_up(changed, None)))
        assert evaluations[-1].metrics["eval/accuracy"] > 0.8


class TestTrainFraction:
    def test_fewer_rows_and_fewer_steps(self, config: TrialConfig) -> None:
        half = set_up(with_training(config, train_fraction=0.5), None)
        assert (len(half.train), len(half.validation), half.num_training_steps) == (120, 100, 16)
        again = set_up(with_training(config, train_fraction=0.5), None)
        assert again.train is half.train

    def test_with_augmentation(self, config: TrialConfig) -> None:
        changed = with_training(config, train_fraction=0.5, augment_method="swap")
        assert len(list(finetune(set_up(changed, None)))) == 4

    def test_too_few(self, config: TrialConfig) -> None:
        with pytest.raises(
            DataError, match=r"must leave a row of every class, but got 0\.001 of 240 rows for 2 classes"
        ):
            set_up(with_training(config, train_fraction=0.001), None)


def test_settings_are_those_of_the_registry() -> None:
    options = TrainingSpec.model_json_schema()["properties"]["augment_method"]["enum"]
    assert sorted(options) == sorted(["none", "mixup", *AUGMENTATIONS])
