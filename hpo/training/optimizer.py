"""The optimizer, its parameter groups, and clipping."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

if TYPE_CHECKING:  # the GPU benchmark runs where there is no pydantic
    from hpo.spec import TrainingSpec


def parameter_groups(
    model: nn.Module, weight_decay: float, lr_scale: Callable[[str], float] = lambda name: 1.0
) -> list[dict[str, Any]]:
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


def _adamw(groups: list[dict[str, Any]], training: TrainingSpec, **where: Any) -> Optimizer:
    return AdamW(groups, fused=True, **_adam_arguments(training), **where)


def _adam(groups: list[dict[str, Any]], training: TrainingSpec, **where: Any) -> Optimizer:
    return Adam(groups, fused=True, **_adam_arguments(training), **where)


def _sgd(groups: list[dict[str, Any]], training: TrainingSpec, lr: Any, capturable: bool) -> Optimizer:
    return SGD(groups, lr=lr, momentum=training.momentum, fused=True)  # has no state that capturing would need


def _adam_arguments(training: TrainingSpec) -> dict[str, Any]:
    return {"betas": (training.adam_beta1, training.adam_beta2), "eps": training.adam_epsilon}


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
}


def build_optimizer(groups: list[dict[str, Any]], training: TrainingSpec, device: str = "cpu") -> Optimizer:
    """The optimizer that `training.optimizer` names.

    On a GPU the learning rate and the number of steps are tensors there, so that one captured step serves them all.
    """
    on_gpu = device == "cuda"
    lr = torch.tensor(training.learning_rate, device=device) if on_gpu else training.learning_rate
    optimizer = OPTIMIZERS[training.optimizer](groups, training, lr=lr, capturable=on_gpu)
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


def lr_scale_of(optimizer: Optimizer, parameter: nn.Parameter) -> float:
    """What the learning rate of a trained parameter is multiplied with."""
    (scale,) = {
        group.get("lr_scale", 1.0) for group in optimizer.param_groups for each in group["params"] if each is parameter
    }
    return float(scale)


def clip_gradients(optimizer: Optimizer, max_grad_norm: float | None) -> torch.Tensor:
    """The global gradient norm before clipping, on the device; the next step clips unless `max_grad_norm` is None.

    The fused optimizers divide by `grad_scale` on their way (it was made for `torch.amp.GradScaler`), so that no pass
    over all gradients is spent on it. The factor is that of `nn.utils.clip_grad_norm_`.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    optimizer.grad_scale = None if max_grad_norm is None else ((norm + 1e-6) / max_grad_norm).clamp(min=1.0)  # type: ignore[attr-defined]
    return norm


def decays_in_proportion(training: TrainingSpec) -> bool:
    """Whether a weight that never has a gradient shrinks by a factor that is the same for all.

    `adam` adds the decay to the gradient and normalizes it, so that small and large weights shrink alike.
    """
    return training.optimizer != "adam" or training.weight_decay == 0.0


def decay_without_gradient(training: TrainingSpec, learning_rates: list[float]) -> float:
    """That factor over these steps, for a matrix: what the optimizer makes of a weight of 1."""
    assert decays_in_proportion(training)
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = build_optimizer([{"params": [weight], "weight_decay": training.weight_decay}], training)
    for learning_rate in learning_rates:
        weight.grad = torch.zeros_like(weight)
        set_learning_rate(optimizer, learning_rate)
        optimizer.step()
    return float(weight.detach())
