"""The optimizers by the names that a study file uses."""

from hpo.training.optimizers.adafactor import ADAFACTOR
from hpo.training.optimizers.adam import ADAM
from hpo.training.optimizers.adamw import ADAMW
from hpo.training.optimizers.base import OptimizerKind
from hpo.training.optimizers.muon import MUON
from hpo.training.optimizers.sgd import SGD_WITH_MOMENTUM

OPTIMIZERS: dict[str, OptimizerKind] = {
    "adamw": ADAMW,
    "adam": ADAM,
    "sgd": SGD_WITH_MOMENTUM,
    "adafactor": ADAFACTOR,
    "muon": MUON,
}
