"""A training that is stopped anywhere and gone on with is, to the bit, the training that was never stopped."""

import errno
import os
import pickle
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpo import space
from hpo.spec import StudySpec, TrialConfig
from hpo.training.checkpoint import FORMAT, Checkpoints
from hpo.training.finetune import Progress, finetune
from hpo.training.graphs import GraphedStep
from hpo.training.setup import set_up
from trained import all_weights, restored, stop_and_save, train, what_was_learned

pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.fixture
def config(spec: StudySpec) -> TrialConfig:
    return space.trial_config(spec, {}, seed=7)


def go_on(config: TrialConfig, path: Path) -> tuple[torch.Tensor, list[Any], list[int]]:
    """Weights and evaluations at the end, and the steps that it took."""
    steps = list[int]()
    setup, progress = restored(config, path)
    evaluations = list(finetune(setup, steps.append, progress=progress))
    return all_weights(setup), what_was_learned(evaluations), steps


@pytest.mark.parametrize(
    ("at", "in_evaluation"),
    [
        (1, False),
        (7, False),
        (8, False),  # of 30 steps, evaluated at 8, 15, 23 and 30; two epochs of 15
        (8, True),
        (14, False),
        (15, False),
        (16, False),
        (29, False),
        (30, False),
        (30, True),
    ],
)
def test_it_goes_on_to_the_same_bit(config: TrialConfig, tmp_path: Path, at: int, in_evaluation: bool) -> None:
    weights, evaluations = train(config)
    stop_and_save(config, tmp_path / "0.pt", at, in_evaluation)
    torch.manual_seed(99)  # whatever the next process draws before
    gone_on, again, steps = go_on(config, tmp_path / "0.pt")
    assert torch.equal(gone_on, weights)
    assert again == what_was_learned(evaluations)
    assert steps == list(range(at + 1, 31))
    assert list(tmp_path.iterdir()) == []  # one that has ended needs none


def test_it_may_be_stopped_again_and_again(config: TrialConfig, tmp_path: Path) -> None:
    weights, evaluations = train(config)
    for at in (3, 10, 11, 24):
        stop_and_save(config, tmp_path / "0.pt", at)
    gone_on, again, steps = go_on(config, tmp_path / "0.pt")
    assert torch.equal(gone_on, weights) and again == what_was_learned(evaluations) and len(steps) == 6


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_of_every_optimizer(spec: StudySpec, tmp_path: Path, optimizer: str) -> None:
    config = space.trial_config(spec, {"optimizer": optimizer, "learning_rate": 0.01}, seed=7)
    weights, _ = train(config)
    stop_and_save(config, tmp_path / "0.pt", 13)
    assert torch.equal(go_on(config, tmp_path / "0.pt")[0], weights)


def test_of_an_optimizer_that_was_made_for_another_device(config: TrialConfig, tmp_path: Path) -> None:
    """On a GPU the learning rate is a tensor there, which a captured step reads: it must not become one on the CPU."""
    stop_and_save(config, tmp_path / "0.pt", 10)
    stored = torch.load(tmp_path / "0.pt", weights_only=True)
    for group in stored["optimizer"]["param_groups"]:
        group |= {"lr": torch.tensor(9.0), "capturable": True, "foreach": True}
    torch.save(stored, tmp_path / "0.pt")
    setup, checkpoints = set_up(config, None), Checkpoints(tmp_path / "0.pt", every=60)
    optimizer = setup.step.optimizer
    made = [dict(group) for group in optimizer.param_groups]
    assert checkpoints.restore(setup) is not None
    assert [group | {"params": None} for group in optimizer.param_groups] == [
        group | {"params": None} for group in made
    ]
    assert {float(state["step"]) for state in optimizer.state.values()} == {10.0}


def test_what_fits_into_memory_is_remembered(config: TrialConfig, tmp_path: Path) -> None:
    setup, checkpoints = set_up(config, None), Checkpoints(tmp_path / "0.pt", every=3600)
    setup.step.micro_batch_size = 4
    checkpoints.save(setup, Progress())
    checkpoints.wait()
    again = set_up(config, None)
    assert checkpoints.restore(again) is not None and again.step.micro_batch_size == 4
    assert setup.step.optimizer is not again.step.optimizer


def test_a_step_that_replays_is_restored_through_it(config: TrialConfig) -> None:
    step = set_up(config, None).step
    graphed = GraphedStep(step, lambda record: record)  # type: ignore[arg-type]
    graphed.micro_batch_size = 2
    assert step.micro_batch_size == 2 and graphed.optimizer is step.optimizer


