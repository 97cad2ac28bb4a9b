"""Attention over short rows on a CPU, with a backward pass of its own.

torch's fused attention is slow there once gradients are needed, and composed of autograd's parts it keeps five matrices
of scores a head. Here products are in the precision of the input, on tensors that lie as they need them, and sums over
a row in float32.
"""

from typing import Any

import torch

from hpo.training.dropout import dropout, scaled_mask


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    num_heads: int,
    bias: torch.Tensor | None,
    dropout_p: float,
) -> torch.Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017), with dropout on its weights.

    Args:
        query: [batch, length of the query, hidden], the heads side by side.
        key: [batch, length, hidden].
        value: as `key`.
        bias: [batch, 1, 1, length], added to the scores; it gets no gradient.
        dropout_p: 0 outside of training.

    Returns:
        [batch, length of the query, hidden], of the type of `value`.
    """
    context: torch.Tensor = _Attention.apply(query, key, value, num_heads, bias, dropout_p)  # type: ignore[no-untyped-call]
    return context


def one_query_attention(
    query: torch.Tensor,
    hidden: torch.Tensor,
    key_weight: torch.Tensor,
    value_weight: torch.Tensor,
    value_bias: torch.Tensor,
    num_heads: int,
    bias: torch.Tensor | None,
    dropout_p: float,
) -> torch.Tensor:
    """`attention` of one query a row, without computing keys and values.

    For a hidden state h, q·(K h + k) = (K'q)·h + q·k, and the second part, the same for every h, drops out of the
    softmax. So the query is projected instead of the keys, and the mean of the hidden states instead of the values. The
    bias k gets no gradient, which in exact arithmetic is 0.

    Args:
        query: [batch, 1, hidden], projected.
        hidden: [batch, length, hidden], from which keys and values would be projected.
        key_weight: [hidden, hidden], as `nn.Linear` holds it.
        value_weight: likewise.
        value_bias: [hidden].

    Returns:
        [batch, 1, hidden].
    """
    by_head = query.squeeze(1).unflatten(-1, (num_heads, -1)).transpose(0, 1)
    of_key = torch.bmm(by_head, key_weight.unflatten(0, (num_heads, -1))).transpose(0, 1)
    scores = torch.bmm(of_key, hidden.transpose(1, 2)).float() * by_head.shape[-1] ** -0.5
    weights = torch.softmax(scores if bias is None else scores + bias.squeeze(1), dim=-1).to(hidden.dtype)
    weights = dropout(weights, dropout_p, training=True)
    mean = torch.bmm(weights, hidden).transpose(0, 1)
    of_value = torch.bmm(mean, value_weight.unflatten(0, (num_heads, -1)).transpose(1, 2)).transpose(0, 1)
    # Dropout leaves weights whose sum is not 1, and that many times the bias.
    context: torch.Tensor = of_value + weights.sum(dim=-1, keepdim=True) * value_bias.unflatten(0, (num_heads, -1))
    return context.flatten(1).unsqueeze(1)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        num_heads: int,
        bias: torch.Tensor | None,
        dropout_p: float,
    ) -> torch.Tensor:
        batch = query.shape[0]
        query, key, value = (_apart(tensor, num_heads) for tensor in (query, key, value))
        scale = query.shape[-1] ** -0.5
        scores = torch.bmm(query, key.transpose(1, 2)).unflatten(0, (batch, num_heads)).float()
        scores = scores.mul_(scale) if bias is None else torch.add(bias, scores, alpha=scale)
        weights = torch.softmax(scores, dim=-1).flatten(0, 1).to(value.dtype)
        mask = scaled_mask(weights, dropout_p) if dropout_p > 0.0 else None
        ctx.save_for_backward(query, key, value, weights, mask)
        ctx.batch = batch
        return _together(torch.bmm(weights if mask is None else weights * mask, value), batch)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights, mask = ctx.saved_tensors
        gradient = _apart(gradients[0], query.shape[0] // ctx.batch)
        of_value = torch.bmm((weights if mask is None else weights * mask).transpose(1, 2), gradient)
        of_weights = torch.bmm(gradient, value.transpose(1, 2))
        if mask is not None:
            of_weights.mul_(mask)
        of_scores = torch.ops.aten._softmax_backward_data(of_weights.float(), weights.float(), -1, torch.float32)
        of_scores = of_scores.mul_(query.shape[-1] ** -0.5).to(query.dtype)
        of_query = torch.bmm(of_scores, key)
        of_key = torch.bmm(of_scores.transpose(1, 2), query)
        return (*(_together(gradient, ctx.batch) for gradient in (of_query, of_key, of_value)), None, None, None)


def _apart(tensor: torch.Tensor, num_heads: int) -> torch.Tensor:
    """[batch * heads, length, width], contiguous, of [batch, length, hidden]."""
    heads: torch.Tensor = tensor.unflatten(-1, (num_heads, -1)).transpose(1, 2).flatten(0, 1).contiguous()
    return heads


def _together(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """[batch, length, hidden] of [batch * heads, length, width]."""
    joined: torch.Tensor = tensor.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)
    return joined
