"""A training from its beginning to its end, and what is compared of two of them."""

import torch

from hpo.spec import TrialConfig
from hpo.training.finetune import CurvePoint, Evaluation, finetune
from hpo.training.setup import Setup, set_up, trained_model


def train(config: TrialConfig) -> tuple[torch.Tensor, list[Evaluation]]:
    """All weights at the end, in one vector, and the evaluations."""
    setup = set_up(config, None)
    evaluations = list(finetune(setup))
    return all_weights(setup), evaluations


def all_weights(setup: Setup) -> torch.Tensor:
    """Of the whole model, in one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in trained_model(setup).parameters()])


def what_was_learned(evaluations: list[Evaluation]) -> list[tuple[int, int, dict[str, float], tuple[CurvePoint, ...]]]:
    """Evaluations without what a clock or a memory counter says."""
    return [(each.step, each.global_step, each.metrics, each.curve) for each in evaluations]