def test_the_training_goes_on_while_it_is_written(config: TrialConfig, tmp_path: Path) -> None:
    """What is written is the state at the call, whatever the training does to its tensors meanwhile."""
    setup, progress, checkpoints = set_up(config, None), Progress(), Checkpoints(tmp_path / "0.pt", every=3600)
    at_ten: list[torch.Tensor] = []

    def save(step: int) -> None:
        if step == 10:
            at_ten.extend(parameter.detach().clone() for parameter in setup.pretrained.model.parameters())
            checkpoints.save(setup, progress)

    list(finetune(setup, save, progress=progress))
    checkpoints.wait()
    again = set_up(config, None)
    restored = checkpoints.restore(again)
    assert restored is not None and restored.global_step == 10
    for parameter, then in zip(again.pretrained.model.parameters(), at_ten, strict=True):
        assert torch.equal(parameter, then)


def test_it_is_due_when_the_time_has_come(config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    checkpoints = Checkpoints(tmp_path / "0.pt", every=60)
    assert not checkpoints.due
    clock[0] += 60
    assert checkpoints.due
    checkpoints.save(set_up(config, None), Progress())
    assert not checkpoints.due


def test_at_the_end_nothing_is_left_not_even_of_attempts_that_were_killed(tmp_path: Path) -> None:
    names = ["0.pt", ".0.pt.17.tmp", ".0.pt.18.tmp", "1.pt", ".1.pt.17.tmp"]
    for name in names:
        (tmp_path / name).touch()
    Checkpoints(tmp_path / "0.pt", every=1).close(keep=True)
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    Checkpoints(tmp_path / "0.pt", every=1).close(keep=False)
    assert {path.name for path in tmp_path.iterdir()} == {"1.pt", ".1.pt.17.tmp"}


@pytest.mark.parametrize("part", ["config", "data", "model"])
def test_of_another_trial_it_is_none(config: TrialConfig, tmp_path: Path, part: str) -> None:
    stop_and_save(config, tmp_path / "0.pt", 10)
    stored = torch.load(tmp_path / "0.pt", weights_only=True)
    stored["of"][part] = "another"
    torch.save(stored, tmp_path / "0.pt")
    assert Checkpoints(tmp_path / "0.pt", every=60).restore(set_up(config, None)) is None


def test_of_another_shape_it_is_none(config: TrialConfig, tmp_path: Path) -> None:
    """Such as that of a model that has got its whole vocabulary back."""
    path = tmp_path / "trial.pt"
    stop_and_save(config, path, at=3)
    state = torch.load(path, weights_only=True)
    name, embedding = next((name, tensor) for name, tensor in state["model"].items() if "word_embeddings" in name)
    state["model"][name] = torch.cat([embedding, embedding[:1]])
    torch.save(state, path)
    setup, checkpoints = set_up(config, None), Checkpoints(path, every=3600)
    assert checkpoints.restore(setup) is None
    checkpoints.close(keep=False)


def test_a_damaged_one_is_none(config: TrialConfig, tmp_path: Path) -> None:
    path = tmp_path / "0.pt"
    stop_and_save(config, path, 10)
    whole = path.read_bytes()
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2], pickle.dumps({"format": FORMAT}, protocol=2)):
        path.write_bytes(content)
        assert Checkpoints(path, every=60).restore(set_up(config, None)) is None


def test_none_is_left_of_a_trial_that_has_ended(config: TrialConfig, tmp_path: Path) -> None:
    """Nor what an earlier attempt of it was writing when it was killed."""
    path = tmp_path / "0.pt"
    stop_and_save(config, path, 10)
    half, others = tmp_path / ".0.pt.77.tmp", tmp_path / ".00.pt.77.tmp"
    for each in (half, others):
        each.touch()
    Checkpoints(path, every=60).close(keep=True)
    assert path.exists()
    Checkpoints(path, every=60).close(keep=False)
    assert list(tmp_path.iterdir()) == [others]


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("evil-was-run",)


def test_nothing_in_it_is_run(config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": FORMAT, "of": Evil()}, tmp_path / "0.pt")
    assert Checkpoints(tmp_path / "0.pt", every=60).restore(set_up(config, None)) is None
    assert not (tmp_path / "evil-was-run").exists()


def test_a_full_disk_is_told_and_leaves_the_one_before(config: TrialConfig, tmp_path: Path) -> None:
    path = tmp_path / "0.pt"
    stop_and_save(config, path, 10)
    before = path.read_bytes()
    setup, checkpoints = set_up(config, None), Checkpoints(path, every=60)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        checkpoints.save(setup, Progress())
        with pytest.raises(Exception) as raised:
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(raised.value, OSError) and raised.value.errno == errno.EFBIG
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_order_of_the_data_goes_on(config: TrialConfig) -> None:
    """What `finetune` relies on: the batches from a step on are those of the whole order."""
    tokens = set_up(config, None).train
    orders = [tokens.training_rows(16, np.random.default_rng(3)) for _ in range(2)]
    whole = [next(orders[0]).indices.tolist() for _ in range(40)]
    for _ in range(17):
        next(orders[1])
    assert [next(orders[1]).indices.tolist() for _ in range(23)] == whole[17:]
