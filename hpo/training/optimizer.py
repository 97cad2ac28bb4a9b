"""The optimizer of a training: its parameter groups, learning rate, clipping, and what it does without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from hpo.training.optimizers import OPTIMIZERS
from hpo.training.optimizers.base import Groups, Request
from hpo.training.vocabulary import SeenEmbedding

if TYPE_CHECKING:  # the GPU benchmark runs where there is no pydantic
    from hpo.training_spec import TrainingSpec


def parameter_groups(
    model: nn.Module, weight_decay: float, lr_scale: Callable[[str], float] = lambda name: 1.0
) -> Groups:
    """Weight decay for matrices (embeddings included), none for biases and normalisation weights.

    The usual rule since BERT (Devlin et al. 2019): what has fewer than two dimensions is not decayed.

    Args:
        lr_scale: what the learning rate of a parameter is multiplied with, by its name. Each has groups of its own.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = []
    for scale in dict.fromkeys(lr_scale(name) for name, _ in trained):
        scaled = [parameter for name, parameter in trained if lr_scale(name) == scale]
        decayed = [parameter for parameter in scaled if parameter.ndim >= 2]
        others = [parameter for parameter in scaled if parameter.ndim < 2]
        groups += [
            {"params": parameters, "weight_decay": decay, "lr_scale": scale}
            for parameters, decay in ((decayed, weight_decay), (others, 0.0))
            if parameters
        ]
    in_groups = sum(len(group["params"]) for group in groups)
    assert in_groups == len(trained), "every trained parameter stands in exactly one group"
    return groups


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained weight matrices between the embeddings and the head."""
    transformer = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    body: nn.Module = transformer.base_model
    looked_up = {
        id(parameter)
        for module in body.modules()
        if isinstance(module, nn.Embedding | SeenEmbedding)
        for parameter in module.parameters(recurse=False)
    }
    return [
        parameter
        for parameter in body.parameters()
        if parameter.requires_grad and parameter.ndim == 2 and id(parameter) not in looked_up
    ]


def build_optimizer(
    groups: Groups, training: TrainingSpec, device: str = "cpu", hidden: Collection[nn.Parameter] = ()
) -> Optimizer:
    """The optimizer that `training.optimizer` names.

    On a GPU the learning rate and the number of steps are tensors there, so that one captured step serves them all.

    Args:
        hidden: as `hidden_matrices`, for an optimizer that makes a difference between these and others.
    """
    kind = OPTIMIZERS[training.optimizer]
    captured = device == "cuda" and kind.capturable
    lr = torch.tensor(training.learning_rate, device=device) if captured else training.learning_rate
    optimizer = kind.build(Request(groups, training, lr, hidden))
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"] = group["lr"].clone()  # torch gives all groups the same one, and each has a rate of its own
    return optimizer


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """For the next step, in each group times its scale; where it is a tensor, in place."""
    for group in optimizer.param_groups:
        scaled = learning_rate * group.get("lr_scale", 1.0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled


def clip_gradients(optimizer: Optimizer, max_grad_norm: float | None) -> torch.Tensor:
    """The global gradient norm before clipping, on the device; the next step clips unless `max_grad_norm` is None.

    The fused optimizers divide by `grad_scale` on their way (it was made for `torch.amp.GradScaler`), so that no pass
    over all gradients is spent on it; for others the gradients are clipped here. The factor is that of
    `nn.utils.clip_grad_norm_` for all.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if optimizer.defaults.get("fused"):
        optimizer.grad_scale = None if max_grad_norm is None else ((norm + 1e-6) / max_grad_norm).clamp(min=1.0)  # type: ignore[attr-defined]
    elif max_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
    return norm


def decays_in_proportion(training: TrainingSpec) -> bool:
    """Whether a weight that never has a gradient shrinks by a factor that is the same for all: see `OptimizerKind`."""
    return OPTIMIZERS[training.optimizer].decays_in_proportion(training)


def decay_without_gradient(
    training: TrainingSpec, learning_rates: Sequence[float], group: Mapping[str, Any] | None = None
) -> list[float]:
    """That factor before these steps and after each of them, for a matrix: what becomes of a weight of 1.

    Args:
        group: settings of the matrix's parameter group; those of the configuration where it does not say others.
    """
    assert decays_in_proportion(training)
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    settings = {"weight_decay": training.weight_decay, **(group or {})}
    optimizer = build_optimizer([{**settings, "params": [weight]}], training)
    factors = [1.0]
    for learning_rate in learning_rates:
        weight.grad = torch.zeros_like(weight)
        set_learning_rate(optimizer, learning_rate)
        optimizer.step()
        factors.append(float(weight.detach()))
    return factors
