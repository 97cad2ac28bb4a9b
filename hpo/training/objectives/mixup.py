"""Mixup of embeddings (Zhang et al. 2018, Guo et al. 2019): learns from what lies between two texts, by what is said of
both: labels, and what teachers say.

The word embeddings of a text are mixed with those of another one of its batch, token by token. The heavier of the two
gives all else: the length, the positions, the token types. Where the lighter one has ended, the heavier stands alone,
and what it has beyond is left out; batches are of like lengths. `lambda` is drawn from Beta(1, 1), once a batch.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hpo.training.batches import TARGETS, Batch
from hpo.training.objectives.base import Context, Forward, Objective


@dataclass(frozen=True)
class Mixup:
    """What `inner` says by the targets of either text, by their weights. One that is not mixed is its own partner."""

    inner: Objective
    model: PreTrainedModel
    probability: float
    """Of each text."""

    @property
    def capturable(self) -> bool:
        return self.inner.capturable

    def __call__(self, forward: Forward, part: Batch, whole: Batch) -> torch.Tensor:
        device, size = part["labels"].device, len(part["labels"])
        drawn = torch.rand((), device=device)
        heavier = torch.maximum(drawn, 1 - drawn)
        own = torch.arange(size, device=device)
        others = torch.rand(size, device=device).argsort()
        partner = torch.where(torch.rand(size, device=device) < self.probability, others, own)
        logits = self._mixed(forward, part, heavier, partner)
        theirs = part | {name: part[name][partner] for name in TARGETS if name in part}
        loss, other = (self.inner(lambda _: logits, targets, whole) for targets in (part, theirs))
        return heavier * loss + (1 - heavier) * other

    def _mixed(self, forward: Forward, part: Batch, heavier: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
        there = part["attention_mask"].bool()
        both = (there & there[partner])[..., None]

        def mix(module: nn.Module, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
            return torch.where(both, torch.lerp(embedded[partner], embedded, heavier.to(embedded.dtype)), embedded)

        hook = self.model.get_input_embeddings().register_forward_hook(mix)
        try:
            return forward(part)
        finally:
            hook.remove()


def mixup(inner: Objective, context: Context) -> Objective:
    """`inner` with mixup, if it is asked for."""
    training = context.training
    if training.augment_method != "mixup" or training.augment_probability == 0.0:
        return inner
    return Mixup(inner, context.model, training.augment_probability)
