"""The optimizers by the names that a study file uses."""

from hpo import members
from hpo.training.optimizers.base import OptimizerKind

OPTIMIZERS: dict[str, OptimizerKind] = members.load_members(__name__, members.OPTIMIZERS)
