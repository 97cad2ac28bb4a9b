"""The attention for a CPU against torch's own, and its gradients against differences of its values."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from hpo.training.attention import attention, one_query_attention

BATCH, LENGTH, HEADS, WIDTH = 2, 7, 3, 4
HIDDEN = HEADS * WIDTH
BIAS = torch.tensor([0.0] * 5 + [-torch.inf, -torch.inf]).expand(BATCH, 1, 1, LENGTH)


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(query_length: int, dtype: torch.dtype = torch.float32) -> Inputs:
    """Queries, keys and values as the layer gives them: views of one tensor that are not contiguous."""
    torch.manual_seed(0)
    query, key, value = torch.randn(BATCH, LENGTH, 3 * HIDDEN, dtype=dtype).chunk(3, dim=-1)
    return query[:, :query_length].requires_grad_(), key.requires_grad_(), value.requires_grad_()


def upstream(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    query, key, value = (each.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for each in (query, key, value))
    context = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    joined: torch.Tensor = context.transpose(1, 2).flatten(2)
    return joined


def assert_gradient(compute: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> None:
    """Of the sum of `compute`, whose dropout is the same each time, in a random direction."""
    direction, step = torch.randn_like(at), 1e-2

    def total(shift: float) -> torch.Tensor:
        torch.manual_seed(5)
        return compute(at + shift * direction).double().sum()

    (gradient,) = torch.autograd.grad(total(0.0), at)
    difference = (total(step) - total(-step)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("query_length", [LENGTH, 1])
@pytest.mark.parametrize("bias", [None, BIAS])
def test_it_is_that_of_torch(query_length: int, bias: torch.Tensor | None) -> None:
    given = inputs(query_length)
    outputs = attention(*given, HEADS, bias, 0.0), upstream(*given, bias)
    torch.testing.assert_close(*outputs)
    gradients = (torch.autograd.grad(output.square().sum(), given, retain_graph=True) for output in outputs)
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_what_is_dropped_is_dropped_in_the_gradient() -> None:
    """With a mask that stays the same, the gradient is that of the function with this mask."""
    query, key, value = inputs(LENGTH)
    # Linear in the values: the dropped weights themselves, row by row.
    one = torch.eye(LENGTH)[:, :WIDTH].repeat(BATCH, 1, HEADS)
    weights = attention(query, key, one, HEADS, BIAS, 0.5).detach()
    full = attention(query, key, one, HEADS, BIAS, 0.0).detach()
    kept = weights > 0
    torch.testing.assert_close(weights[kept], 2 * full[kept])
    assert 0.3 < kept.double().mean() < 0.7
    assert_gradient(lambda moved: attention(moved, key, value, HEADS, BIAS, 0.5), query)
    assert_gradient(lambda moved: attention(query, moved, value, HEADS, BIAS, 0.5), key)
    assert_gradient(lambda moved: attention(query, key, moved, HEADS, BIAS, 0.5), value)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_bf16_goes_in_and_comes_out(dropout_p: float) -> None:
    given = inputs(LENGTH, torch.bfloat16)
    output = attention(*given, HEADS, BIAS, dropout_p)
    assert output.dtype == torch.bfloat16
    assert {gradient.dtype for gradient in torch.autograd.grad(output.float().sum(), given)} == {torch.bfloat16}
    if not dropout_p:
        query, key, value = (each.float() for each in given)
        expected = attention(query, key, value, HEADS, BIAS, 0.0)
        torch.testing.assert_close(output.float(), expected, rtol=0.02, atol=0.02)


def one_query_inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {
        "query": (BATCH, 1, HIDDEN),
        "hidden": (BATCH, LENGTH, HIDDEN),
        "key_weight": (HIDDEN, HIDDEN),
        "value_weight": (HIDDEN, HIDDEN),
        "value_bias": (HIDDEN,),
    }
    return {name: torch.randn(shape).requires_grad_() for name, shape in shapes.items()}


@pytest.mark.parametrize("bias", [None, BIAS])
def test_one_query_needs_no_keys_and_values(bias: torch.Tensor | None) -> None:
    given = one_query_inputs()
    key_bias = torch.randn(HIDDEN, requires_grad=True)
    key = functional.linear(given["hidden"], given["key_weight"], key_bias)
    value = functional.linear(given["hidden"], given["value_weight"], given["value_bias"])
    ours = one_query_attention(**given, num_heads=HEADS, bias=bias, dropout_p=0.0)
    whole = attention(given["query"], key, value, HEADS, bias, 0.0)
    torch.testing.assert_close(ours, whole)
    expected = torch.autograd.grad(whole.square().sum(), [*given.values(), key_bias])
    gradients = torch.autograd.grad(ours.square().sum(), list(given.values()))
    for gradient, of_whole in zip(gradients, expected, strict=False):
        torch.testing.assert_close(gradient, of_whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(expected[-1], torch.zeros(HIDDEN), rtol=0, atol=1e-3)


def test_one_query_drops_weights_and_their_share_of_the_bias() -> None:
    given = one_query_inputs()
    hidden = given.pop("hidden")

    def dropped(hidden: torch.Tensor) -> torch.Tensor:
        return one_query_attention(hidden=hidden, **given, num_heads=HEADS, bias=BIAS, dropout_p=0.5)

    assert_gradient(dropped, hidden)
    # Values that are 1 whatever the hidden state give the sum of the weights, 0 to 2 times what they were.
    constant = given | {"value_weight": torch.zeros(HIDDEN, HIDDEN), "value_bias": torch.ones(HIDDEN)}
    sums = one_query_attention(hidden=hidden, **constant, num_heads=HEADS, bias=BIAS, dropout_p=0.5)
    assert sums.min() < 0.99 and sums.max() > 1.01
    assert sums.min() >= 0.0 and sums.max() <= 2.0
