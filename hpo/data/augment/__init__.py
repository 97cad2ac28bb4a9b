"""The augmentations by the names that a study file uses."""

from hpo import members
from hpo.data.augment.base import AugmentationKind

AUGMENTATIONS: dict[str, AugmentationKind] = members.load_members(__name__, members.AUGMENTATIONS)
