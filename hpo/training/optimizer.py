"""The optimizer and its parameter groups."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from hpo.spec import TrainingSpec


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices (embeddings included), none for biases and normalisation weights.

    The usual rule since BERT (Devlin et al. 2019): what has fewer than two dimensions is not decayed.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    assert len(decayed) + len(others) == len(trained), "every trained parameter stands in exactly one group"
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _adamw(model: nn.Module, training: TrainingSpec) -> Optimizer:
    return AdamW(parameter_groups(model, training.weight_decay), **_adam_arguments(training))


def _adam(model: nn.Module, training: TrainingSpec) -> Optimizer:
    return Adam(parameter_groups(model, training.weight_decay), **_adam_arguments(training))


def _sgd(model: nn.Module, training: TrainingSpec) -> Optimizer:
    groups = parameter_groups(model, training.weight_decay)
    return SGD(groups, lr=training.learning_rate, momentum=training.momentum, fused=True)


def _adam_arguments(training: TrainingSpec) -> dict[str, Any]:
    return {
        "lr": training.learning_rate,
        "betas": (training.adam_beta1, training.adam_beta2),
        "eps": training.adam_epsilon,
        "fused": True,
    }


OPTIMIZERS: dict[str, Callable[[nn.Module, TrainingSpec], Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
}


def build_optimizer(model: nn.Module, training: TrainingSpec) -> Optimizer:
    """The optimizer that `training.optimizer` names, over every trained parameter exactly once."""
    return OPTIMIZERS[training.optimizer](model, training)


def clip_gradients(model: nn.Module, max_grad_norm: float | None) -> torch.Tensor:
    """The global gradient norm before clipping, on the device; clips unless `max_grad_norm` is None."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if max_grad_norm is None:
        return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return nn.utils.clip_grad_norm_(parameters, max_grad_norm)
