"""What is minimized: functions of logits and labels, by the names that tasks use.

A loss is a mean over a whole batch, also where memory holds only a part of it: each part adds its share, divided by
what the whole batch has to divide by. So the parts' gradients add up to those of the whole, whatever weighs how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from hpo.errors import DataError
from hpo.training.batches import IGNORED, Batch

if TYPE_CHECKING:  # the GPU benchmark runs where there is no pydantic
    from hpo.training_spec import TrainingSpec


class Loss(Protocol):
    """Of logits and labels. `part` is what the logits are of, `whole` the batch that it is a part of, or itself."""

    def __call__(self, logits: torch.Tensor, part: Batch, whole: Batch) -> torch.Tensor:
        """What the part adds to the batch's mean loss, computed in float32."""
        ...

    def divergence(self, one: torch.Tensor, other: torch.Tensor, part: Batch, whole: Batch) -> torch.Tensor:
        """What the part adds to the mean of how far two predictions for the same examples are apart."""
        ...

    def distance_to_teacher(self, logits: torch.Tensor, part: Batch, whole: Batch, temperature: float) -> torch.Tensor:
        """What the part adds to the mean of how far predictions are from the batch's `teacher_logits`.

        Those that are NaN are of words that no teacher has read, and do not count.
        """
        ...

    @staticmethod
    def fused(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """The outputs of the mean of several predictions [teachers, ..., classes]."""
        ...


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """Logits [batch, classes] against labels [batch], or [batch, length, classes] against [batch, length]; int64.

    A mean over the labels that are not `IGNORED`, with class weights a weighted one, as `F.cross_entropy` has it.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "class_weights"})

    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    """[classes]"""

    def __call__(self, logits: torch.Tensor, part: Batch, whole: Batch) -> torch.Tensor:
        total = functional.cross_entropy(
            logits.float().flatten(0, -2),
            part["labels"].flatten(),
            weight=self.class_weights,
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return total / self._weight(whole["labels"])

    def divergence(self, one: torch.Tensor, other: torch.Tensor, part: Batch, whole: Batch) -> torch.Tensor:
        """The mean of the Kullback-Leibler divergences in both directions; class weights do not count here."""
        first, second = functional.log_softmax(one.float(), -1), functional.log_softmax(other.float(), -1)
        both = ((first.exp() - second.exp()) * (first - second)).sum(-1)
        return (both * (part["labels"] != IGNORED)).sum() / 2 / _labelled(whole["labels"])

    def distance_to_teacher(self, logits: torch.Tensor, part: Batch, whole: Batch, temperature: float) -> torch.Tensor:
        """Hinton's: the Kullback-Leibler divergence at this temperature, times its square, so that gradients keep their
        size; class weights and smoothing do not count here."""
        known = _known(part)
        told = part["teacher_logits"].float().masked_fill(~known[..., None], 0.0)
        teacher = functional.log_softmax(told / temperature, -1)
        student = functional.log_softmax(logits.float() / temperature, -1)
        divergences = (teacher.exp() * (teacher - student)).sum(-1)
        return temperature**2 * (divergences * known).sum() / _known(whole).sum().clamp(min=1)

    @staticmethod
    def fused(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logarithm of the mean of their probabilities."""
        from scipy.special import log_softmax, logsumexp  # a GPU benchmark does without

        told = log_softmax(outputs.astype(np.float64), axis=-1)
        return np.asarray(logsumexp(told, axis=0) - np.log(len(outputs)), dtype=np.float32)

    def _weight(self, labels: torch.Tensor) -> torch.Tensor:
        if self.class_weights is None:
            return _labelled(labels)
        weights = self.class_weights[labels.clamp(min=0)] * (labels != IGNORED)
        return weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)

    @staticmethod
    def balanced(labels: NDArray[Any], num_classes: int) -> NDArray[np.float64]:
        """scikit-learn's `balanced`: n / (classes * count). Of a class that never occurs 1."""
        counts = np.bincount(labels[labels != IGNORED], minlength=num_classes)
        return np.where(counts > 0, counts.sum() / (num_classes * np.maximum(counts, 1)), 1.0)


