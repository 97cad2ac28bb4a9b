"""Only what stands behind the layers is trained: the classifier, with the pooler or the last norm before it.

The pretrained layers compute features, and pass nothing back.
"""

from transformers import PreTrainedModel

from hpo.training.layout import layout_of
from hpo.training.methods.base import Method, train_only
from hpo.training_spec import TrainingSpec


def _prepare(model: PreTrainedModel, training: TrainingSpec) -> None:
    layout = layout_of(model)
    train_only(model, layout.is_head)


HEAD_ONLY = Method(_prepare)
