"""The encoder layer of BERT's family, computed with less around its matrix products.

The same mathematics on the same parameters as transformers' own layers (tests hold the two together): only their
`forward` is replaced, so names, saving and loading stay. What is saved: queries, keys and values are one product, the
input of a layer is cast once, attention on a CPU is our own, and the last layer computes only the row that the head
reads. `python -m benchmarks.step` measures what each of it gives.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.distilbert.modeling_distilbert import TransformerBlock
from transformers.models.electra.modeling_electra import ElectraLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

from hpo.training.attention import attention, one_query_attention
from hpo.training.dropout import dropout


@dataclass(frozen=True)
class PostNormLayer:
    """The parts of a layer by what they do, whatever an architecture calls them (post-norm: Vaswani et al. 2017)."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    """Each an `nn.Linear`, or one with an adapter beside it; as all that follow."""
    num_heads: int
    attention_dropout: float
    attention_output: nn.Module
    attention_output_dropout: float
    attention_norm: nn.LayerNorm
    up: nn.Module
    activation: Callable[[torch.Tensor], torch.Tensor]
    down: nn.Module
    down_dropout: float
    norm: nn.LayerNorm


def _bert(layer: Any) -> PostNormLayer | None:
    if layer.is_decoder or layer.add_cross_attention:
        return None
    attention, output = layer.attention.self, layer.attention.output
    return PostNormLayer(
        query=attention.query,
        key=attention.key,
        value=attention.value,
        num_heads=attention.num_attention_heads,
        attention_dropout=attention.dropout.p,
        attention_output=output.dense,
        attention_output_dropout=output.dropout.p,
        attention_norm=output.LayerNorm,
        up=layer.intermediate.dense,
        activation=layer.intermediate.intermediate_act_fn,
        down=layer.output.dense,
        down_dropout=layer.output.dropout.p,
        norm=layer.output.LayerNorm,
    )


def _distilbert(layer: Any) -> PostNormLayer:
    attention, ffn = layer.attention, layer.ffn
    return PostNormLayer(
        query=attention.q_lin,
        key=attention.k_lin,
        value=attention.v_lin,
        num_heads=attention.n_heads,
        attention_dropout=attention.dropout.p,
        attention_output=attention.out_lin,
        attention_output_dropout=0.0,
        attention_norm=layer.sa_layer_norm,
        up=ffn.lin1,
        activation=ffn.activation,
        down=ffn.lin2,
        down_dropout=ffn.dropout.p,
        norm=layer.output_layer_norm,
    )


PARTS: dict[type[nn.Module], Callable[[Any], PostNormLayer | None]] = {
    BertLayer: _bert,
    ElectraLayer: _bert,
    RobertaLayer: _bert,
    TransformerBlock: _distilbert,
    XLMRobertaLayer: _bert,
}


def replace_layers(model: PreTrainedModel, first_token_only: bool) -> bool:
    """Gives a model's encoder layers the fast `forward`; whether it could.

    Args:
        first_token_only: the head reads the first token's row and no other, so the last layer computes just that one.
    """
    layers = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer) and type(module) in PARTS
    ]
    parts = [PARTS[type(layer)](layer) for layer in layers]
    known = [part for part in parts if part is not None]
    if not layers or len(known) < len(layers):
        return False
    for layer, part in zip(layers, known, strict=True):
        only_first = first_token_only and layer is layers[-1]
        layer.forward = functools.partial(_forward, layer, part, only_first)
    model.register_forward_pre_hook(_bias_of_mask, with_kwargs=True)
    return True


def _bias_of_mask(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """A mask of four dimensions passes through transformers as it is; of two it would look whether all of it is 1."""
    mask = kwargs.get("attention_mask")
    if mask is None:
        return args, kwargs
    bias = torch.zeros(mask.shape, device=mask.device).masked_fill_(mask == 0, -torch.inf)
    return args, kwargs | {"attention_mask": bias[:, None, None, :]}


def _forward(
    module: GradientCheckpointingLayer,
    layer: PostNormLayer,
    first_token_only: bool,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *_: Any,  # of decoders
    **__: Any,
) -> torch.Tensor:
    """What takes the place of the module's own, which would look at these two attributes just so."""
    compute = functools.partial(compute_layer, layer, first_token_only, module.training)
    if module.gradient_checkpointing and module.training:
        again: torch.Tensor = checkpoint(compute, hidden_states, attention_mask, use_reentrant=False)
        return again
    return compute(hidden_states, attention_mask)


def compute_layer(
    layer: PostNormLayer,
    first_token_only: bool,
    training: bool,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """One layer.

    Args:
        hidden_states: [batch, length, hidden], as the layer before left it: float32.
        attention_mask: [batch, 1, 1, length], added to the scores; None where nothing is padding.

    Returns:
        [batch, length, hidden] float32; [batch, 1, hidden] where only the first token is asked for.
    """
    residual = hidden_states[:, :1] if first_token_only else hidden_states
    attention_dropout = layer.attention_dropout if training else 0.0
    context = _attention(layer, first_token_only, _cast(hidden_states), attention_mask, attention_dropout)
    hidden = dropout(layer.attention_output(context), layer.attention_output_dropout, training)
    hidden = layer.attention_norm(residual + hidden)
    expanded = layer.activation(layer.up(_cast(hidden)))
    normed: torch.Tensor = layer.norm(hidden + dropout(layer.down(expanded), layer.down_dropout, training))
    return normed


def _attention(
    layer: PostNormLayer, first_token_only: bool, hidden: torch.Tensor, bias: torch.Tensor | None, dropout_p: float
) -> torch.Tensor:
    if first_token_only:
        query = layer.query(hidden[:, :1].contiguous())
        of_key, of_value = layer.key, layer.value
        if hidden.device.type == "cpu" and _is_plain(of_key) and _is_plain(of_value):
            key_weight, value_weight, value_bias = map(_cast, (of_key.weight, of_value.weight, of_value.bias))
            return one_query_attention(
                query, hidden, key_weight, value_weight, value_bias, layer.num_heads, bias, dropout_p
            )
        key, value = _project(hidden, of_key, of_value)
    else:
        query, key, value = _project(hidden, layer.query, layer.key, layer.value)
    if hidden.device.type == "cpu":
        return attention(query, key, value, layer.num_heads, bias, dropout_p)
    mask = None if bias is None else bias.to(query.dtype)
    query, key, value = (each.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for each in (query, key, value))
    context = functional.scaled_dot_product_attention(query, key, value, mask, dropout_p)
    joined: torch.Tensor = context.transpose(1, 2).flatten(2)
    return joined


def _project(hidden: torch.Tensor, *projections: nn.Module) -> tuple[torch.Tensor, ...]:
    """Of each projection [batch, length, hidden]; all from one matrix product where they are nothing more."""
    plain = [projection for projection in projections if _is_plain(projection)]
    if len(plain) < len(projections):
        return tuple(projection(hidden) for projection in projections)
    weight = torch.cat([_cast(projection.weight) for projection in plain])
    bias = torch.cat([_cast(projection.bias) for projection in plain])
    return functional.linear(hidden, weight, bias).chunk(len(plain), dim=-1)


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether its weight and bias are all there is of it: an adapter has these too, and computes more."""
    return type(module) is nn.Linear


def _cast(tensor: torch.Tensor) -> torch.Tensor:
    """To the precision of the products, once; autocast would do it for each of them."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor
