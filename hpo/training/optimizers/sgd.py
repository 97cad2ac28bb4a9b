"""Stochastic gradient descent with momentum."""

from torch import optim

from hpo.training.optimizers.base import OptimizerKind, Request, always


def build(request: Request) -> optim.Optimizer:
    return optim.SGD(request.groups, lr=request.lr, momentum=request.training.momentum, fused=True)


SGD = OptimizerKind(build, capturable=True, decays_in_proportion=always)
