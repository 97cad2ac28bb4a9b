"""Parameter groups, the step of each optimizer, and clipping, against numbers worked out by hand."""

from typing import get_args

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from hpo.spec import TrainingSpec
from hpo.training.optimizer import OPTIMIZERS, build_optimizer, clip_gradients, parameter_groups


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


@pytest.mark.parametrize("name", TWO_STEPS)
def test_two_steps_by_hand(name: str) -> None:
    training = TrainingSpec.model_validate(
        {
            "optimizer": name,
            "learning_rate": 0.1,
            "weight_decay": 0.1,
            "momentum": 0.5,
            "adam_beta1": 0.5,
            "adam_beta2": 0.75,
            "adam_epsilon": 0.5,
        }
    )
    module = one_by_one()
    optimizer = build_optimizer(module, training)
    for gradient, (weight, bias) in zip((0.5, -0.5), TWO_STEPS[name], strict=True):
        set_gradients(module, gradient, gradient)
        optimizer.step()
        assert module.weight.item() == pytest.approx(weight, abs=1e-6)
        assert module.bias.item() == pytest.approx(bias, abs=1e-6)


def test_every_optimizer_of_the_spec_is_here() -> None:
    names = get_args(TrainingSpec.model_fields["optimizer"].annotation)
    assert set(OPTIMIZERS) == set(names) == set(TWO_STEPS)


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
    set_gradients(module, 3.0, 4.0)
    # The norm before clipping: 3^2 + 4^2 = 5^2.
    assert clip_gradients(module, limit).item() == 5.0
    assert module.weight.grad is not None
    assert module.bias.grad is not None
    # Upstream adds 1e-6 to the norm that it divides by.
    assert module.weight.grad.item() == pytest.approx(weight, rel=1e-6)
    assert module.bias.grad.item() == pytest.approx(bias, rel=1e-6)


def test_clipping_passes_over_what_has_no_gradient() -> None:
    module = one_by_one()
    module.bias.requires_grad_(False)
    module.weight.grad = torch.tensor([[-2.0]])
    assert clip_gradients(module, None).item() == 2.0
    assert clip_gradients(module, 1.0).item() == 2.0
    assert module.weight.grad.item() == pytest.approx(-1.0, rel=1e-6)
