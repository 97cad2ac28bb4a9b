"""Averaged weights: by hand, in a training, through a checkpoint, and with the words that were left out of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hpo import space
from hpo.spec import StudySpec, TrialConfig
from hpo.training.ema import Averages, average_of, decay_at
from hpo.training.finetune import evaluate, finetune
from hpo.training.setup import Setup, set_up, trained_model
from hpo.training.vocabulary import SeenEmbedding
from trained import all_weights, restored, stop_and_save, train, what_was_learned

pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.fixture
def config(spec: StudySpec) -> TrialConfig:
    return space.trial_config(spec, {"ema_decay": 0.9}, seed=7)


def raw(setup: Setup) -> torch.Tensor:
    """What is being trained."""
    return torch.cat([parameter.detach().flatten() for parameter in setup.pretrained.model.parameters()])


def test_averages_by_hand() -> None:
    # Decay 2/11, then 3/12, then 0.3 as asked for (4/13 would be more). Weights 1, then 12, then 4, then 5.
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    averages, expected = Averages(layer, 0.3), 1.0
    for step, (weight, decay) in enumerate([(12.0, 2 / 11), (4.0, 3 / 12), (5.0, 0.3)], start=1):
        with torch.no_grad():
            layer.weight.fill_(weight)
        averages.update(step)
        expected = decay * expected + (1 - decay) * weight
        assert averages.tensors[0].item() == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(0.3 * (0.25 * 10 + 0.75 * 4) + 0.7 * 5)
    assert average_of([1.0, 12.0, 4.0, 5.0], 0.3) == pytest.approx(expected)
    assert average_of([1.0, 12.0, 4.0, 5.0], None) == 5.0
    assert [decay_at(step, 0.99) for step in (1, 8, 10_000)] == [2 / 11, 0.5, 0.99]


def test_the_averages_are_there_only_within() -> None:
    layer = nn.Linear(2, 1)
    averages = Averages(layer, 0.5)
    start, places = layer.weight.detach().clone(), [each.data_ptr() for each in layer.parameters()]
    with torch.no_grad():
        layer.weight.add_(1.0)
    input = torch.tensor([[1.0, 2.0]])
    now = layer(input)
    with torch.inference_mode(), averages.evaluated():
        assert torch.equal(layer.weight, start) and not torch.equal(layer(input), now)
    with pytest.raises(KeyboardInterrupt), averages.evaluated():
        raise KeyboardInterrupt
    # At the same place in memory, which a captured step knows.
    assert torch.equal(layer(input), now) and [each.data_ptr() for each in layer.parameters()] == places
    layer(input).sum().backward()  # and it is trained further
    assert layer.weight.grad is not None


def test_without_a_decay_there_is_nothing() -> None:
    layer = nn.Linear(2, 1)
    averages = Averages(layer, None)
    averages.update(1)
    with averages.evaluated():
        pass
    averages.settle()
    assert averages.tensors == []


def test_what_is_trained_is_the_same_and_what_is_evaluated_is_not(spec: StudySpec) -> None:
    plain, averaged = (set_up(space.trial_config(spec, {"ema_decay": decay}, seed=7), None) for decay in (None, 0.95))
    told = [list(finetune(setup)) for setup in (plain, averaged)]
    assert torch.equal(raw(plain), raw(averaged))
    for one, other in zip(*told, strict=True):
        assert one.curve == other.curve and one.metrics["eval/loss"] != other.metrics["eval/loss"]
    exported = trained_model(averaged)
    assert not torch.equal(all_weights(averaged), all_weights(plain))
    assert exported is averaged.pretrained.model


def test_what_is_exported_is_what_was_evaluated(config: TrialConfig) -> None:
    setup = set_up(config, None)
    *_, last = finetune(setup)
    trained_model(setup)
    assert evaluate(setup) == last.metrics
    assert trained_model(setup) is setup.pretrained.model and evaluate(setup) == last.metrics  # again changes nothing


@pytest.mark.parametrize("at", [1, 8, 20])
def test_a_checkpoint_keeps_both(config: TrialConfig, tmp_path: Path, at: int) -> None:
    weights, evaluations = train(config)
    # At 8 within an evaluation, where the averages are in use.
    setup = stop_and_save(config, tmp_path / "0.pt", at, in_evaluation=at == 8)
    again, progress = restored(config, tmp_path / "0.pt")
    assert torch.equal(raw(again), raw(setup))
    gone_on = list(finetune(again, progress=progress))
    assert what_was_learned(gone_on) == what_was_learned(evaluations)
    assert torch.equal(all_weights(again), weights)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_words_that_were_left_out_are_averaged_as_well(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    given: dict[str, Any] = {"optimizer": optimizer, "learning_rate": 0.05, "weight_decay": 0.5, "ema_decay": 0.8}
    config = space.trial_config(spec, given, seed=7)
    left_out = set_up(config, None)
    assert isinstance(left_out.pretrained.model.get_input_embeddings(), SeenEmbedding)
    monkeypatch.setattr("hpo.training.setup.keep_seen", lambda model, token_ids: None)
    whole = set_up(config, None)
    embeddings = []
    for setup in (left_out, whole):
        list(finetune(setup))
        weight = trained_model(setup).get_input_embeddings().get_parameter("weight").detach()
        embeddings.append(weight)
    seen = left_out.train.token_ids
    others = sorted(set(range(len(embeddings[1]))) - set(seen.tolist()))
    assert others
    torch.testing.assert_close(embeddings[0][others], embeddings[1][others], rtol=1e-4, atol=1e-7)
    pretrained = left_out.pretrained.embeddings[others]
    assert not torch.allclose(embeddings[0][others], pretrained, rtol=0.05)
