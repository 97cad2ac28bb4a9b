"""Losses against numbers worked out by hand, and against torch's own."""

from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from hpo.errors import DataError
from hpo.tasks import TASKS
from hpo.training.batches import IGNORED, Batch
from hpo.training.losses import (
    LOSSES,
    BinaryCrossEntropy,
    CrossEntropy,
    Loss,
    MeanSquaredError,
    build_loss,
)
from hpo.training_spec import TrainingSpec


def of_labels(labels: Any) -> Batch:
    return {"labels": torch.tensor(labels)}


def value(loss: Loss, logits: Any, labels: Any) -> float:
    batch = of_labels(labels)
    return loss(torch.tensor(logits), batch, batch).item()


def apart(loss: Loss, one: Any, other: Any, labels: Any) -> float:
    batch = of_labels(labels)
    return loss.divergence(torch.tensor(one), torch.tensor(other), batch, batch).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy(dtype: torch.dtype) -> None:
    # log 2 for two equal logits, and log(1 + e^2) for a label two below the other: in the mean
    # (0.6931472 + 2.1269280) / 2.
    logits = torch.tensor([[1, 1], [2, 0]], dtype=dtype, requires_grad=True)
    batch = of_labels([0, 1])
    loss = CrossEntropy()(logits, batch, batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((log(2) + 2.1269280) / 2, rel=1e-6)
    loss.backward()
    assert logits.grad is not None


@pytest.mark.parametrize("size", [1, 2, 7, 16, 31, 32])
@pytest.mark.parametrize("classes", [2, 3, 20])
def test_a_whole_batch_is_torchs_mean_to_the_bit(size: int, classes: int) -> None:
    torch.manual_seed(size)
    ours, upstream = (torch.randn(size, classes).requires_grad_() for _ in range(2))
    upstream.data.copy_(ours.data)
    batch = {"labels": torch.randint(classes, (size,))}
    loss, expected = CrossEntropy()(ours, batch, batch), functional.cross_entropy(upstream, batch["labels"])
    assert torch.equal(loss, expected)
    for each in (loss, expected):
        each.backward()
    assert ours.grad is not None and upstream.grad is not None and torch.equal(ours.grad, upstream.grad)


@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 1.0]])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_of_tokens_it_is_torchs_mean_over_the_labelled_ones(weights: Any, label_smoothing: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5, 3), torch.randint(3, (4, 5))
    labels[0], labels[1, 2:] = IGNORED, IGNORED
    class_weights = None if weights is None else torch.tensor(weights)
    loss = CrossEntropy(label_smoothing, class_weights)(logits, {"labels": labels}, {"labels": labels})
    expected = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), class_weights, label_smoothing=label_smoothing
    )
    torch.testing.assert_close(loss, expected)


def test_nothing_to_learn_from_is_nothing_lost() -> None:
    for loss in (CrossEntropy(), CrossEntropy(class_weights=torch.ones(2))):
        assert value(loss, [[1.0, 2.0]], [IGNORED]) == 0.0


def test_label_smoothing_by_hand() -> None:
    # A tenth is spread over both classes: 0.95 of the label, 0.05 of the other one. Logits 0 and log 3 are 1/4 and 3/4.
    smooth = value(CrossEntropy(label_smoothing=0.1), [[0.0, log(3)]], [1])
    assert smooth == pytest.approx(-0.95 * log(0.75) - 0.05 * log(0.25), rel=1e-6)
    smooth = value(BinaryCrossEntropy(label_smoothing=0.1), [[log(3)]], [[1.0]])  # sigmoid(log 3) = 3/4
    assert smooth == pytest.approx(-0.95 * log(0.75) - 0.05 * log(0.25), rel=1e-6)


def test_class_weights_by_hand() -> None:
    # Equal logits: log 2 each, whatever they weigh. Of 1/4 and 3/4, 1 and 2 of them: (log 4 + 2 * log 4/3) / 3.
    weighted = value(CrossEntropy(class_weights=torch.tensor([1.0, 2.0])), [[0.0, log(3)]] * 2, [0, 1])
    assert weighted == pytest.approx((log(4) + 2 * log(4 / 3)) / 3, rel=1e-6)
    weighted = value(BinaryCrossEntropy(class_weights=torch.tensor([2.0])), [[log(3)], [log(3)]], [[1.0], [0.0]])
    assert weighted == pytest.approx((2 * log(4 / 3) + log(4)) / 2, rel=1e-6)


