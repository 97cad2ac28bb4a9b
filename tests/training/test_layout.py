"""A model cut down to some of its layers, of every architecture whose layers have weights of their own."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hpo.errors import DataError
from hpo.training.layout import keep_layers, layout_of
from hpo.training.model import DROPOUT_FIELDS
from models import tiny_config, tiny_model


@pytest.mark.parametrize("model_type", sorted(set(DROPOUT_FIELDS) - {"albert"}))
def test_a_model_cut_to_one_layer_is_that_layer(model_type: str, tmp_path: Path) -> None:
    """Saved, it is loaded again as it was; its layers are the first one, or of four every other one."""
    config = tiny_config(model_type)
    config.num_hidden_layers = 4
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types * 2
    whole = tiny_model(config).eval()
    layout = layout_of(whole)
    layers = list(whole.get_submodule(layout.layers))
    keep_layers(whole, 2, "m")
    assert list(whole.get_submodule(layout.layers)) == [layers[0], layers[2]]
    whole.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.tensor([[2, 5, 9, 3]])
    torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)
    with torch.inference_mode():  # close: where a weight lies in memory decides which kernel multiplies it
        torch.testing.assert_close(again(ids).logits, whole(ids, use_cache=False).logits)
    assert again.config.num_hidden_layers == 2


def test_layers_that_are_one_cannot_be_cut() -> None:
    with pytest.raises(DataError, match="needs a model whose layers have weights of their own"):
        keep_layers(tiny_model(tiny_config("albert")), 1, "m")
