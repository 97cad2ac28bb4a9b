"""Low-rank adapters beside the projections (Hu et al. 2021), by peft, and the head.

The pretrained weights stay as they are. A model folder gets both forms: the adapters merged into the weights, which any
loader reads, and in `adapter/` the adapters alone, for `peft.PeftModel.from_pretrained`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hpo.errors import DataError
from hpo.spec import ModelSpec
from hpo.training.layout import layout_of
from hpo.training.methods.base import Method, train_only
from hpo.training_spec import TrainingSpec

ADAPTER = "adapter"
QUERY_VALUE, ALL_LINEAR = "query_value", "all_linear"
# The projections of queries and values, by architecture; where they are one with the keys', all three. For others peft
# is asked, which does not know all of these.
QUERY_AND_VALUE: dict[str, tuple[str, ...]] = {
    "albert": ("query", "value"),
    "camembert": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
    "modernbert": ("Wqkv",),
    "mpnet": ("q", "v"),
}
# What peft calls a model by its head: it then names the modules of the head by itself.
TASK_TYPES = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
# peft's own name for the adapter of a model that has one.
NAME = "default"


def _prepare(model: PreTrainedModel, training: TrainingSpec) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # only for who uses it

    targets, layout = target_modules(model, training.lora_target_modules), layout_of(model)
    config = LoraConfig(
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,  # type: ignore[arg-type]  # any number
        lora_dropout=training.lora_dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in targets),
    )
    inject_adapter_in_model(config, model, NAME)  # without a wrapper: our hooks and names stay
    train_only(model, lambda name: ".lora_" in name or layout.is_head(name))


def target_modules(model: PreTrainedModel, wanted: str) -> list[str]:
    """The full names of the modules that get an adapter, all within the layers.

    Raises:
        DataError: the model has none of that name.
    """
    within = f"{layout_of(model).layers}."
    linear = [
        name
        for name, module in model.named_modules()
        if name.startswith(within) and isinstance(module, nn.Linear | Conv1D)
    ]
    there = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear))
    if wanted == ALL_LINEAR:
        return linear
    asked = _query_and_value(model.config.model_type) if wanted == QUERY_VALUE else wanted.replace(" ", "").split(",")
    found = {part: [name for name in linear if f".{name}".endswith(f".{part}")] for part in asked}
    missing = [part for part, names in found.items() if not names]
    if not asked or missing:
        got = f"has no {', '.join(missing)}" if missing else "is of an architecture whose queries nobody has named"
        raise DataError(
            f"training.lora_target_modules must name linear layers of the model, but got `{wanted}`, and a "
            f"`{model.config.model_type}` model {got}. Use {ALL_LINEAR}, or some of {there}, with commas between."
        )
    chosen = {name for names in found.values() for name in names}
    return [name for name in linear if name in chosen]


def _query_and_value(model_type: str) -> Sequence[str]:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    known: Any = QUERY_AND_VALUE.get(model_type) or TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
    return known if isinstance(known, list | tuple) else ()


def _unload(model: PreTrainedModel, folder: Path, base: ModelSpec) -> None:
    if base.num_hidden_layers is None:  # or it would be put beside layers that it was not trained with
        _save_adapter(model, folder / ADAPTER, base)
    for name, adapted in _adapted(model):
        adapted.merge()
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, adapted.get_base_layer())
    del model.peft_config


def _adapted(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    yield from [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def _save_adapter(model: PreTrainedModel, folder: Path, base: ModelSpec) -> None:
    """What peft writes of a model that it has wrapped; ours it has not."""
    config: Any = model.peft_config[NAME]
    head = layout_of(model).head
    config.base_model_name_or_path, config.revision = base.name, base.revision
    config.modules_to_save, config.inference_mode = list(head), True
    config.task_type = next((kind for end, kind in TASK_TYPES.items() if type(model).__name__.endswith(end)), None)
    config.save_pretrained(folder)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if f".{NAME}." in name or name.startswith(tuple(f"{module}." for module in head)):
            tensors[f"base_model.model.{name.replace(f'.{NAME}.', '.')}"] = tensor.detach().to("cpu", copy=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


LORA = Method(_prepare, _unload)
