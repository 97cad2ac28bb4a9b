"""The one training loop, and the evaluation beside it. Knows neither Optuna nor MLflow.

Searching, retraining an exported configuration and the tests all pull from the same generator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hpo.errors import Diverged
from hpo.training.batches import Batch, DeviceTokens
from hpo.training.inference import outputs_of

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
    is_last: bool = False
    """Whether the training ends with it: its budget is spent, or it was stopped early."""


@dataclass
class Progress:
    """Where a training stands between two steps: with the tensors of its `Setup`, all that goes into a checkpoint."""

    global_step: int = 0
    examples: int = 0
    seconds: float = 0.0
    """Of training alone, until it was last looked at."""
    evaluating: float = 0.0
    """Seconds of evaluation."""
    since: float | None = None
    """When it was, by `time.perf_counter`, while it trains; None while it evaluates or stands still."""
    memory_mib: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)
    window: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """Loss and gradient norm of the steps since the last point of the curves."""
    curve: list[tuple[int, torch.Tensor, torch.Tensor, float]] = field(default_factory=list)
    """The points since the last evaluation: step, loss, gradient norm and learning rate. Nothing waits for a GPU."""

    @property
    def step(self) -> int:
        """The last evaluation, as the pruner counts them."""
        return self.evaluations[-1].step if self.evaluations else 0

    @property
    def ended(self) -> bool:
        """Whether no step is to come."""
        return bool(self.evaluations) and self.evaluations[-1].is_last

    def look_at_clock(self) -> None:
        """Adds the time since it was last looked at."""
        if self.since is not None:
            now = time.perf_counter()
            self.seconds, self.since = self.seconds + now - self.since, now


def evaluation_steps(num_training_steps: int, num_evaluations: int) -> dict[int, int]:
    """Optimizer step -> k, for each k-th of the budget; where several fall on one step, the last counts."""
    return {math.ceil(num_training_steps * step / num_evaluations): step for step in range(1, num_evaluations + 1)}


def finetune(
    setup: Setup,
    on_step: Callable[[int], None] = lambda global_step: None,
    *,
    progress: Progress | None = None,
    between_batches: Callable[[], None] = lambda: None,
) -> Iterator[Evaluation]:
    """Steps five and six of a trial: trains, and yields an `Evaluation` at each k-th of the budget.

    Args:
        on_step: called after every optimizer step. What it raises ends the training, and `progress` is whole then.
        progress: kept up to date. One that was restored with its `setup` is gone on with: its evaluations come first.
        between_batches: called within an evaluation, which takes longer than a step; may raise as well.

    Raises:
        Diverged: the training or the validation loss is not finite; seen at the next evaluation, since looking at
            every step would make a GPU wait.
    """
    training, model, device = setup.config.training, setup.pretrained.model, setup.device
    now = progress or Progress()
    yield from now.evaluations
    evaluate_at = evaluation_steps(setup.num_training_steps, training.num_evaluations)
    curve_every = max(1, setup.num_training_steps // CURVE_POINTS)
    batches = setup.train.training_rows(training.train_batch_size, np.random.default_rng(setup.config.seed))
    batches = islice(batches, now.global_step, None)
    if now.global_step == 0:
        torch.manual_seed(setup.config.seed)  # dropout, whatever was drawn before
    device.reset_peak_memory()
    now.since = time.perf_counter()
    model.train()

    while True:
        due = evaluate_at.get(now.global_step, 0)
        if due > now.step:
            points = tuple(CurvePoint(at, float(loss), rate, float(norm)) for at, loss, norm, rate in now.curve)
            device.synchronize()
            now.look_at_clock()
            now.since = None
            if not all(math.isfinite(point.loss) for point in points):
                raise Diverged(f"the training loss was not finite at step {now.global_step}", due, points)
            began = time.perf_counter()
            metrics = evaluate(setup, between_batches)
            now.evaluating += time.perf_counter() - began
            if not math.isfinite(metrics["eval/loss"]):
                raise Diverged(f"the validation loss was not finite at step {now.global_step}", due, points)
            now.memory_mib = max(now.memory_mib, device.memory_mib())
            evaluation = Evaluation(
                step=due,
                global_step=now.global_step,
                epoch=now.examples / len(setup.train),
                metrics=metrics,
                curve=points,
                examples_per_second=now.examples / now.seconds,
                memory_mib=now.memory_mib,
                micro_batch_size=setup.step.micro_batch_size,
                is_last=now.global_step == setup.num_training_steps
                or setup.stops_early([*(before.metrics for before in now.evaluations), metrics]),
            )
            now.curve.clear()
            now.evaluations.append(evaluation)
            yield evaluation
            model.train()
            now.since = time.perf_counter()
        if now.ended:
            return

        rows, learning_rate = next(batches), setup.learning_rates[now.global_step]
        now.window.append(setup.step(rows, learning_rate))
        now.global_step += 1
        setup.averages.update(now.global_step)
        now.examples += len(rows)
        if now.global_step % curve_every == 0 or now.global_step in evaluate_at:
            losses, norms = (torch.stack(values) for values in zip(*now.window, strict=True))
            now.curve.append((now.global_step, losses.mean(), norms.mean(), learning_rate))
            now.window.clear()
        on_step(now.global_step)


def evaluate(setup: Setup, between_batches: Callable[[], None] = lambda: None) -> dict[str, float]:
    """The task's scores on the validation split, every example once."""
    logits, seen = _predict(setup, setup.validation, between_batches)
    return setup.task.evaluate(logits, setup.validation.labels[seen], setup.splits.labels)


def predict(
    setup: Setup, tokens: DeviceTokens, between_batches: Callable[[], None] = lambda: None
) -> NDArray[np.float32]:
    """The outputs [examples, classes] of a split, or [words, classes], in the order of its rows."""
    outputs, seen = _predict(setup, tokens, between_batches)
    return tokens.in_order(outputs, seen)


def _predict(
    setup: Setup, tokens: DeviceTokens, between_batches: Callable[[], None]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    model, most = setup.pretrained.model, setup.config.training.eval_batch_size
    model.eval()

    def forward(inputs: Batch) -> torch.Tensor:
        with setup.averages.evaluated(), setup.device.autocast():
            logits: torch.Tensor = model(**inputs).logits
        return logits

    return outputs_of(forward, tokens, most, setup.device, between_batches)
