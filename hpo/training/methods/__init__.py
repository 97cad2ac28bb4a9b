"""The ways to tune by the names that a study file uses."""

from hpo.training.methods.base import Method
from hpo.training.methods.full import FULL
from hpo.training.methods.head_only import HEAD_ONLY
from hpo.training.methods.last_layers import LAST_LAYERS
from hpo.training.methods.lora import LORA

METHODS: dict[str, Method] = {
    "full": FULL,
    "head_only": HEAD_ONLY,
    "last_layers": LAST_LAYERS,
    "lora": LORA,
}
