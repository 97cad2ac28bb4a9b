"""The fast dropout: how much it drops, what it makes up for, and that it repeats itself."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hpo.training.dropout import Dropout, dropout, replace_dropouts, scaled_mask


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_share_and_scale(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mask = scaled_mask(torch.empty(1000, 1001, dtype=dtype), p)
    assert mask.dtype == dtype
    values = mask.unique()
    assert len(values) == 2 and values[0] == 0
    assert values[1].item() == pytest.approx(1 / (1 - p), rel=1e-2 if dtype == torch.bfloat16 else 1e-3)
    # A standard error of sqrt(p (1-p) / 1,001,000) is at most 0.0005.
    assert (mask == 0).double().mean().item() == pytest.approx(p, abs=0.0025)


def test_the_four_elements_of_a_draw_are_independent() -> None:
    torch.manual_seed(0)
    kept = (scaled_mask(torch.empty(4 * 100_000), 0.3) > 0).double().view(-1, 4)
    assert kept.mean(dim=0).tolist() == pytest.approx([0.7] * 4, abs=0.007)  # five standard errors of 0.0014
    correlations = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlations.abs().max() < 0.016  # five of 1 / sqrt(100,000)


def test_it_is_unbiased() -> None:
    torch.manual_seed(0)
    assert scaled_mask(torch.empty(4_000_000), 0.1).double().mean().item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("p", [1e-9, 0.9999999])
def test_the_ends_of_what_a_probability_may_be(p: float) -> None:
    mask = scaled_mask(torch.empty(1000), p)
    assert torch.isfinite(mask).all()
    assert (mask == 0).double().mean().item() == pytest.approx(p, abs=0.01)


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 1), (2, 3, 7)])
def test_sizes_that_four_does_not_divide(shape: tuple[int, ...]) -> None:
    assert scaled_mask(torch.empty(shape), 0.5).shape == shape


def test_what_it_drops_has_no_gradient() -> None:
    input = torch.ones(1000, requires_grad=True)
    output = dropout(input, 0.5, training=True)
    output.sum().backward()
    assert input.grad is not None
    assert torch.equal(input.grad, output.detach())  # both are the mask
    assert set(output.unique().tolist()) == {0.0, 2.0}


def test_the_seed_repeats_it() -> None:
    def drawn() -> torch.Tensor:
        torch.manual_seed(3)
        return dropout(torch.ones(100), 0.5, training=True)

    assert torch.equal(drawn(), drawn())
    assert not torch.equal(drawn(), dropout(torch.ones(100), 0.5, training=True))


def test_nothing_is_dropped_in_evaluation_or_at_zero() -> None:
    input = torch.ones(100)
    assert dropout(input, 0.5, training=False) is input
    assert dropout(input, 0.0, training=True) is input
    assert Dropout(0.5).eval()(input) is input


def test_activation_checkpointing_drops_the_same_elements_twice() -> None:
    """Or the gradient is of another function than the loss."""
    layer = nn.Sequential(nn.Linear(50, 50), Dropout(0.5))
    input = torch.randn(8, 50, requires_grad=True)
    gradients = []
    for use in (True, False):
        torch.manual_seed(0)
        output = checkpoint(layer, input, use_reentrant=False) if use else layer(input)
        gradients.append(torch.autograd.grad(output.square().sum(), input)[0])
    assert torch.equal(*gradients)


def test_every_dropout_of_a_model_is_replaced() -> None:
    model = nn.ModuleDict({"a": nn.Dropout(0.1), "b": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2))}).eval()
    replace_dropouts(model)
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [(type(module), module.p, module.training) for module in found] == [
        (Dropout, 0.1, False),
        (Dropout, 0.2, False),
    ]
