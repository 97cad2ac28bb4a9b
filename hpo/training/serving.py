"""A trained model as PyTorch, ONNX and ONNX int8 side by side: the same answers, and what they take, on this CPU."""

import json
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from hpo.data.splits import Split, Splits
from hpo.data.tokens import tokenize_split
from hpo.errors import DataError
from hpo.provenance import versions
from hpo.results import ServedModel, Serving
from hpo.spec import ModelSpec, TrialConfig
from hpo.tasks import TASKS
from hpo.tasks.base import Task
from hpo.training.batches import (
    MODEL_INPUTS,
    MOST_EVALUATION_LENGTHS,
    Batch,
    DeviceTokens,
    Rows,
    evaluation_order,
    inputs_of,
)
from hpo.training.device import num_threads
from hpo.training.model import read_checkpoint
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

MODEL, QUANTIZED = "model.onnx", "model.int8.onnx"
NAMES = ("PyTorch", "ONNX", "ONNX int8")
BATCH_SIZE = 32
# What is timed: so many texts alone, of lengths from the shortest to the longest, and so many batches, each so often.
LATENCY_TEXTS, BATCHES, REPEATS = 25, 4, 5
# Of a logit, absolute and as a part of it: float32 in another order of summation, and no more.
TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Trained:
    """A model folder, with the split that it is measured on."""

    folder: Path
    config: TrialConfig
    task: Task
    model: PreTrainedModel
    """With eager attention, for evaluation."""
    tokens: DeviceTokens
    names: Sequence[str]
    """What it takes."""
    split: Split
    classes: tuple[str, ...]


def load_trained(folder: Path, config: TrialConfig, splits: Splits) -> Trained:
    """A folder as `hpo` saved it, on the CPU in float32, and the validation split as tokens.

    Raises:
        DataError: what lies there is not a model of this configuration.
    """
    task = TASKS[config.task]
    found = _labels(folder)
    if found != list(splits.labels):
        raise DataError(
            f"the model must have the labels of its data, but `{folder}` has {', '.join(found)}, and the data "
            f"{', '.join(splits.labels)}. Restore the data, or train it again."
        )
    spec = ModelSpec(name=str(folder.resolve()))
    checkpoint = read_checkpoint(spec, task.auto_model, task.problem_type, task.words, splits.labels, "cpu", ())
    if checkpoint.new_weights:
        raise DataError(
            f"`{folder}` must hold a whole trained model, but got no {checkpoint.new_weights[0]}. Save it anew with "
            "`python -m hpo.train`."
        )
    model = checkpoint.copy(None, "cpu", config.seed)
    tokens = tokenize_split(
        splits.validation,
        checkpoint.tokenizer,
        config.training.max_length,
        fingerprint=splits.fingerprint,
        name="validation",
        cache_dir=None,
    )
    names = input_names(model, types=tokens.token_type_ids is not None)
    if "token_type_ids" not in names:
        tokens = replace(tokens, token_type_ids=None)
    on_cpu = DeviceTokens(tokens, checkpoint.tokenizer.pad_token_id, "cpu", MOST_EVALUATION_LENGTHS)
    return Trained(folder, config, task, model, on_cpu, names, splits.validation, splits.labels)


def _labels(folder: Path) -> list[str]:
    try:
        by_id = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
        return [str(by_id[str(number)]) for number in range(len(by_id))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"--model must be a model folder with a config.json that names its labels, but got `{folder}` ({error!r}). "
            "Give one that hpo saved."
        ) from error


def write_onnx(trained: Trained, folder: Path, *, reduce_range: bool) -> None:
    """Both files into a folder that exists.

    Raises:
        DataError: the architecture cannot be exported, or what comes out computes something else.
    """
    require_onnx()
    export(trained.model, trained.names, folder / MODEL)
    _require_same_longest(trained, onnx_runtime(folder / MODEL))
    quantize(folder / MODEL, folder / QUANTIZED, reduce_range=reduce_range)


