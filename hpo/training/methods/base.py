"""What a way to tune must give the training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from hpo.spec import ModelSpec
from hpo.training_spec import TrainingSpec


def _stays_as_it_is(model: PreTrainedModel, folder: Path, base: ModelSpec) -> None: ...


@dataclass(frozen=True)
class Method:
    """Which parameters are trained, and what becomes of them in the end. Each member is a file of this folder."""

    prepare: Callable[[PreTrainedModel, TrainingSpec], None]
    """Sets `requires_grad` of a pretrained model's parameters; may put modules into it. What pretraining left no values
    for is trained in any case. Raises `DataError` for a model that it cannot be applied to."""
    unload: Callable[[PreTrainedModel, Path, ModelSpec], None] = _stays_as_it_is
    """Makes the trained model one that transformers loads again, and leaves in its folder what else there is of it.
    Told what it was made from."""


def train_only(model: PreTrainedModel, wanted: Callable[[str], bool]) -> None:
    """Trains the parameters whose names are wanted."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(wanted(name))
