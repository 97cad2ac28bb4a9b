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
from hpo.training.objectives.base import Around, Context, Forward, Objective

# What is of the partner of each text.
PARTNER = "partner_"
MIXED = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Mixup(Around):
    """What `inner` says by the targets of either text, by their weights. One that is not mixed is its own partner."""

    model: PreTrainedModel
    probability: float
    """Of each text."""

    def prepare(self, whole: Batch) -> Batch:
        """Draws a partner for each text: of the whole batch, also where memory holds no two texts at once."""
        whole = self.inner.prepare(whole)
        device, size = whole["labels"].device, len(whole["labels"])
        drawn = torch.rand((), device=device)
        heavier = torch.maximum(drawn, 1 - drawn)
        own = torch.arange(size, device=device)
        others = torch.rand(size, device=device).argsort()
        partner = torch.where(torch.rand(size, device=device) < self.probability, others, own)
        theirs = {f"{PARTNER}{name}": whole[name][partner] for name in (*TARGETS, *MIXED) if name in whole}
        return whole | theirs | {"heavier": heavier.expand(size)}

    def __call__(self, forward: Forward, part: Batch, whole: Batch) -> torch.Tensor:
        logits = self._mixed(forward, part)
        loss, other = (self.inner(lambda _: logits, of(part), of(whole)) for of in (dict, _of_partners))
        heavier = part["heavier"][0]  # one for all
        return heavier * loss + (1 - heavier) * other

    def _mixed(self, forward: Forward, part: Batch) -> torch.Tensor:
        both = (part["attention_mask"] * part[f"{PARTNER}attention_mask"]).bool()[..., None]

        def mix(module: nn.Module, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
            theirs = module.forward(part[f"{PARTNER}input_ids"])  # a call would come here again
            heavier = part["heavier"][0].to(embedded.dtype)
            return torch.where(both, torch.lerp(theirs, embedded, heavier), embedded)

        hook = self.model.get_input_embeddings().register_forward_hook(mix)
        try:
            return forward(part)
        finally:
            hook.remove()


def _of_partners(batch: Batch) -> Batch:
    """The same, with the targets of the partners."""
    return batch | {name: batch[f"{PARTNER}{name}"] for name in TARGETS if name in batch}


def mixup(inner: Objective, context: Context) -> Objective:
    """`inner` with mixup, if it is asked for."""
    training = context.training
    if training.augment_method != "mixup" or training.augment_probability == 0.0:
        return inner
    return Mixup(inner, context.model, training.augment_probability)
