"""When a training ends before its budget is spent, and what is left of it then."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hpo import space
from hpo.settings import Value
from hpo.spec import StudySpec, TrialConfig
from hpo.training.checkpoint import Checkpoints
from hpo.training.early_stopping import stopping_rule
from hpo.training.finetune import Progress, finetune
from hpo.training.setup import set_up, trained_model
from hpo.training.vocabulary import SeenEmbedding
from trained import all_weights, restored, stop_and_save, train, what_was_learned

pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.mark.parametrize(
    ("scores", "patience", "direction", "expected"),
    [
        ([0.5], 1, "maximize", False),
        ([0.5, 0.6], 1, "maximize", False),
        ([0.5, 0.5], 1, "maximize", True),  # as good is no better
        ([0.6, 0.5], 2, "maximize", False),
        ([0.6, 0.5, 0.55], 2, "maximize", True),  # better than the one before, not than the best
        ([0.6, 0.5, 0.7, 0.5], 2, "maximize", False),
        ([0.6, 0.5, 0.7], 2, "minimize", False),
        ([0.6, 0.5, 0.7, 0.5], 2, "minimize", True),
        ([0.6, 0.6, 0.6, 0.6], None, "minimize", False),
    ],
)
def test_the_rule(scores: Sequence[float], patience: int | None, direction: str, expected: bool) -> None:
    rule = stopping_rule(patience, "eval/x", direction)
    assert rule([{"eval/x": score, "eval/y": 0.0} for score in scores]) is expected


@pytest.fixture
def config(spec: StudySpec) -> TrialConfig:
    """Nothing is learned, so that it stops at the third of five evaluations."""
    given = {"learning_rate": 1e-9, "num_evaluations": 5, "early_stopping_patience": 2}
    return space.trial_config(spec, given, seed=7)


def test_it_ends_early_and_says_so(config: TrialConfig) -> None:
    steps: list[int] = []
    evaluations = list(finetune(set_up(config, None), steps.append))
    # Fifths of 30 steps.
    assert [(each.step, each.global_step, each.is_last) for each in evaluations] == [
        (1, 6, False),
        (2, 12, False),
        (3, 18, True),
    ]
    assert steps[-1] == 18


def test_until_then_it_is_the_same_training(config: TrialConfig) -> None:
    """Its schedule too is that of the whole budget."""
    weights, stopped = train(config)
    whole = set_up(
        config.model_copy(update={"training": config.training.model_copy(update={"early_stopping_patience": None})}),
        None,
    )
    evaluations = finetune(whole)
    told = [next(evaluations) for _ in range(3)]
    assert what_was_learned(told) == what_was_learned(stopped)
    assert torch.equal(all_weights(whole), weights)


def test_one_that_gets_better_spends_its_budget(spec: StudySpec) -> None:
    given = {"learning_rate": 3e-3, "num_train_epochs": 6.0, "early_stopping_patience": 2}
    _, evaluations = train(space.trial_config(spec, given, seed=7))
    assert [each.is_last for each in evaluations] == [False, False, False, True]


@pytest.mark.parametrize("at", [13, 18])
def test_a_checkpoint_before_the_end(config: TrialConfig, tmp_path: Path, at: int) -> None:
    weights, evaluations = train(config)
    stop_and_save(config, tmp_path / "0.pt", at)
    again, progress = restored(config, tmp_path / "0.pt")
    assert what_was_learned(list(finetune(again, progress=progress))) == what_was_learned(evaluations)
    assert torch.equal(all_weights(again), weights)


def test_a_checkpoint_of_one_that_has_ended_has_nothing_to_come(config: TrialConfig, tmp_path: Path) -> None:
    setup, progress, checkpoints = set_up(config, None), Progress(), Checkpoints(tmp_path / "0.pt", every=3600)
    evaluations = list(finetune(setup, progress=progress))
    checkpoints.save(setup, progress)
    checkpoints.wait()
    again, steps = set_up(config, None), list[int]()
    told = list(finetune(again, steps.append, progress=checkpoints.restore(again)))
    assert (what_was_learned(told), steps) == (what_was_learned(evaluations), [])


def test_words_that_were_left_out_decayed_as_long_as_it_trained(spec: StudySpec) -> None:
    given: dict[str, Value] = {"learning_rate": 1e-3, "weight_decay": 0.9, "num_evaluations": 5, "warmup_ratio": 0.0}
    given["lr_scheduler_type"] = "constant_with_warmup"
    setup = set_up(space.trial_config(spec, given, seed=7), None)
    assert isinstance(setup.pretrained.model.get_input_embeddings(), SeenEmbedding)
    evaluations = finetune(setup)
    assert [next(evaluations).global_step for _ in range(2)][-1] == 12
    unseen = sorted(set(range(len(setup.pretrained.embeddings))) - set(setup.train.token_ids.tolist()))
    weight = trained_model(setup).get_input_embeddings().get_parameter("weight").detach()
    factor = (1 - 1e-3 * 0.9) ** 12
    torch.testing.assert_close(weight[unseen], setup.pretrained.embeddings[unseen] * factor)
