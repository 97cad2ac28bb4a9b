"""What holds of every optimizer, whatever its file says: one class of tests over the registry."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from hpo import space
from hpo.settings import Value
from hpo.spec import StudySpec, TrialConfig
from hpo.training.batches import Batch, Rows
from hpo.training.finetune import finetune
from hpo.training.objectives.base import Forward
from hpo.training.optimizer import (
    build_optimizer,
    clip_gradients,
    decay_without_gradient,
    decays_in_proportion,
    hidden_matrices,
    parameter_groups,
    set_learning_rate,
)
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.optimizers.muon import Together
from hpo.training.setup import Setup, may_capture, set_up
from hpo.training.step import Step
from hpo.training.vocabulary import SeenEmbedding
from hpo.training_spec import TrainingSpec
from models import tiny_config, tiny_model
from trained import all_weights, restored, stop_and_save, train, what_was_learned

pytestmark = pytest.mark.usefixtures("no_gpu")

# At which a small model learns in some steps. Adafactor's is relative to the weights.
LEARNING_RATES = {"adamw": 0.01, "adam": 0.01, "sgd": 0.1, "adafactor": 0.1, "muon": 0.03}


def settings(name: str, **changed: Any) -> TrainingSpec:
    given = {"optimizer": name, "learning_rate": 0.01, "weight_decay": 0.1, "max_grad_norm": None}
    return TrainingSpec.model_validate(given | changed)


def a_layer_and_a_head() -> tuple[nn.Sequential, list[nn.Parameter]]:
    """And the matrix that is hidden."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    return model, [model[0].weight]  # type: ignore[list-item]


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestContract:
    @pytest.fixture
    def config(self, spec: StudySpec, name: str) -> TrialConfig:
        return space.trial_config(spec, {"optimizer": name, "learning_rate": LEARNING_RATES[name]}, seed=7)

    def test_it_learns(self, name: str) -> None:
        """Which of three features there is most of, by two layers."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))
        optimizer = build_optimizer(parameter_groups(model, 0.0), settings(name), hidden=[model[0].weight])  # type: ignore[list-item]
        losses = []
        for _ in range(150):
            features = torch.randn(32, 3)
            loss = nn.functional.cross_entropy(model(features), features.argmax(dim=1))
            losses.append(loss.item())
            loss.backward()
            clip_gradients(optimizer, 1.0)
            set_learning_rate(optimizer, LEARNING_RATES[name])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        assert sum(losses[-10:]) < 0.4 * sum(losses[:10])

    def test_the_same_training_gives_the_same_weights(self, config: TrialConfig, name: str) -> None:
        (weights, evaluations), (again, others) = train(config), train(config)
        assert torch.equal(weights, again) and what_was_learned(evaluations) == what_was_learned(others)

    def test_a_checkpoint_restores_it_to_the_bit(self, config: TrialConfig, name: str, tmp_path: Path) -> None:
        weights, evaluations = train(config)
        stop_and_save(config, tmp_path / "0.pt", at=13)
        again, progress = restored(config, tmp_path / "0.pt")
        assert progress.global_step == again.step.taken == 13
        gone_on = list(finetune(again, progress=progress))
        assert torch.equal(all_weights(again), weights)
        assert what_was_learned(gone_on) == what_was_learned(evaluations)

    def test_it_keeps_its_place_between_steps(self, config: TrialConfig, name: str) -> None:
        """A checkpoint may be written at any step: what it holds then is all of the optimizer."""
        setup = set_up(config, None)
        setup.pretrained.model.train()
        setup.step(Rows(torch.arange(8), 15), 1e-3)
        optimizer = setup.step.optimizer
        stored = copy.deepcopy(optimizer.state_dict())
        setup.step(Rows(torch.arange(8), 15), 1e-3)
        optimizer.load_state_dict(stored)
        again = optimizer.state_dict()
        assert again["param_groups"] == stored["param_groups"] and again["state"].keys() == stored["state"].keys()
        for key, state in stored["state"].items():
            assert all(value is None or torch.equal(value, again["state"][key][part]) for part, value in state.items())

    def test_every_step_has_the_learning_rate_that_it_is_given(self, name: str) -> None:
        model, hidden = a_layer_and_a_head()
        groups = parameter_groups(model, 0.1)
        groups[0]["lr_scale"] = 0.5
        optimizer = build_optimizer(groups, settings(name), hidden=hidden)
        set_learning_rate(optimizer, 0.02)
        rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
        assert rates == {id(each): 0.01 if each.ndim == 2 else 0.02 for each in model.parameters()}
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        before = copy.deepcopy(model.state_dict())
        set_learning_rate(optimizer, 0.0)
        optimizer.step()  # moves nothing, but what it remembers
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())

    @pytest.mark.parametrize("limit", [1e-3, 0.5, 100.0, None])
    def test_clipping_is_that_of_torch(self, name: str, limit: float | None) -> None:
        (ours, hidden), (upstream, others) = a_layer_and_a_head(), a_layer_and_a_head()
        # Without a tiny epsilon, or Adam would take gradients of any size for the same.
        training = settings(name, adam_epsilon=0.1)
        optimizers = [
            build_optimizer(parameter_groups(model, 0.1), training, hidden=matrices)
            for model, matrices in ((ours, hidden), (upstream, others))
        ]
        for _ in range(3):
            features = torch.randn(4, 7)
            for model in (ours, upstream):
                model.zero_grad()
                model(features).square().sum().backward()
            norm = clip_gradients(optimizers[0], limit)
            expected = nn.utils.clip_grad_norm_(upstream.parameters(), torch.inf if limit is None else limit)
            torch.testing.assert_close(norm, expected)
            for optimizer in optimizers:
                optimizer.step()
        for parameter, same in zip(ours.parameters(), upstream.parameters(), strict=True):
            torch.testing.assert_close(parameter, same, rtol=1e-5, atol=1e-6)

    def test_parts_of_a_batch_move_it_as_the_whole_does(self, config: TrialConfig, name: str) -> None:
        training = config.training.model_copy(update={"dropout": 0.0, "adam_epsilon": 1e-3})
        config = config.model_copy(update={"training": training})
        moved = []
        for size in (None, 5):
            setup = set_up(config, None)
            setup.step.micro_batch_size = size
            setup.pretrained.model.train()
            start = all_trained(setup)
            setup.step(Rows(torch.arange(16), 15), config.training.learning_rate)
            moved.append(all_trained(setup) - start)
        assert setup.step.micro_batch_size == 5
        assert torch.linalg.vector_norm(moved[1] - moved[0]) < 0.02 * torch.linalg.vector_norm(moved[0])

    def test_weight_decay_is_for_matrices(self, name: str) -> None:
        """Beside the same gradients, it makes them smaller, and leaves vectors as they would be without it."""
        ends = []
        for weight_decay in (0.0, 0.5):
            model, hidden = a_layer_and_a_head()
            training = settings(name, weight_decay=weight_decay, learning_rate=0.1)
            optimizer = build_optimizer(parameter_groups(model, weight_decay), training, hidden=hidden)
            for _ in range(10):
                for parameter in model.parameters():
                    parameter.grad = torch.zeros_like(parameter)
                set_learning_rate(optimizer, 0.1)
                optimizer.step()
            ends.append(model)
        plain, decayed = ends
        for index in (0, 1):
            for key in ("weight", "bias"):
                without, with_it = (model[index].get_parameter(key) for model in (plain, decayed))
                if key == "bias":
                    assert torch.equal(without, with_it)
                else:
                    assert with_it.square().sum() < 0.95 * without.square().sum()

    def test_rows_without_a_gradient(self, name: str) -> None:
        """Leaving them out is exact where the optimizer says so, and by the factor that it tells."""
        training = settings(name, weight_decay=0.1)
        rates = [0.02, 0.01, 0.005]
        torch.manual_seed(0)
        start, gradients = torch.randn(6, 4), [torch.randn(4, 4) for _ in rates]

        def run(rows: int) -> torch.Tensor:
            weight = nn.Parameter(start[:rows].clone())
            optimizer = build_optimizer([{"params": [weight], "weight_decay": 0.1}], training)
            for rate, gradient in zip(rates, gradients, strict=True):
                weight.grad = torch.zeros_like(weight)
                weight.grad[:4] = gradient
                set_learning_rate(optimizer, rate)
                optimizer.step()
            return weight.detach()

        whole, part = run(6), run(4)
        if decays_in_proportion(training):
            factor = decay_without_gradient(training, rates)[-1]
            torch.testing.assert_close(whole[:4], part)
            torch.testing.assert_close(whole[4:], start[4:] * factor)
        else:
            of_the_others = (whole[4:] / start[4:]).flatten()
            assert not torch.allclose(whole[:4], part, rtol=1e-4) or of_the_others.max() - of_the_others.min() > 1e-4

    def test_what_the_schedule_does_shows_in_the_weights(self, spec: StudySpec, name: str) -> None:
        given: dict[str, Value] = {"optimizer": name, "learning_rate": LEARNING_RATES[name], "num_train_epochs": 0.4}
        linear, constant = (
            train(space.trial_config(spec, {**given, "lr_scheduler_type": shape}, seed=7))[0]
            for shape in ("linear", "constant_with_warmup")
        )
        assert not torch.equal(linear, constant)


def all_trained(setup: Setup) -> torch.Tensor:
    """Of the model that is being trained, without what was left out of it."""
    return torch.cat([parameter.detach().flatten() for parameter in setup.pretrained.model.parameters()])


@dataclasses.dataclass(frozen=True)
class Asking:
    """An objective that cannot be captured."""

    capturable: bool = False

    def prepare(self, whole: Batch) -> Batch:
        return whole

    def __call__(self, forward: Forward, part: Batch, whole: Batch) -> torch.Tensor:
        return forward(part).sum()


def test_what_asks_the_device_is_not_captured(spec: StudySpec) -> None:
    """What may be captured, `test_step` watches at work."""
    setup = set_up(space.trial_config(spec, {}, seed=7), None)
    assert isinstance(setup.step, Step)
    objective, training = setup.step.objective, setup.config.training
    captured = {
        name
        for name in OPTIMIZERS
        if may_capture(training.model_copy(update={"optimizer": name}), setup.pretrained, objective)
    }
    assert captured == {"adamw", "adam", "sgd"}
    assert not may_capture(training, setup.pretrained, Asking())
    assert not may_capture(training, dataclasses.replace(setup.pretrained, capturable=False), objective)
    twice = training.model_copy(update={"activation_checkpointing": True})
    assert not may_capture(twice, setup.pretrained, objective)


# Muon: which matrices are its own.


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra", "roberta", "modernbert", "gpt2"])
def test_hidden_matrices(model_type: str) -> None:
    model = tiny_model(tiny_config(model_type))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden = {names[id(parameter)] for parameter in hidden_matrices(model)}
    assert len(hidden) >= 2 * 4  # of two layers
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}
    kept_out = matrices - hidden
    outside = ("embedding", "classifier", "score", "head", "wte", "wpe")
    assert all(any(part in name for part in outside) for name in kept_out), kept_out
    assert not any("embedding" in name and "project" not in name for name in hidden)
    assert not any(name.startswith(("classifier", "score", "pre_classifier", "head")) for name in hidden)


def test_words_that_are_left_out_stay_embeddings(spec: StudySpec) -> None:
    setup = set_up(space.trial_config(spec, {"optimizer": "muon"}, seed=7), None)
    embedding = setup.pretrained.model.get_input_embeddings()
    assert isinstance(embedding, SeenEmbedding)
    together = setup.step.optimizer
    assert isinstance(together, Together)
    muon, adamw = together.parts
    assert isinstance(muon, Muon) and isinstance(adamw, AdamW)
    of_muon = {id(each) for group in muon.param_groups for each in group["params"]}
    assert id(embedding.weight) not in of_muon and len(of_muon) >= 12
    everything = [each for group in together.param_groups for each in group["params"]]
    assert {id(each) for each in everything} == {id(each) for each in setup.pretrained.model.parameters()}
    assert len(everything) == len({id(each) for each in everything})


def test_a_step_of_muon_by_hand() -> None:
    """Of a diagonal matrix the momentum's direction is that of its signs; AdamW's first step has the same size."""
    matrix, vector = nn.Parameter(torch.eye(16)), nn.Parameter(torch.ones(16))
    groups = [{"params": [matrix], "weight_decay": 0.5}, {"params": [vector], "weight_decay": 0.0}]
    training = settings("muon", adam_epsilon=1e-12)
    optimizer = build_optimizer(groups, training, hidden=[matrix])
    matrix.grad, vector.grad = 3 * torch.eye(16), torch.ones(16)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    # Decay: 1 - 0.01 * 0.5. Orthogonal, whatever the size of the gradient: about 1 on the diagonal (Newton-Schulz
    # leaves 0.68 to 1.13 of it), times 0.2 * sqrt(16).
    off_diagonal = matrix.detach() - torch.diag(torch.diagonal(matrix.detach()))
    assert off_diagonal.abs().max() < 1e-3
    moved = 0.995 - torch.diagonal(matrix.detach())
    assert 0.68 * 0.008 < moved.min() <= moved.max() < 1.14 * 0.008
    torch.testing.assert_close(vector.detach(), torch.full((16,), 0.99))


def test_an_update_of_muon_is_as_large_as_adamws() -> None:
    """By root mean square 0.2 of the learning rate, whatever the shape: what AdamW's are in practice."""
    torch.manual_seed(0)
    for shape in ((64, 64), (64, 256), (256, 64)):
        matrix = nn.Parameter(torch.zeros(shape))
        optimizer = build_optimizer([{"params": [matrix], "weight_decay": 0.0}], settings("muon"), hidden=[matrix])
        matrix.grad = torch.randn(shape)
        set_learning_rate(optimizer, 1e-3)
        optimizer.step()
        assert matrix.detach().square().mean().sqrt().item() == pytest.approx(0.2e-3, rel=0.25)


@pytest.mark.parametrize(("name", "learning_rate"), [("adafactor", 0.1), ("muon", 0.02)])
def test_a_transformer_learns(spec: StudySpec, name: str, learning_rate: float) -> None:
    given: dict[str, Value] = {"optimizer": name, "learning_rate": learning_rate, "num_train_epochs": 8.0}
    _, evaluations = train(space.trial_config(spec, given, seed=7))
    assert evaluations[-1].metrics["eval/accuracy"] > 0.9
    assert evaluations[-1].metrics["eval/loss"] < 0.5 * evaluations[0].metrics["eval/loss"]


def test_adafactor_keeps_hardly_any_state() -> None:
    states = {}
    for name in ("adafactor", "adamw"):
        matrix = nn.Parameter(torch.randn(100, 50))
        optimizer = build_optimizer([{"params": [matrix], "weight_decay": 0.0}], settings(name))
        matrix.grad = torch.randn(100, 50)
        optimizer.step()
        states[name] = sum(tensor.numel() for tensor in optimizer.state[matrix].values())
    assert states == {"adafactor": 100 + 50 + 1, "adamw": 2 * 100 * 50 + 1}
