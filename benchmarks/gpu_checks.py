"""Whether a GPU computes what it should: our layers against transformers', the captured step against the plain one."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.gpu_setup import (
    CountedCapture,
    DeviceData,
    Training,
    build_step,
    free,
    plain_model,
    rates,
    with_fast_layers,
)
from benchmarks.table import Check
from hpo.training.batches import Rows
from hpo.training.device import Device
from hpo.training.graphs import Capture, GraphedStep
from hpo.training.step import Step

LOSS_TOLERANCE = 1e-2
"""Relative, of each loss of a run: how far bf16's rounding may carry two runs apart."""
WEIGHTS_TOLERANCE = 0.05
"""Of what training changed in the weights."""
PARTIAL = 5
"""Examples of a batch that is not full."""


# Layers.


def layers_agree(name: str, data: DeviceData, device: Device) -> list[Check]:
    """Logits and gradients of one batch without dropout, in float32 and, where the device trains in it, in bf16."""
    torch.set_float32_matmul_precision("highest")  # no TF32
    float32 = replace(device, dtype=torch.float32)
    rows = next(data.train.training_rows(32, np.random.default_rng(0)))
    stock = _gradients(plain_model(name, 0.0, device), rows, data, float32)
    fast = _gradients(with_fast_layers(plain_model(name, 0.0, device)), rows, data, float32)
    logits, gradients = _apart(fast[0], stock[0]), _apart(fast[1], stock[1])
    checks = [
        Check(
            f"layers of {name}, float32",
            logits <= 1e-4 and gradients <= 1e-3,
            f"logits {logits:.1e} apart, gradients {gradients:.1e} (relative; at most 1e-4, 1e-3), "
            f"largest {(fast[0] - stock[0]).abs().max():.1e} and {(fast[1] - stock[1]).abs().max():.1e}",
            {"logits": logits, "gradients": gradients},
        )
    ]
    if device.dtype != torch.float32:
        stock_low = _gradients(plain_model(name, 0.0, device), rows, data, device)
        fast_low = _gradients(with_fast_layers(plain_model(name, 0.0, device)), rows, data, device)
        ours, theirs = _apart(fast_low[1], stock[1]), _apart(stock_low[1], stock[1])
        checks.append(
            Check(
                f"layers of {name}, {device.precision}",
                ours <= 2 * theirs,
                f"gradients {ours:.1e} from float32's, transformers' own {theirs:.1e} (at most twice that)",
                {"ours": ours, "theirs": theirs},
            )
        )
    return checks


def _gradients(model: nn.Module, rows: Rows, data: DeviceData, device: Device) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and all gradients as one vector."""
    batch = data.train.gather(rows)
    model.train()
    with device.autocast():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    functional.cross_entropy(logits, batch["labels"]).backward()
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in model.parameters()]
    return logits.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The length of the difference, relative to the other."""
    return float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other))


# Steps.


@dataclass(frozen=True)
class Run:
    """Some steps from the same weights and seed."""

    losses: torch.Tensor
    norms: torch.Tensor
    moved: torch.Tensor
    """All weights, less what they were."""


def run(step: Step | GraphedStep, plain: Step, batches: Sequence[Rows], learning_rates: Sequence[float]) -> Run:
    """Asks the device for nothing before the end, as the loop does."""
    before = _weights(plain)
    plain.model.train()
    torch.manual_seed(0)
    results = [step(rows, rate) for rows, rate in zip(batches, learning_rates, strict=True)]
    losses, norms = (torch.stack(values).cpu() for values in zip(*results, strict=True))
    return Run(losses, norms, (_weights(plain) - before).cpu())


def _weights(step: Step) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in step.model.parameters()])


def recurring_batches(data: DeviceData, device: Device, steps: int, batch_size: int) -> list[Rows]:
    """Batches of a training, every fourth one of a few examples only, padded as far as the longest."""
    batches = data.train.training_rows(batch_size, np.random.default_rng(0))
    return [
        Rows(rows.indices[:PARTIAL].clone(), data.longest) if number % 4 == 3 else rows
        for number, rows in zip(range(steps), batches, strict=False)
    ]


def graphs_agree(name: str, training: Training, data: DeviceData, device: Device, steps: int) -> list[Check]:
    """The captured step against the plain one, and that one against itself, which tells how far chance carries it."""
    batches = recurring_batches(data, device, steps, training.train_batch_size)
    learning_rates = rates(training, steps)
    max_grad_norm = _median_norm(name, training, data, device, batches, learning_rates)
    training = replace(training, max_grad_norm=max_grad_norm)

    def of(capture: Capture | None) -> Run:
        plain = build_step(name, training, data, device)
        return run(plain if capture is None else GraphedStep(plain, capture), plain, batches, learning_rates)

    counted = CountedCapture(device)
    expected, again, captured = of(None), of(None), of(counted)
    free(device)
    values = {
        "loss": _largest_relative(captured.losses, expected.losses),
        "weights": _apart(captured.moved, expected.moved),
        "mean_loss": float((captured.losses.mean() - expected.losses.mean()).abs()),
        "plain_loss": _largest_relative(again.losses, expected.losses),
        "plain_weights": _apart(again.moved, expected.moved),
        "captures": counted.captures,
        "replays": counted.replays,
        "clipped": int((expected.norms > max_grad_norm).sum()),
    }
    equal = torch.equal(captured.losses, expected.losses) and torch.equal(captured.moved, expected.moved)
    plain_equal = torch.equal(again.losses, expected.losses) and torch.equal(again.moved, expected.moved)
    close = values["loss"] <= max(LOSS_TOLERANCE, 3 * values["plain_loss"])
    close = close and values["weights"] <= max(WEIGHTS_TOLERANCE, 3 * values["plain_weights"])
    found = (
        f"{_equality(equal)}, the plain step to itself {_equality(plain_equal)}; losses {values['loss']:.1e} apart, "
        f"weights {values['weights']:.1e} of their change (plain to plain {values['plain_loss']:.1e}, "
        f"{values['plain_weights']:.1e}); {values['clipped']} of {steps} steps clipped, {counted.captures} captures, "
        f"{counted.replays} replays"
    )
    other_masks = training.dropout > 0 and not close and values["mean_loss"] <= 0.05
    if other_masks:
        found += f"; OTHER MASKS than the plain step's, mean losses {values['mean_loss']:.1e} apart"
    return [
        Check(
            f"graphs of {name}, {training.optimizer}, dropout {training.dropout:g}",
            (close or other_masks) and counted.replays > 0,
            found,
            values | {"equal": float(equal), "plain_equal": float(plain_equal)},
        )
    ]


