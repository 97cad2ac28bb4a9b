"""Attention over short rows on a CPU, with a backward pass of its own.

torch's fused attention is slow there once gradients are needed, and composed of autograd's parts it keeps five matrices
of scores a head and compiles six products anew for every length. Here the products are float32, which needs no compiled
ones, and what is kept for the backward pass is in the precision of the input.
"""

from typing import Any

import torch

from hpo.training.dropout import scaled_mask


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, dropout_p: float
) -> torch.Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017), with dropout on its weights.

    Args:
        query: [batch, heads, length of the query, width].
        key: [batch, heads, length, width].
        value: as `key`.
        bias: [batch, 1, 1, length], added to the scores; it gets no gradient.
        dropout_p: 0 outside of training.

    Returns:
        [batch, heads, length of the query, width] in the precision of `value`.
    """
    context: torch.Tensor = _Attention.apply(query, key, value, bias, dropout_p)  # type: ignore[no-untyped-call]
    return context


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        dropout_p: float,
    ) -> torch.Tensor:
        scores = torch.matmul(_wide(query), _wide(key).transpose(-1, -2)).mul_(query.shape[-1] ** -0.5)
        weights = torch.softmax(scores if bias is None else scores.add_(bias), dim=-1)
        mask = scaled_mask(weights, dropout_p, value.dtype) if dropout_p > 0.0 else None
        context = torch.matmul(weights if mask is None else weights * mask, _wide(value))
        ctx.save_for_backward(query, key, value, weights.to(value.dtype), mask)
        return context.to(value.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights, mask = ctx.saved_tensors
        gradient, weights, scale = _wide(gradients[0]), _wide(weights), query.shape[-1] ** -0.5
        dropped = weights if mask is None else weights * mask
        of_value = torch.matmul(dropped.transpose(-1, -2), gradient)
        of_weights = torch.matmul(gradient, _wide(value).transpose(-1, -2))
        if mask is not None:
            of_weights.mul_(mask)
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, torch.float32).mul_(scale)
        of_query = torch.matmul(of_scores, _wide(key))
        of_key = torch.matmul(of_scores.transpose(-1, -2), _wide(query))
        return of_query.to(query.dtype), of_key.to(key.dtype), of_value.to(value.dtype), None, None


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float32, memory_format=torch.contiguous_format)
