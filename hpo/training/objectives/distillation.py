"""Distillation (Hinton et al. 2015): a student learns what teachers say of an example, beside its label."""

from dataclasses import dataclass

import torch

from hpo.training.batches import Batch
from hpo.training.losses import Loss
from hpo.training.objectives.base import Around, Context, Forward, Objective, noting


@dataclass(frozen=True)
class Distillation(Around):
    """`alpha` of the distance to the teachers' predictions, the rest of what is minimized without them; one pass."""

    loss: Loss
    alpha: float
    temperature: float

    def __call__(self, forward: Forward, part: Batch, whole: Batch) -> torch.Tensor:
        noted, predicted = noting(forward)
        hard = self.inner(noted, part, whole)
        soft = self.loss.distance_to_teacher(predicted[-1], part, whole, self.temperature)
        return (1 - self.alpha) * hard + self.alpha * soft


def distillation(inner: Objective, context: Context) -> Objective:
    """`inner` with distillation, if it is asked for; batches have `teacher_logits` then."""
    training = context.training
    if training.distillation_alpha == 0.0:
        return inner
    return Distillation(inner, context.loss, training.distillation_alpha, training.distillation_temperature)