def _median_norm(
    name: str,
    training: Training,
    data: DeviceData,
    device: Device,
    batches: Sequence[Rows],
    learning_rates: Sequence[float],
) -> float:
    """The gradient's norm that every other step exceeds."""
    plain = build_step(name, replace(training, max_grad_norm=None), data, device)
    norms: list[float] = run(plain, plain, batches, learning_rates).norms.tolist()
    return statistics.median(norms)


def _equality(equal: bool) -> str:
    return "equal to the bit" if equal else "NOT equal to the bit"


def _largest_relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(((one - other).abs() / other.abs()).max())


# Memory.


SHARES = (0.0, 0.3, 0.6)
"""Of the memory that a first graph takes. In 0.9 of it one still fitted, on an H200."""


class Starved:
    """A capture that finds so much memory on the device, and no more."""

    def __init__(self, capture: Capture, bytes_left: float) -> None:
        self._capture, self._bytes_left = capture, bytes_left
        self.errors: list[str] = []

    def __call__(self, record: Callable[[], None]) -> Callable[[], None]:
        torch.cuda.empty_cache()  # a capture does so too, and then takes what that gives
        limit = torch.cuda.memory_reserved() + self._bytes_left
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
        try:
            return self._capture(record)
        except Exception as error:
            self.errors.append(type(error).__name__)
            raise
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


class Weighed:
    """A capture, and the memory that the first one took."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.first: int | None = None

    def __call__(self, record: Callable[[], None]) -> Callable[[], None]:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        replay = self._capture(record)
        if self.first is None:
            self.first = torch.cuda.memory_reserved() - before
        return replay


def capture_without_memory(name: str, data: DeviceData, device: Device, steps: int) -> list[Check]:
    """A graph that does not fit leaves the plain step what it was, and the next graph can be captured."""
    training = Training()
    batches, learning_rates = recurring_batches(data, device, steps, 32), rates(training, steps)

    def of(capture: Capture | None) -> torch.Tensor:
        free(device)
        plain = build_step(name, training, data, device)
        return run(plain if capture is None else GraphedStep(plain, capture), plain, batches, learning_rates).moved

    expected, weighed = of(None), Weighed(CountedCapture(device))
    of(weighed)
    assert weighed.first is not None, "some shape must come again"
    checks = []
    for share in SHARES:
        starved = Starved(CountedCapture(device), share * weighed.first)
        apart = _apart(of(starved), expected)
        checks.append(
            Check(
                f"{share:.0%} of a graph's memory, {name}",
                starved.errors == ["OutOfMemoryError"] and apart <= WEIGHTS_TOLERANCE,
                f"of {weighed.first / 2**20:,.0f} MiB; the captures raised {starved.errors}, then plain: "
                f"weights {apart:.1e} of their change apart",
                {"weights": apart, "captures": len(starved.errors), "graph_mib": weighed.first / 2**20},
            )
        )
    counted = CountedCapture(device)
    apart = _apart(of(counted), expected)
    checks.append(
        Check(
            f"captured again afterwards, {name}",
            counted.replays > 0 and apart <= WEIGHTS_TOLERANCE,
            f"weights {apart:.1e} of their change apart, {counted.captures} captures, {counted.replays} replays",
            {"weights": apart, "captures": counted.captures, "replays": counted.replays},
        )
    )
    free(device)
    return checks


def halves_agree(name: str, data: DeviceData, device: Device, batch_size: int = 1024) -> list[Check]:
    """A batch for which there is no memory is taken in parts, and gives the loss and the norm of the whole."""
    training = Training(dropout=0.0)
    rows = data.shortest_rows(batch_size, data.longest, device)
    free(device)
    whole = build_step(name, training, data, device)
    whole.model.train()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss, norm = (float(value) for value in whole(rows, training.learning_rate))
    needed = torch.cuda.max_memory_allocated() - before
    del whole
    free(device)
    parts = build_step(name, training, data, device)
    parts.model.train()
    free(device)
    limit = torch.cuda.memory_reserved() + 0.7 * needed
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    try:
        part_loss, part_norm = (float(value) for value in parts(rows, training.learning_rate))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    size = parts.micro_batch_size
    del parts
    free(device)
    apart, norm_apart = abs(part_loss - loss) / loss, abs(part_norm - norm) / norm
    return [
        Check(
            f"{batch_size} examples of {name} in parts",
            size is not None and size < batch_size and apart <= LOSS_TOLERANCE and norm_apart <= 2 * LOSS_TOLERANCE,
            f"{size} at once in {limit / 2**20:,.0f} MiB (the whole takes {needed / 2**20:,.0f} beside the weights); "
            f"loss {apart:.1e} apart, norm {norm_apart:.1e}",
            {"micro_batch_size": size or batch_size, "loss": apart, "norm": norm_apart, "needed_mib": needed / 2**20},
        )
    ]
