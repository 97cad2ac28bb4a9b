"""Parameter groups, the step of each optimizer, and clipping, against numbers worked out by hand."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from transformers import BertConfig, BertForSequenceClassification

from hpo.training.optimizer import (
    build_optimizer,
    clip_gradients,
    decay_without_gradient,
    decays_in_proportion,
    parameter_groups,
    set_learning_rate,
)
from hpo.training.optimizers import OPTIMIZERS
from hpo.training_spec import TrainingSpec


def one_by_one() -> nn.Linear:
    """A weight, which is decayed, and a bias, which is not; both are 1."""
    module = nn.Linear(1, 1)
    nn.init.ones_(module.weight)
    nn.init.ones_(module.bias)
    return module


def set_gradients(module: nn.Linear, weight: float, bias: float) -> None:
    module.weight.grad = torch.full_like(module.weight, weight)
    module.bias.grad = torch.full_like(module.bias, bias)


def test_groups_cover_every_trained_parameter_once() -> None:
    config = BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    model = BertForSequenceClassification(config)
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    decayed, others = parameter_groups(model, 0.1)

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    in_groups = [names[id(parameter)] for group in (decayed, others) for parameter in group["params"]]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(in_groups) == sorted(trained)
    assert len(trained) == len(names) - 1
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    expected = {name for name in trained if name.endswith(".bias") or "LayerNorm" in name}
    assert {names[id(parameter)] for parameter in others["params"]} == expected


# Each takes two steps with lr 0.1, weight decay 0.1, gradients 0.5 and then -0.5.
TWO_STEPS = {
    # beta1 0.5, beta2 0.75, epsilon 0.5.
    # Step 1: m = 0.25, m/(1-0.5) = 0.5; v = 0.25*0.25 = 0.0625, v/(1-0.75) = 0.25, its root 0.5.
    #   bias: 1 - 0.1 * 0.5/(0.5+0.5) = 0.95;  weight: 1 * (1 - 0.1*0.1) - 0.05 = 0.94
    # Step 2: m = 0.125 - 0.25 = -0.125, /(1-0.25) = -1/6; v = 0.75*0.0625 + 0.0625 = 0.109375, /(1-0.5625) = 0.25.
    #   bias: 0.95 + 0.1 * (1/6)/1 = 0.9666667;  weight: 0.94 * 0.99 + 1/60 = 0.9472667
    "adamw": [(0.94, 0.95), (0.9472667, 0.9666667)],
    # The bias as above. Weight: the decay is part of the gradient.
    # Step 1: g = 0.5 + 0.1*1 = 0.6; 1 - 0.1 * 0.6/(0.6+0.5) = 0.9454545
    # Step 2: g = -0.5 + 0.1*0.9454545 = -0.4054545; m = 0.5*0.3 + 0.5*g = -0.0527273, /0.75 = -0.0703030;
    #   v = 0.75*0.09 + 0.25*0.1643934 = 0.1085983, /0.4375 = 0.2482248, its root 0.4982216;
    #   0.9454545 + 0.1 * 0.0703030/0.9982216 = 0.9524973
    "adam": [(0.9454545, 0.95), (0.9524973, 0.9666667)],
    # Momentum 0.5. Weight: g = 0.5 + 0.1*1 = 0.6, 1 - 0.06 = 0.94; g = -0.5 + 0.094 = -0.406,
    #   buffer 0.5*0.6 - 0.406 = -0.106, 0.94 + 0.0106 = 0.9506. Bias: 0.95; buffer 0.25 - 0.5 = -0.25, 0.975.
    "sgd": [(0.94, 0.95), (0.9506, 0.975)],
}


def settings(name: str, **changed: float) -> TrainingSpec:
    given: dict[str, Any] = {"learning_rate": 0.1, "weight_decay": 0.1, "momentum": 0.5}
    given |= {"adam_beta1": 0.5, "adam_beta2": 0.75, "adam_epsilon": 0.5}
    return TrainingSpec.model_validate({"optimizer": name, **given, **changed})


@pytest.mark.parametrize("name", TWO_STEPS)
def test_two_steps_by_hand(name: str) -> None:
    module = one_by_one()
    optimizer = build_optimizer(parameter_groups(module, 0.1), settings(name))
    for gradient, (weight, bias) in zip((0.5, -0.5), TWO_STEPS[name], strict=True):
        set_gradients(module, gradient, gradient)
        optimizer.step()
        assert module.weight.item() == pytest.approx(weight, abs=1e-6)
        assert module.bias.item() == pytest.approx(bias, abs=1e-6)


@pytest.mark.parametrize(
    ("limit", "weight", "bias"),
    [
        (None, 3.0, 4.0),
        (10.0, 3.0, 4.0),  # a limit above the norm scales nothing up
        (1.0, 0.6, 0.8),  # 3/5 and 4/5
        (2.5, 1.5, 2.0),
    ],
)
def test_clipping(limit: float | None, weight: float, bias: float) -> None:
    module = one_by_one()
    optimizer = SGD(module.parameters(), lr=1.0, fused=True)
    set_gradients(module, 3.0, 4.0)
    # The norm before clipping: 3^2 + 4^2 = 5^2.
    assert clip_gradients(optimizer, limit).item() == 5.0
    optimizer.step()
    # Upstream adds 1e-6 to the norm that it divides by.
    assert module.weight.item() == pytest.approx(1 - weight, rel=1e-6)
    assert module.bias.item() == pytest.approx(1 - bias, rel=1e-6)


def test_clipping_passes_over_what_has_no_gradient() -> None:
    module = one_by_one()
    module.bias.requires_grad_(False)
    module.weight.grad = torch.tensor([[-2.0]])
    optimizer = SGD(module.parameters(), lr=1.0, fused=True)
    assert clip_gradients(optimizer, None).item() == 2.0
    assert clip_gradients(optimizer, 1.0).item() == 2.0
    optimizer.step()
    assert (module.weight.item(), module.bias.item()) == pytest.approx((2.0, 1.0), rel=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("limit", [1e-3, 0.5, 100.0])
def test_clipping_is_that_of_torch(name: str, limit: float) -> None:
    torch.manual_seed(0)
    ours, upstream = (nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)) for _ in range(2))
    upstream.load_state_dict(copy.deepcopy(ours.state_dict()))
    optimizers = [build_optimizer(parameter_groups(module, 0.1), settings(name)) for module in (ours, upstream)]
    for _ in range(3):
        input = torch.randn(4, 7)
        for module in (ours, upstream):
            module.zero_grad()
            module(input).square().sum().backward()
        norm = clip_gradients(optimizers[0], limit)
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(upstream.parameters(), limit))
        for optimizer in optimizers:
            optimizer.step()
    for parameter, expected in zip(ours.parameters(), upstream.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7)


def test_a_norm_that_is_not_finite_is_seen() -> None:
    module = one_by_one()
    set_gradients(module, torch.inf, 1.0)
    optimizer = SGD(module.parameters(), lr=1.0, fused=True)
    assert clip_gradients(optimizer, 1.0).item() == torch.inf
    optimizer.step()
    assert not torch.isfinite(module.weight).item()  # as upstream's, and the next loss tells it


def test_the_learning_rate_of_the_next_step() -> None:
    module = one_by_one()
    for rate in (0.5, torch.tensor(0.5)):  # a tensor, as on a GPU, is changed in place
        optimizer = SGD(module.parameters(), lr=rate)
        held = optimizer.param_groups[0]["lr"]
        set_learning_rate(optimizer, 0.25)
        assert float(optimizer.param_groups[0]["lr"]) == 0.25
        assert (optimizer.param_groups[0]["lr"] is held) == isinstance(rate, torch.Tensor)


@pytest.mark.parametrize(
    ("name", "weight_decay", "factor"),
    [
        ("adamw", 0.1, (1 - 0.1 * 0.1) * (1 - 0.05 * 0.1)),
        # Buffer 0.1, weight 1 - 0.1 * 0.1 = 0.99; buffer 0.05 + 0.099 = 0.149, weight 0.99 - 0.05 * 0.149.
        ("sgd", 0.1, 0.99 - 0.05 * 0.149),
        ("adamw", 0.0, 1.0),
        ("sgd", 0.0, 1.0),
        ("adam", 0.0, 1.0),
    ],
)
def test_what_decay_makes_of_a_weight_without_gradient(name: str, weight_decay: float, factor: float) -> None:
    training = settings(name, weight_decay=weight_decay)
    assert decays_in_proportion(training)
    assert decay_without_gradient(training, [0.1, 0.05])[-1] == pytest.approx(factor, rel=1e-12)


def test_adam_decays_out_of_proportion() -> None:
    assert not decays_in_proportion(settings("adam", weight_decay=0.1))
