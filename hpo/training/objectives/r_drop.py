"""R-Drop (Liang et al. 2021): two passes that differ by dropout alone shall predict the same."""

from dataclasses import dataclass

import torch
from torch import nn

from hpo.errors import DataError
from hpo.training.batches import Batch
from hpo.training.losses import Loss
from hpo.training.objectives.base import Around, Context, Forward, Objective, noting


@dataclass(frozen=True)
class RDrop(Around):
    """The mean of what is minimized in both passes, and `alpha` times how far their predictions are apart."""

    loss: Loss
    alpha: float

    def __call__(self, forward: Forward, part: Batch, whole: Batch) -> torch.Tensor:
        noted, predicted = noting(forward)
        both = [self.inner(noted, part, whole) for _ in range(2)]
        one, other = predicted
        return (both[0] + both[1]) / 2 + self.alpha * self.loss.divergence(one, other, part, whole)


def r_drop(inner: Objective, context: Context) -> Objective:
    """`inner` with R-Drop, if it is asked for. Without dropout the second pass would be the first one again: no pass.

    Raises:
        DataError: it would do nothing in any trial, for the model has no dropout and the study sets none.
    """
    alpha = context.training.r_drop_alpha
    if alpha == 0.0:
        return inner
    if not has_dropout(context.model):  # nor its adapters
        if context.training.dropout == 0.0:
            return inner
        raise DataError(
            f"training.r_drop_alpha compares two passes that differ by dropout, but `{context.name}` has none of its "
            "own. Set training.dropout, or remove r_drop_alpha."
        )
    return RDrop(inner, context.loss, alpha)


def has_dropout(model: nn.Module) -> bool:
    """Whether two passes of a model in training differ."""
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0.0)
        # Of layers that leave dropout to the attention's function it is only a number.
        or (isinstance(p := getattr(module, "attention_dropout", None), float) and p > 0.0)
        for module in model.modules()
    )
