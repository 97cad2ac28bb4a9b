"""A trained model as PyTorch, ONNX and ONNX int8 side by side: the same answers, and what they take, on this CPU."""

import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from hpo.data.splits import Split, Splits
from hpo.errors import DataError
from hpo.provenance import versions
from hpo.results import ServedModel, Serving
from hpo.training.batches import (
    MODEL_INPUTS,
    Batch,
    DeviceTokens,
    Rows,
    evaluation_order,
    inputs_of,
)
from hpo.training.device import Device, num_threads
from hpo.training.inference import outputs_of
from hpo.training.onnx_export import (
    Runtime,
    export,
    file_mib,
    input_names,
    onnx_runtime,
    quantize,
    require_onnx,
    torch_runtime,
)
from hpo.training.trained import TrainedModel, read_trained

MODEL, QUANTIZED = "model.onnx", "model.int8.onnx"
NAMES = ("PyTorch", "ONNX", "ONNX int8")
BATCH_SIZE = 32
CPU = Device("cpu", "CPU", torch.float32)
# What is timed: so many texts alone, of lengths from the shortest to the longest, and so many batches, each so often.
LATENCY_TEXTS, BATCHES, REPEATS = 25, 4, 5
# Of a logit, absolute and as a part of it: float32 in another order of summation, and no more.
TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Measured:
    """A trained model, with the split that it is measured on."""

    trained: TrainedModel
    """On the CPU, with eager attention."""
    tokens: DeviceTokens
    names: Sequence[str]
    """What it takes."""
    split: Split


def load_measured(folder: Path, splits: Splits) -> Measured:
    """A folder as `hpo` saved it, on the CPU in float32, and the validation split as tokens.

    Raises:
        DataError: what lies there is no trained model, or one of other labels than the data have.
    """
    trained = read_trained(folder, CPU, fast=False)
    if trained.classes != splits.labels:
        raise DataError(
            f"the model must have the labels of its data, but `{folder}` has {', '.join(trained.classes)}, and the "
            f"data {', '.join(splits.labels)}. Restore the data, or train it again."
        )
    tokens = trained.tokens(splits.validation)
    names = input_names(trained.model, types=tokens.token_type_ids is not None)
    return Measured(trained, trained.on_device(tokens), names, splits.validation)


def write_onnx(measured: Measured, folder: Path, *, reduce_range: bool) -> None:
    """Both files into a folder that exists.

    Raises:
        DataError: the architecture cannot be exported, or what comes out computes something else.
    """
    require_onnx()
    export(measured.trained.model, measured.names, folder / MODEL)
    _require_same_longest(measured, onnx_runtime(folder / MODEL))
    quantize(folder / MODEL, folder / QUANTIZED, reduce_range=reduce_range)


def compare(measured: Measured, folder: Path, *, reduce_range: bool) -> Serving:
    """All three on the validation split.

    Raises:
        DataError: the float32 file says anything else than PyTorch.
    """
    _use_fast_attention(measured.trained.model)
    runtimes = {
        NAMES[0]: torch_runtime(measured.trained.model, measured.names),
        NAMES[1]: onnx_runtime(folder / MODEL),
        NAMES[2]: onnx_runtime(folder / QUANTIZED),
    }
    outputs = {name: predict(runtime, measured.tokens) for name, runtime in runtimes.items()}
    _require_same(measured, outputs[NAMES[0]], outputs[NAMES[1]], "the validation split")
    texts = _texts_alone(measured.tokens)
    for batch in texts:
        alone = [runtimes[name](batch).numpy() for name in NAMES[:2]]
        _require_same(measured, alone[0], alone[1], "a text alone")
    latencies = _latencies(runtimes, texts)
    speeds = _speeds(runtimes, measured.tokens)
    files = {NAMES[0]: _weights(measured.trained.folder), NAMES[1]: [folder / MODEL], NAMES[2]: [folder / QUANTIZED]}
    decided, unit = _decisions(measured, list(outputs.values()))
    task, config = measured.trained.task, measured.trained.config
    return Serving(
        at=datetime.now().astimezone().isoformat(timespec="seconds"),
        trial=None,
        metric=config.metric,
        shown=list(dict.fromkeys([config.metric, *(f"eval/{name}" for name in task.shown)])),
        rows=len(measured.split),
        unit=unit,
        learned=config.train_on_validation,
        reduced_range=reduce_range,
        threads=num_threads(),
        latency_texts=len(texts),
        latency_tokens=int(np.median([batch["input_ids"].shape[1] for batch in texts])),
        batch_size=BATCH_SIZE,
        repeats=REPEATS,
        processor=torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine(),
        versions={name: versions()[name] for name in ("torch", "transformers")} | require_onnx(),
        models=[
            ServedModel(
                name=name,
                file=", ".join(path.name for path in files[name]),
                mib=sum(map(file_mib, files[name])),
                metrics=task.evaluate(outputs[name], measured.tokens.labels, measured.trained.classes),
                equal=None if decided is None else float(np.mean(decided[at] == decided[0])),
                largest_difference=float(np.abs(outputs[name] - outputs[NAMES[0]]).max()),
                latency_ms=latencies[name],
                examples_per_second=speeds[name],
            )
            for at, name in enumerate(NAMES)
        ],
    )


