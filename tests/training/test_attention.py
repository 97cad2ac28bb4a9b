"""The attention for a CPU against torch's own, and its gradients against differences of its values."""

import pytest
import torch
from torch.nn import functional

from hpo.training.attention import attention

BIAS = torch.tensor([0.0] * 5 + [-torch.inf, -torch.inf]).expand(2, 1, 1, 7)


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(query_length: int, dtype: torch.dtype = torch.float32) -> Inputs:
    """Queries, keys and values as the layer gives them: views of one tensor that are not contiguous."""
    torch.manual_seed(0)
    made = torch.randn(3, 2, 7, 3, 4, dtype=dtype).transpose(2, 3)
    query, key, value = made
    return query[:, :, :query_length].requires_grad_(), key.requires_grad_(), value.requires_grad_()


@pytest.mark.parametrize("query_length", [7, 1])
@pytest.mark.parametrize("bias", [None, BIAS])
def test_it_is_that_of_torch(query_length: int, bias: torch.Tensor | None) -> None:
    given = inputs(query_length)
    ours = attention(*given, bias, 0.0)
    upstream = functional.scaled_dot_product_attention(*given, attn_mask=bias)
    torch.testing.assert_close(ours, upstream)
    gradients = (torch.autograd.grad(output.square().sum(), given, retain_graph=True) for output in (ours, upstream))
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_what_is_dropped_is_dropped_in_the_gradient() -> None:
    """With a mask that stays the same, the gradient is that of the function with this mask."""
    query, key, value = inputs(7)

    def dropped(value: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return attention(query, key, value, BIAS, 0.5)

    # Linear in the values: the dropped weights themselves, row by row.
    one = torch.eye(7)[:, :4].expand(2, 3, 7, 4)
    weights = dropped(one).detach()
    full = attention(query, key, one, BIAS, 0.0).detach()
    kept = weights > 0
    torch.testing.assert_close(weights[kept], 2 * full[kept])
    assert 0.3 < kept[..., :4].double().mean() < 0.7
    direction = torch.randn_like(query)
    step = 1e-2

    def at(shift: float) -> torch.Tensor:
        torch.manual_seed(5)
        return attention(query + shift * direction, key, value, BIAS, 0.5).double().sum()

    torch.manual_seed(5)
    (gradient,) = torch.autograd.grad(attention(query, key, value, BIAS, 0.5).sum(), query)
    difference = (at(step) - at(-step)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_bf16_goes_in_and_comes_out(dropout_p: float) -> None:
    given = inputs(7, torch.bfloat16)
    output = attention(*given, BIAS, dropout_p)
    assert output.dtype == torch.bfloat16
    assert {gradient.dtype for gradient in torch.autograd.grad(output.float().sum(), given)} == {torch.bfloat16}
    if not dropout_p:
        query, key, value = (each.float() for each in given)
        expected = attention(query, key, value, BIAS, 0.0)
        torch.testing.assert_close(output.float(), expected, rtol=0.01, atol=0.01)
