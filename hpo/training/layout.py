"""Where a model's layers are, and what is below and behind them, whatever its architecture calls them.

By this a method chooses what it trains, and the learning rate falls from layer to layer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from hpo.errors import DataError


@dataclass(frozen=True)
class Layout:
    """A model from its embeddings to its head, by the names of its parts."""

    base: str
    """The pretrained model within the one with a head."""
    layers: str
    """The list of its layers."""
    num_layers: int
    """Those with weights of their own: ALBERT computes one of them many times."""
    head: tuple[str, ...]
    """What stands behind the layers: the head itself, and of the pretrained model the pooler or the last norm."""

    def depth(self, name: str) -> int:
        """Of a parameter: 0 below the layers, 1 in the first one, and one more than there are in the head.

        What several layers read, such as relative positions, is below them.
        """
        if name.startswith(f"{self.layers}."):
            return 1 + int(name.removeprefix(f"{self.layers}.").partition(".")[0])
        return self.num_layers + 1 if self.is_head(name) else 0

    def is_head(self, name: str) -> bool:
        """Whether a parameter stands behind the layers."""
        return not name.startswith(f"{self.base}.") or name.startswith(tuple(f"{module}." for module in self.head))


def layout_of(model: PreTrainedModel) -> Layout:
    """Reads it off a model's modules.

    Raises:
        DataError: it has no list of layers, or several, as an encoder with a decoder.
    """
    base = model.base_model_prefix
    pretrained: nn.Module = getattr(model, base)
    lists = [name for name, module in pretrained.named_modules() if isinstance(module, nn.ModuleList)]
    layers = lists[0] if lists else ""
    if not lists or any(not name.startswith(f"{layers}.") for name in lists[1:]):  # those within a layer are its own
        raise DataError(
            "a method other than full, and layer_lr_decay, need a model that is one stack of layers, but a "
            f"`{model.config.model_type}` model has {'several' if lists else 'none'}. "
            "Use method: full and layer_lr_decay: 1.0."
        )
    children = [name for name, child in pretrained.named_children() if _has_weights(child)]
    behind = children[children.index(layers.partition(".")[0]) + 1 :]
    own = [name for name, child in model.named_children() if name != base and _has_weights(child)]
    num_layers = len(pretrained.get_submodule(layers))  # type: ignore[arg-type]
    return Layout(base, f"{base}.{layers}", num_layers, (*(f"{base}.{name}" for name in behind), *own))


def keep_layers(model: PreTrainedModel, number: int, name: str) -> None:
    """Leaves so many of a model's layers, evenly spaced from the first one on, as DistilBERT was made of every other
    one of BERT's (Sanh et al. 2019), and tells its configuration.

    Raises:
        DataError: it has fewer, or computes one layer many times.
    """
    layout, config = layout_of(model), model.config
    there = config.num_hidden_layers
    if layout.num_layers != there:
        raise DataError(
            f"model.num_hidden_layers needs a model whose layers have weights of their own, but `{name}` is "
            f"`{config.model_type}`, which has {layout.num_layers} for {there}. Remove it, or choose another model."
        )
    if number > there:
        raise DataError(
            f"model.num_hidden_layers must be at most the {there} layers of `{name}`, but got {number}. Lower it."
        )
    kept = [index * there // number for index in range(number)]
    parent, _, attribute = layout.layers.rpartition(".")
    layers = model.get_submodule(layout.layers)
    setattr(model.get_submodule(parent), attribute, nn.ModuleList(layers[index] for index in kept))  # type: ignore[index]
    config.num_hidden_layers = number
    if kinds := getattr(config, "layer_types", None):  # of architectures that have several kinds in turn
        config.layer_types = [kinds[index] for index in kept]


def layer_scales(model: PreTrainedModel, decay: float) -> Callable[[str], float]:
    """What the learning rate of each parameter is multiplied with (Howard and Ruder 2018, Clark et al. 2020).

    The head learns at the full rate, each layer below at `decay` times that of the one above it, the embeddings at the
    lowest.
    """
    if decay == 1.0:
        return lambda name: 1.0
    layout = layout_of(model)
    return lambda name: decay ** (layout.num_layers + 1 - layout.depth(name))


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
