"""The members of the extension points whose code loads what a study file need not, by the names that it uses.

A line here adds one. The member is a module of that name in its folder, which holds it as a constant of that name in
capitals. So a study file is checked against these names before anything heavy is imported.
"""

from importlib import import_module
from typing import Any

METHODS = (
    "full",
    "head_only",
    "last_layers",
    "lora",
)
"""`hpo/training/methods/`: what of a model is trained."""
OPTIMIZERS = (
    "adamw",
    "adam",
    "sgd",
    "adafactor",
    "muon",
)
"""`hpo/training/optimizers/`: how the gradient is followed."""

AUGMENTATIONS = (
    "deletion",
    "swap",
    "neighbour",
    "masked_model",
)
"""`hpo/data/augment/`: how the words of the train split are changed."""


def load_members(folder: str, names: tuple[str, ...]) -> dict[str, Any]:
    """The members of a folder, a package by its dotted name."""
    return {name: getattr(import_module(f"{folder}.{name}"), name.upper()) for name in names}