def predict(runtime: Runtime, tokens: DeviceTokens) -> NDArray[np.float32]:
    """The outputs of a split in the order of its rows, as the training loop computes them."""
    return tokens.in_order(*outputs_of(runtime, tokens, BATCH_SIZE, CPU))


# Checks


def _use_fast_attention(model: PreTrainedModel) -> None:
    """What transformers takes by itself: PyTorch is measured as it is served."""
    if type(model)._supports_sdpa:
        model.set_attn_implementation("sdpa")


def _require_same_longest(measured: Measured, exported: Runtime) -> None:
    """On as many tokens as the model was trained for, which the validation split may not reach, one row half padded."""
    length = measured.trained.config.training.max_length
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(int(measured.trained.model.config.vocab_size), (2, length), generator=generator)
    pad = measured.trained.model.config.pad_token_id
    ids = torch.where(ids == pad, (ids + 1) % measured.trained.model.config.vocab_size, ids)
    mask = torch.arange(length) < torch.tensor([[length], [max(1, length // 2)]])
    batch = {"input_ids": torch.where(mask, ids, pad), "attention_mask": mask.long()}
    logits = [run(batch) for run in (torch_runtime(measured.trained.model, measured.names), exported)]
    if measured.trained.task.words:  # where there is padding nobody reads
        logits = [each[mask] for each in logits]
    _require_same(measured, logits[0].numpy(), logits[1].numpy(), f"{length} tokens")


def _require_same(measured: Measured, expected: NDArray[np.float32], found: NDArray[np.float32], on: str) -> None:
    if expected.shape == found.shape and np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        return
    same_shape = expected.shape == found.shape
    said = f"differs by {np.abs(found - expected).max():.2g}" if same_shape else f"has the shape {found.shape}"
    architecture = measured.trained.model.config.model_type
    raise DataError(
        f"an exported model must compute what the model computes, but of `{architecture}` it {said} in its logits on "
        f"{on}, so no file was left. Serve it with transformers, or choose another architecture."
    )


def _decisions(
    measured: Measured, outputs: Sequence[NDArray[np.float32]]
) -> tuple[list[NDArray[np.int64]] | None, str]:
    """By model the class of each decision, and what is decided."""
    if measured.trained.task.decisions is None:
        return None, "row"
    decided = measured.trained.task.decisions(
        measured.split, measured.split.labels, measured.trained.classes, tuple(each[None] for each in outputs)
    )
    return [each[0].argmax(axis=-1) for each in decided.outputs], decided.unit


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


# Times


def _texts_alone(tokens: DeviceTokens) -> list[Batch]:
    """Single texts, of lengths from the shortest to the longest, without padding."""
    by_length = np.argsort(tokens.lengths, kind="stable")
    chosen = by_length[np.unique(np.linspace(0, len(by_length) - 1, LATENCY_TEXTS).round().astype(int))]
    rows = [Rows(torch.tensor([index]), int(tokens.lengths[index])) for index in chosen]
    return [{name: each for name, each in tokens.gather(row).items() if name in MODEL_INPUTS} for row in rows]


def _latencies(runtimes: Mapping[str, Runtime], texts: Sequence[Batch]) -> dict[str, float]:
    """In milliseconds, the median over texts and repeats: one after another on each text, so that what else the machine
    does meets all of them. Each runs twice and the second time counts: the first is slowed by who ran before."""
    seconds: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(REPEATS):
        for batch in texts:
            for name, run in runtimes.items():
                run(batch)
                began = time.perf_counter()
                run(batch)
                seconds[name].append(time.perf_counter() - began)
    return {name: 1000 * statistics.median(each) for name, each in seconds.items()}


def _speeds(runtimes: Mapping[str, Runtime], tokens: DeviceTokens) -> dict[str, float]:
    """Examples a second in batches, the median over repeats, in turn."""
    order = evaluation_order(tokens.padded, BATCH_SIZE)
    chosen = [order[at] for at in np.unique(np.linspace(0, len(order) - 1, BATCHES).round().astype(int))]
    batches = [inputs_of(tokens.gather(rows)) for rows in tokens.rows(chosen)]
    seconds: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(REPEATS):
        round_of = dict.fromkeys(runtimes, 0.0)
        for batch in batches:
            for name, run in runtimes.items():
                began = time.perf_counter()
                run(batch)
                round_of[name] += time.perf_counter() - began
        for name, spent in round_of.items():
            seconds[name].append(spent)
    examples = sum(map(len, chosen))
    return {name: examples / statistics.median(each) for name, each in seconds.items()}
