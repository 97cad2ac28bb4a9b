"""AdamW (Loshchilov and Hutter 2019), torch's in one pass over everything."""

from torch.optim import AdamW, Optimizer

from hpo.training.optimizers.base import OptimizerKind, Request, adam_arguments, always


def build(request: Request) -> Optimizer:
    arguments = adam_arguments(request.training)
    return AdamW(request.groups, lr=request.lr, fused=True, capturable=request.capturable, **arguments)


ADAMW = OptimizerKind(build, capturable=True, decays_in_proportion=always)
