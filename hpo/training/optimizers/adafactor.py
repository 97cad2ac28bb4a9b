"""Adafactor (Shazeer and Stern 2018): of the squared gradients only the means of rows and columns are kept.

Its learning rate is relative: a matrix moves by that share of its own root mean square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.optim import Adafactor, Optimizer

from hpo.training.optimizers.base import OptimizerKind, Request

if TYPE_CHECKING:  # the GPU benchmark runs where there is no pydantic
    from hpo.training_spec import TrainingSpec


def build(request: Request) -> Optimizer:
    return Adafactor(request.groups, lr=request.lr)


def decays_in_proportion(training: TrainingSpec) -> bool:
    """Every row of a matrix counts in its root mean square and in that of its update, by which all rows are scaled."""
    return False


# Its step asks the device for these, tensor by tensor.
ADAFACTOR = OptimizerKind(build, capturable=False, decays_in_proportion=decays_in_proportion)
