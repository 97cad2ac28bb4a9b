"""The last `num_trained_layers` layers are trained, and the head. Nothing is passed back below them."""

from transformers import PreTrainedModel

from hpo.errors import DataError
from hpo.training.layout import layout_of
from hpo.training.methods.base import Method, train_only
from hpo.training_spec import TrainingSpec


def _prepare(model: PreTrainedModel, training: TrainingSpec) -> None:
    layout, wanted = layout_of(model), training.num_trained_layers
    if wanted > layout.num_layers:
        shared = " (it computes one several times)" if layout.num_layers < model.config.num_hidden_layers else ""
        raise DataError(
            f"training.num_trained_layers must be at most the model's {layout.num_layers} layers, but got {wanted} for "
            f"a `{model.config.model_type}` model{shared}. Lower it, or use method: full."
        )
    train_only(model, lambda name: layout.depth(name) > layout.num_layers - wanted)


LAST_LAYERS = Method(_prepare)