def test_balanced_is_scikit_learns() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2, 0])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert CrossEntropy.balanced(labels, 3) == pytest.approx(expected)
    of_tokens = np.array([[0, 0, IGNORED, 0], [1, IGNORED, 2, 2], [0, IGNORED, IGNORED, IGNORED]])
    assert CrossEntropy.balanced(of_tokens, 3) == pytest.approx(expected)
    assert CrossEntropy.balanced(np.array([0, 0]), 2).tolist() == [0.5, 1.0]  # the other one never occurs
    # One of three, all of three, none of three.
    assert BinaryCrossEntropy.balanced(np.array([[1.0, 1, 0], [0, 1, 0], [0, 1, 0]]), 3).tolist() == [2.0, 1.0, 1.0]


def test_binary_cross_entropy_is_torchs() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(5, 4), torch.randint(2, (5, 4)).float(), torch.rand(4)
    batch = {"labels": labels}
    for loss, pos_weight in ((BinaryCrossEntropy(), None), (BinaryCrossEntropy(class_weights=weights), weights)):
        expected = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=pos_weight)
        torch.testing.assert_close(loss(logits, batch, batch), expected)


def test_mean_squared_error() -> None:
    # 1 and 3 apart: (1 + 9) / 2.
    assert value(MeanSquaredError(), [[2.0], [-1.0]], [1.0, 2.0]) == 5.0


def test_divergence_by_hand() -> None:
    # 1/4, 3/4 and 1/2, 1/2: the Kullback-Leibler divergences are 1/4 log 1/2 + 3/4 log 3/2 and 1/2 log 2 + 1/2 log 2/3.
    one, other = [0.0, log(3)], [0.0, 0.0]
    both = (0.25 * log(0.5) + 0.75 * log(1.5) + 0.5 * log(2) + 0.5 * log(2 / 3)) / 2
    assert apart(CrossEntropy(), [one], [other], [0]) == pytest.approx(both, rel=1e-5)
    assert apart(CrossEntropy(), [one, one], [other, one], [0, 0]) == pytest.approx(both / 2, rel=1e-5)
    assert apart(CrossEntropy(), [one, one], [other, one], [0, IGNORED]) == pytest.approx(both, rel=1e-5)
    assert apart(BinaryCrossEntropy(), [[log(3)]], [[0.0]], [[1.0]]) == pytest.approx(both, rel=1e-5)
    assert apart(MeanSquaredError(), [[1.0], [2.0]], [[3.0], [2.0]], [0.0, 0.0]) == 2.0
    assert exp(log(3)) == pytest.approx(3)


def build(name: str, **settings: Any) -> Loss:
    return build_loss(name, TrainingSpec.model_validate(settings), np.array([0, 0, 0, 1]), 2, "cpu")


def test_settings_reach_the_loss() -> None:
    loss = build("cross_entropy", label_smoothing=0.1, class_weights="balanced")
    assert isinstance(loss, CrossEntropy) and loss.label_smoothing == 0.1
    assert loss.class_weights is not None and loss.class_weights.tolist() == pytest.approx([4 / 6, 2.0])
    plain = build("cross_entropy")
    assert isinstance(plain, CrossEntropy) and plain.class_weights is None
    assert isinstance(build("mean_squared_error", r_drop_alpha=1.0), MeanSquaredError)


@pytest.mark.parametrize("settings", [{"label_smoothing": 0.1}, {"class_weights": "balanced"}])
def test_numbers_have_no_classes(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(DataError, match=rf"training\.{name} is for tasks that learn classes.* Remove it"):
        build("mean_squared_error", **settings)


def test_every_task_names_a_loss() -> None:
    assert {task.loss for task in TASKS.values()} <= set(LOSSES)
