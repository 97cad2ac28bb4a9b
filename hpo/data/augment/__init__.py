"""The augmentations, each a file of this folder, by the names that `training.augment_method` has for them."""

from hpo.data.augment.base import AugmentationKind
from hpo.data.augment.deletion import DELETION
from hpo.data.augment.masked_model import MASKED_MODEL
from hpo.data.augment.neighbour import NEIGHBOUR
from hpo.data.augment.swap import SWAP

AUGMENTATIONS: dict[str, AugmentationKind] = {
    "deletion": DELETION,
    "swap": SWAP,
    "neighbour": NEIGHBOUR,
    "masked_model": MASKED_MODEL,
}
