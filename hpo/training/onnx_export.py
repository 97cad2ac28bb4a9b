"""A trained model as ONNX, in float32 and with int8 weights, and what runs it. The only module that imports onnx."""

import inspect
import logging
import os
import re
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from hpo.errors import DataError, HpoError
from hpo.training.batches import Batch
from hpo.training.device import num_threads

# What computes logits [batch, ...] of a batch's inputs.
Runtime = Callable[[Batch], torch.Tensor]
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# The newest that torch's exporter makes of every architecture here without converting it afterwards.
OPSET = 20
# A file of protobuf holds less than 2 GiB: the weights of larger models lie in a file beside it.
MOST_BYTES_WITHIN = 1_900_000_000
# What is traced: sizes that a batch has by chance, for a size of 1 would be taken for a constant.
TRACED_ROWS, TRACED_LENGTH = 3, 7


def require_onnx() -> dict[str, str]:
    """The versions of the packages of the extra `onnx`. Raises `HpoError` without them."""
    try:
        for package in PACKAGES:
            import_module(package)
    except ImportError as error:
        raise HpoError(
            f"ONNX needs packages that are not installed ({error}). Run `pip install 'hpo[onnx]'`."
        ) from error
    return {package: version(package) for package in PACKAGES}


def input_names(model: PreTrainedModel, *, types: bool) -> list[str]:
    """What the exported model takes, in order.

    Args:
        types: it was trained with token types. One that knows several takes them in any case, for its tokenizer makes
            them; of a single text they are all 0.
    """
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
    several = (getattr(model.config, "type_vocab_size", 0) or 0) > 1
    return ["input_ids", "attention_mask", *(["token_type_ids"] if takes_types and (types or several) else [])]


class _Logits(nn.Module):
    """A model as a function from tensors to its logits."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self.names, tensors, strict=True))).logits
        return logits


def export(model: PreTrainedModel, names: Sequence[str], path: Path) -> None:
    """Writes a model, in evaluation mode and with eager attention, for batches of any size and length.

    Raises:
        DataError: torch's exporter cannot make it of this architecture.
    """
    ids = torch.arange(TRACED_ROWS * TRACED_LENGTH).reshape(TRACED_ROWS, TRACED_LENGTH) % model.config.vocab_size
    mask = (torch.arange(TRACED_LENGTH) < torch.tensor([[TRACED_LENGTH], [TRACED_LENGTH - 2], [2]])).long()
    made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    before = logging.root.manager.disable
    try:
        logging.disable(logging.ERROR)
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # of what torch's own exporter calls
            torch.onnx.export(
                _Logits(model, names),
                tuple(made[name] for name in names),
                str(path),
                input_names=list(names),
                output_names=["logits"],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=(tuple(any_size for _ in names),),
                external_data=size > MOST_BYTES_WITHIN,
                verbose=False,
            )
    except Exception as error:  # whatever the graph of an architecture makes torch raise
        raise DataError(
            f"a model must be of an architecture that torch can export to ONNX, but `{model.config.model_type}` raised "
            f"{_reason(error)}. Serve it with transformers, or choose another architecture."
        ) from error
    finally:
        logging.disable(before)


def quantize(path: Path, to: Path, *, reduce_range: bool) -> None:
    """Writes the same model with int8 weights, whose products are computed in integers; activations are made int8 as
    they come (dynamic quantization). One scale for each column of a weight matrix.

    Args:
        reduce_range: weights have 7 bits. Without instructions for int8 (VNNI) an x86 processor adds two products of
            bytes in 16 bits, which 8-bit weights overflow: it would saturate them, and be wrong in silence.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)  # it recommends a preparation that is of static quantization
        quantize_dynamic(
            path,
            to,
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            use_external_data_format=path.stat().st_size + _external(path) > MOST_BYTES_WITHIN,
        )
    finally:
        logging.disable(before)


def _external(path: Path) -> int:
    return sum(other.stat().st_size for other in path.parent.glob(f"{path.name}.*"))


def file_mib(path: Path) -> float:
    """The size of a model's file, and of what lies beside it."""
    return (path.stat().st_size + _external(path)) / 2**20


def onnx_runtime(path: Path) -> Runtime:
    """ONNX Runtime on this CPU, with the threads that torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads()
    options.log_severity_level = 3
    # Else its threads go on waiting, at full speed, while another model is measured.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(batch: Batch) -> torch.Tensor:
        given = with_types(batch)
        return torch.from_numpy(session.run(["logits"], {name: given[name].numpy() for name in names})[0])

    return run


def torch_runtime(model: PreTrainedModel, names: Sequence[str]) -> Runtime:
    """PyTorch on this CPU, in float32."""

    def run(batch: Batch) -> torch.Tensor:
        given = with_types(batch)
        with torch.inference_mode():
            logits: torch.Tensor = model(**{name: given[name] for name in names}).logits
        return logits

    return run


def with_types(batch: Batch) -> Batch:
    """A single text's token types, which a tokenizer makes and training leaves out, are all 0."""
    return {"token_type_ids": torch.zeros_like(batch["input_ids"]), **batch}


def _reason(error: BaseException) -> str:
    """What it began with, in a line: torch's exporter wraps it several times, in words about itself and in colour."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip().rstrip('.:')[:200]}" if lines else type(error).__name__
