"""Every parameter is trained."""

from transformers import PreTrainedModel

from hpo.training.methods.base import Method, train_only
from hpo.training_spec import TrainingSpec


def _prepare(model: PreTrainedModel, training: TrainingSpec) -> None:
    train_only(model, lambda name: True)


FULL = Method(_prepare)
