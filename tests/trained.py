"""A training from its beginning to its end, and what is compared of two of them."""

from pathlib import Path

import pytest
import torch

from hpo.spec import TrialConfig
from hpo.training.checkpoint import Checkpoints
from hpo.training.finetune import CurvePoint, Evaluation, Progress, finetune
from hpo.training.setup import Setup, set_up, trained_model


def train(config: TrialConfig) -> tuple[torch.Tensor, list[Evaluation]]:
    """All weights at the end, in one vector, and the evaluations."""
    setup = set_up(config, None)
    evaluations = list(finetune(setup))
    return all_weights(setup), evaluations


class Stopped(BaseException):
    """Stands for Ctrl-C, SIGTERM and whatever else ends a training between two steps."""


def stop_and_save(config: TrialConfig, path: Path, at: int, in_evaluation: bool = False) -> Setup:
    """Trains up to a step, or into the evaluation after it, and leaves a checkpoint."""
    setup, progress, checkpoints = set_up(config, None), Progress(), Checkpoints(path, every=3600)
    if (going_on := checkpoints.restore(setup)) is not None:
        progress = going_on

    def stop(step: int) -> None:
        if step == at and not in_evaluation:
            checkpoints.save(setup, progress)
            raise Stopped

    def stop_within() -> None:
        if progress.global_step == at and in_evaluation:
            checkpoints.save(setup, progress)
            raise Stopped

    with pytest.raises(Stopped):
        list(finetune(setup, stop, progress=progress, between_batches=stop_within))
    checkpoints.wait()
    checkpoints.close(keep=True)
    return setup


def restored(config: TrialConfig, path: Path) -> tuple[Setup, Progress]:
    """A new setup where a checkpoint stands, and where that is."""
    setup, checkpoints = set_up(config, None), Checkpoints(path, every=3600)
    progress = checkpoints.restore(setup)
    assert progress is not None
    checkpoints.close(keep=False)
    return setup, progress


def all_weights(setup: Setup) -> torch.Tensor:
    """Of the whole model, in one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in trained_model(setup).parameters()])


def what_was_learned(evaluations: list[Evaluation]) -> list[tuple[int, int, dict[str, float], tuple[CurvePoint, ...]]]:
    """Evaluations without what a clock or a memory counter says."""
    return [(each.step, each.global_step, each.metrics, each.curve) for each in evaluations]