@dataclass(frozen=True, eq=False)
class BinaryCrossEntropy:
    """Logits [batch, classes] against labels of 0 and 1 of that shape: each class is there or not.

    A mean over all that are not NaN, which nobody knows.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "class_weights"})

    label_smoothing: float = 0.0
    """The share of each label that becomes a half."""
    class_weights: torch.Tensor | None = None
    """[classes] Of a class that is there."""

    def __call__(self, logits: torch.Tensor, part: Batch, whole: Batch) -> torch.Tensor:
        known = ~part["labels"].isnan()
        targets = part["labels"].float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(
            logits.float(), targets.masked_fill(~known, 0.0), pos_weight=self.class_weights, reduction="none"
        )
        return (losses * known).sum() / _not_nan(whole["labels"])

    def divergence(self, one: torch.Tensor, other: torch.Tensor, part: Batch, whole: Batch) -> torch.Tensor:
        """The mean of the Kullback-Leibler divergences in both directions, of each class."""
        first, second = one.float(), other.float()  # the difference of log-odds is that of logits
        both = (first.sigmoid() - second.sigmoid()) * (first - second)
        return both.sum() / 2 / whole["labels"].numel()

    def distance_to_teacher(self, logits: torch.Tensor, part: Batch, whole: Batch, temperature: float) -> torch.Tensor:
        """The same as of one class of several, for each class by itself: it is there or not."""
        told, said = part["teacher_logits"].float() / temperature, logits.float() / temperature
        there, absent = (functional.logsigmoid(told), functional.logsigmoid(-told))
        divergences = there.exp() * (there - functional.logsigmoid(said))
        divergences = divergences + absent.exp() * (absent - functional.logsigmoid(-said))
        return temperature**2 * divergences.sum() / whole["teacher_logits"].numel()

    @staticmethod
    def fused(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """The log-odds of the mean of their probabilities, class by class."""
        wide = outputs.astype(np.float64)
        there, absent = (np.logaddexp.reduce(-np.logaddexp(0.0, sign * wide), axis=0) for sign in (-1, 1))
        return np.asarray(there - absent, dtype=np.float32)

    @staticmethod
    def balanced(labels: NDArray[Any], num_classes: int) -> NDArray[np.float64]:
        """Examples without a class to one with it: both weigh the same then. Where one of them never occurs 1."""
        labels = labels[~np.isnan(labels).any(axis=1)]
        there = (labels > 0).sum(axis=0)
        absent = len(labels) - there
        return np.where((there > 0) & (absent > 0), absent / np.maximum(there, 1), 1.0)


@dataclass(frozen=True)
class MeanSquaredError:
    """Logits [batch, 1] against labels [batch] that are numbers, or NaN, which does not count."""

    offers: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, logits: torch.Tensor, part: Batch, whole: Batch) -> torch.Tensor:
        known, labels = ~part["labels"].isnan(), part["labels"].float()
        losses = functional.mse_loss(logits.float().squeeze(-1), labels.masked_fill(~known, 0.0), reduction="none")
        return (losses * known).sum() / _not_nan(whole["labels"])

    def divergence(self, one: torch.Tensor, other: torch.Tensor, part: Batch, whole: Batch) -> torch.Tensor:
        """The mean squared difference."""
        return functional.mse_loss(one.float(), other.float(), reduction="sum") / whole["labels"].numel()

    def distance_to_teacher(self, logits: torch.Tensor, part: Batch, whole: Batch, temperature: float) -> torch.Tensor:
        """The mean squared difference; numbers have no temperature."""
        total = functional.mse_loss(logits.float(), part["teacher_logits"].float(), reduction="sum")
        return total / whole["teacher_logits"].numel()

    @staticmethod
    def fused(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Their mean."""
        return np.asarray(outputs.astype(np.float64).mean(axis=0), dtype=np.float32)


def _labelled(labels: torch.Tensor) -> torch.Tensor:
    """How many there are to learn from; 1 where there are none, for then there is nothing to divide either."""
    return (labels != IGNORED).sum().clamp(min=1)


def _not_nan(labels: torch.Tensor) -> torch.Tensor:
    """How many there are, or 1."""
    return (~labels.isnan()).sum().clamp(min=1)


def _known(batch: Batch) -> torch.Tensor:
    """[batch] or [batch, length] Where the teachers say anything."""
    return ~batch["teacher_logits"].isnan().any(-1)


LOSSES: dict[str, Any] = {
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
    "mean_squared_error": MeanSquaredError,
}


def build_loss(name: str, training: TrainingSpec, labels: NDArray[Any], num_classes: int, device: str) -> Loss:
    """The loss of that name, as the settings would have it.

    Args:
        labels: of the train split, of any shape; those that are `IGNORED` do not count.

    Raises:
        DataError: it has no such setting.
    """
    kind = LOSSES[name]
    asked = {"label_smoothing": training.label_smoothing > 0.0, "class_weights": training.class_weights is not None}
    for setting in (setting for setting, wanted in asked.items() if wanted and setting not in kind.offers):
        raise DataError(
            f"training.{setting} is for tasks that learn classes, but this one learns numbers. Remove it from "
            "`training` and `search_space`."
        )
    settings: dict[str, Any] = {}
    if training.label_smoothing > 0.0:
        settings["label_smoothing"] = training.label_smoothing
    if training.class_weights == "balanced":
        weights = kind.balanced(labels, num_classes)
        settings["class_weights"] = torch.tensor(weights, dtype=torch.float32, device=device)
    loss: Loss = kind(**settings)
    return loss