def compare(trained: Trained, folder: Path, *, reduce_range: bool) -> Serving:
    """All three on the validation split.

    Raises:
        DataError: the float32 file says anything else than PyTorch.
    """
    _use_fast_attention(trained.model)
    runtimes = {
        NAMES[0]: torch_runtime(trained.model, trained.names),
        NAMES[1]: onnx_runtime(folder / MODEL),
        NAMES[2]: onnx_runtime(folder / QUANTIZED),
    }
    outputs = {name: predict(runtime, trained.tokens) for name, runtime in runtimes.items()}
    _require_same(trained, outputs[NAMES[0]], outputs[NAMES[1]], "the validation split")
    texts = _texts_alone(trained.tokens)
    for batch in texts:
        alone = [runtimes[name](batch).numpy() for name in NAMES[:2]]
        _require_same(trained, alone[0], alone[1], "a text alone")
    latencies = _latencies(runtimes, texts)
    speeds = _speeds(runtimes, trained.tokens)
    files = {NAMES[0]: _weights(trained.folder), NAMES[1]: [folder / MODEL], NAMES[2]: [folder / QUANTIZED]}
    decided, unit = _decisions(trained, list(outputs.values()))
    task, config = trained.task, trained.config
    return Serving(
        at=datetime.now().astimezone().isoformat(timespec="seconds"),
        trial=None,
        metric=config.metric,
        shown=list(dict.fromkeys([config.metric, *(f"eval/{name}" for name in task.shown)])),
        rows=len(trained.split),
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
                metrics=task.evaluate(outputs[name], trained.tokens.labels, trained.classes),
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
    order = evaluation_order(tokens.padded, BATCH_SIZE)
    logits = [tokens.outputs(runtime(inputs_of(tokens.gather(rows))), rows) for rows in tokens.rows(order)]
    return tokens.in_order(torch.cat(logits).float().numpy(), np.concatenate(order))


# Checks


def _use_fast_attention(model: PreTrainedModel) -> None:
    """What transformers takes by itself: PyTorch is measured as it is served."""
    if type(model)._supports_sdpa:
        model.set_attn_implementation("sdpa")


def _require_same_longest(trained: Trained, exported: Runtime) -> None:
    """On as many tokens as the model was trained for, which the validation split may not reach, one row half padded."""
    length = trained.config.training.max_length
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(int(trained.model.config.vocab_size), (2, length), generator=generator)
    pad = trained.model.config.pad_token_id
    ids = torch.where(ids == pad, (ids + 1) % trained.model.config.vocab_size, ids)
    mask = torch.arange(length) < torch.tensor([[length], [max(1, length // 2)]])
    batch = {"input_ids": torch.where(mask, ids, pad), "attention_mask": mask.long()}
    logits = [run(batch) for run in (torch_runtime(trained.model, trained.names), exported)]
    if trained.task.words:  # where there is padding nobody reads
        logits = [each[mask] for each in logits]
    _require_same(trained, logits[0].numpy(), logits[1].numpy(), f"{length} tokens")


def _require_same(trained: Trained, expected: NDArray[np.float32], found: NDArray[np.float32], on: str) -> None:
    if expected.shape == found.shape and np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        return
    same_shape = expected.shape == found.shape
    said = f"differs by {np.abs(found - expected).max():.2g}" if same_shape else f"has the shape {found.shape}"
    raise DataError(
        f"an exported model must compute what the model computes, but of `{trained.model.config.model_type}` it {said} "
        f"in its logits on {on}, so no file was left. Serve it with transformers, or choose another architecture."
    )


def _decisions(trained: Trained, outputs: Sequence[NDArray[np.float32]]) -> tuple[list[NDArray[np.int64]] | None, str]:
    """By model the class of each decision, and what is decided."""
    if trained.task.decisions is None:
        return None, "row"
    decided = trained.task.decisions(
        trained.split, trained.split.labels, trained.classes, tuple(each[None] for each in outputs)
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
