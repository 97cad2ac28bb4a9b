"""The one training loop, and the evaluation beside it. Knows neither Optuna nor MLflow.

Searching, retraining an exported configuration and the tests all pull from the same generator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hpo.errors import Diverged
from hpo.training.batches import evaluation_order

if TYPE_CHECKING:  # the GPU benchmark runs where there is no pydantic
    from hpo.training.setup import Setup

# Points of the training curves over a whole run: a mean over as many steps as that takes.
CURVE_POINTS = 200


@dataclass(frozen=True)
class CurvePoint:
    """The training between two points of its curves, by optimizer step."""

    global_step: int
    loss: float
    learning_rate: float
    grad_norm: float


@dataclass(frozen=True)
class Evaluation:
    """Validation at the `step`-th of `num_evaluations` equal shares of the budget."""

    step: int
    global_step: int
    epoch: float
    metrics: dict[str, float]
    curve: tuple[CurvePoint, ...]
    examples_per_second: float
    """Of training alone, since the start."""
    memory_mib: float
    micro_batch_size: int | None
    """Examples that went through the model at once, where memory did not hold the whole batch."""


def evaluation_steps(num_training_steps: int, num_evaluations: int) -> dict[int, int]:
    """Optimizer step -> k, for each k-th of the budget; where several fall on one step, the last counts."""
    return {math.ceil(num_training_steps * step / num_evaluations): step for step in range(1, num_evaluations + 1)}


def finetune(setup: Setup, on_step: Callable[[int], None] = lambda global_step: None) -> Iterator[Evaluation]:
    """Steps five and six of a trial: trains, and yields an `Evaluation` at each k-th of the budget.

    Raises:
        Diverged: the training or the validation loss is not finite; seen at the next evaluation, since looking at
            every step would make a GPU wait.
    """
    training, model, device = setup.config.training, setup.pretrained.model, setup.device
    evaluate_at = evaluation_steps(setup.num_training_steps, training.num_evaluations)
    curve_every = max(1, setup.num_training_steps // CURVE_POINTS)
    batches = setup.train.training_rows(training.train_batch_size, np.random.default_rng(setup.config.seed))
    torch.manual_seed(setup.config.seed)  # dropout, whatever was drawn before
    device.reset_peak_memory()
    window: list[tuple[torch.Tensor, torch.Tensor]] = []
    curve: list[tuple[int, torch.Tensor, torch.Tensor, float]] = []
    examples, train_seconds, since, memory = 0, 0.0, time.perf_counter(), 0.0
    model.train()

    for global_step, (rows, learning_rate) in enumerate(zip(batches, setup.learning_rates, strict=False), start=1):
        window.append(setup.step(rows, learning_rate))
        examples += len(rows)
        if global_step % curve_every == 0 or global_step in evaluate_at:
            losses, norms = (torch.stack(values) for values in zip(*window, strict=True))
            curve.append((global_step, losses.mean(), norms.mean(), learning_rate))
            window.clear()
        on_step(global_step)

        if global_step in evaluate_at:
            points = tuple(CurvePoint(at, float(loss), rate, float(norm)) for at, loss, norm, rate in curve)
            curve.clear()
            device.synchronize()
            train_seconds += time.perf_counter() - since
            step = evaluate_at[global_step]
            if not all(math.isfinite(point.loss) for point in points):
                raise Diverged(f"the training loss was not finite at step {global_step}", step, points)
            metrics = evaluate(setup)
            if not math.isfinite(metrics["eval/loss"]):
                raise Diverged(f"the validation loss was not finite at step {global_step}", step, points)
            memory = max(memory, device.memory_mib())
            yield Evaluation(
                step=step,
                global_step=global_step,
                epoch=examples / len(setup.train),
                metrics=metrics,
                curve=points,
                examples_per_second=examples / train_seconds,
                memory_mib=memory,
                micro_batch_size=setup.step.micro_batch_size,
            )
            model.train()
            since = time.perf_counter()


@torch.inference_mode()
def evaluate(setup: Setup) -> dict[str, float]:
    """The task's scores on the validation split, every example once."""
    model, tokens = setup.pretrained.model.eval(), setup.validation

    def predict(batch_size: int) -> tuple[torch.Tensor, NDArray[np.int64]]:
        logits, order = [], evaluation_order(tokens.padded, batch_size)
        for rows in tokens.rows(order):
            batch = tokens.gather(rows)
            with setup.device.autocast():
                output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            logits.append(output.logits.float())
        return torch.cat(logits).cpu(), np.concatenate(order)

    (logits, seen), _ = setup.device.largest_that_fits(setup.config.training.eval_batch_size, predict)
    assert len(seen) == len(tokens)
    return setup.task.metrics(logits.numpy(), tokens.labels[seen])
