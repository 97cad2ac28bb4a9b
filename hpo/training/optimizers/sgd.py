"""Stochastic gradient descent with momentum."""

from torch.optim import SGD, Optimizer

from hpo.training.optimizers.base import OptimizerKind, Request, always


def build(request: Request) -> Optimizer:
    return SGD(request.groups, lr=request.lr, momentum=request.training.momentum, fused=True)


SGD_WITH_MOMENTUM = OptimizerKind(build, capturable=True, decays_in_proportion=always)
