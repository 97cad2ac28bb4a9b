"""Muon (Jordan et al. 2024) for the matrices of the hidden layers, AdamW for all else, as one optimizer.

Muon makes the momentum of a matrix orthogonal before it follows it. That is for matrices between the embeddings and the
head alone. Its updates are scaled to the root mean square that AdamW's have (Liu et al. 2025), so that both go by one
learning rate and one weight decay.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import AdamW, Muon, Optimizer

from hpo.training.optimizers.base import Groups, OptimizerKind, Request, adam_arguments, always


class Together(Optimizer):
    """Several optimizers of other parameters each, with one list of groups and one state."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of each."""
        assert closure is None, "nothing is computed twice"
        for part in self.parts:
            part.step()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What `load_state_dict` ends with: groups and state are other objects then."""
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        start = 0
        for part in self.parts:
            end = start + len(part.param_groups)
            part.state, part.param_groups = self.state, self.param_groups[start:end]
            start = end


def build(request: Request) -> Optimizer:
    hidden = {id(parameter) for parameter in request.hidden}
    matrices = _of(request.groups, lambda parameter: id(parameter) in hidden)
    others = _of(request.groups, lambda parameter: id(parameter) not in hidden)
    parts: list[Optimizer] = []
    if matrices:
        assert isinstance(request.lr, float), "what is not captured has no tensor for it"
        momentum = request.training.momentum
        parts.append(Muon(matrices, lr=request.lr, momentum=momentum, adjust_lr_fn="match_rms_adamw"))
    if others:
        parts.append(AdamW(others, lr=request.lr, fused=True, **adam_arguments(request.training)))
    return Together(parts)


def _of(groups: Groups, wanted: Callable[[Any], bool]) -> Groups:
    """The groups with those parameters only, and with all else that they say; without empty ones."""
    chosen = [group | {"params": [each for each in group["params"] if wanted(each)]} for group in groups]
    return [group for group in chosen if group["params"]]


# Muon's step asks the device for the learning rate. Embeddings are AdamW's, row by row.
MUON = OptimizerKind(build, capturable=False, decays_in_proportion=always)
