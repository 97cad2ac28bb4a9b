"""What a training minimizes: R-Drop by hand, and a batch in parts against the whole of it, for every loss."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hpo import space
from hpo.errors import DataError
from hpo.spec import StudySpec
from hpo.training.batches import IGNORED, Batch
from hpo.training.losses import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError
from hpo.training.objectives import OBJECTIVES, build_objective
from hpo.training.objectives.base import Context, Objective
from hpo.training.objectives.distillation import Distillation
from hpo.training.objectives.r_drop import RDrop, has_dropout
from hpo.training.objectives.supervised import Supervised
from hpo.training.setup import set_up
from hpo.training.step import Step, in_parts
from hpo.training_spec import TrainingSpec
from models import tiny_config, tiny_model

SIZE, LENGTH, FEATURES, CLASSES = 10, 6, 4, 3


def of_texts() -> torch.Tensor:
    return torch.randint(CLASSES, (SIZE,))


def of_some_texts() -> torch.Tensor:
    labels = of_texts()
    labels[:4] = IGNORED  # a part of 3 has none
    return labels


def of_tokens() -> torch.Tensor:
    labels = torch.randint(CLASSES, (SIZE, LENGTH))
    labels[:3], labels[5, 1:] = IGNORED, IGNORED
    return labels


WEIGHTS = torch.tensor([0.3, 1.0, 5.0])
CASES: dict[str, tuple[Loss, Callable[[], torch.Tensor]]] = {
    "texts": (CrossEntropy(), of_texts),
    "some texts": (CrossEntropy(), of_some_texts),
    "weighted texts": (CrossEntropy(0.1, WEIGHTS), of_texts),
    "tokens": (CrossEntropy(), of_tokens),
    "weighted tokens": (CrossEntropy(0.1, WEIGHTS), of_tokens),
    "many labels": (BinaryCrossEntropy(0.1, WEIGHTS), lambda: torch.randint(2, (SIZE, CLASSES)).float()),
    "numbers": (MeanSquaredError(), lambda: torch.randn(SIZE)),
}


class TwoMasks(nn.Module):
    """In the place of dropout: masks that belong to the examples, another one in every other pass."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head, self.passes = nn.Linear(FEATURES, outputs), 0

    def logits(self, batch: Batch) -> torch.Tensor:
        mask = batch[f"mask_{self.passes % 2}"]
        self.passes += 1
        logits: torch.Tensor = self.head(batch["features"] * mask)
        return logits


def batch_of(labels: torch.Tensor) -> Batch:
    shape = (*labels.shape[: 2 if labels.dtype == torch.int64 else 1], FEATURES)
    masks = {f"mask_{number}": torch.randint(2, shape).float() * 2 for number in range(2)}
    return {"features": torch.randn(shape), "labels": labels, **masks}


def told_of(batch: Batch, outputs: int) -> torch.Tensor:
    """What a teacher says, of words only where they are read."""
    told = 2 * torch.randn(*batch["features"].shape[:-1], outputs)
    if batch["labels"].dim() == 2 and batch["labels"].dtype == torch.int64:
        told[batch["labels"] == IGNORED] = torch.nan
    return told


def gradient(model: TwoMasks, objective: Objective, whole: Batch, at_once: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the gradient, added up over parts."""
    model.zero_grad()
    total = torch.zeros(())
    for part in in_parts(whole, SIZE, at_once):
        loss = objective(model.logits, part, whole)
        loss.backward()
        total += loss.detach()
    return total, torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize("at_once", [1, 3, 4, 9])
@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("r_drop_alpha", [None, 2.0])
@pytest.mark.parametrize("case", CASES)
def test_parts_add_up_to_the_whole(case: str, r_drop_alpha: float | None, taught: bool, at_once: int) -> None:
    loss, make_labels = CASES[case]
    torch.manual_seed(0)
    whole = batch_of(make_labels())
    model = TwoMasks(1 if case == "numbers" else CLASSES)
    objective: Objective = Supervised(loss)
    assert objective.prepare(whole) is whole
    if taught:
        objective = Distillation(objective, loss, alpha=0.7, temperature=3.0)
        whole["teacher_logits"] = told_of(whole, 1 if case == "numbers" else CLASSES)
    if r_drop_alpha is None:
        whole["mask_1"] = whole["mask_0"]  # a single pass a part
    else:
        objective = RDrop(objective, loss, r_drop_alpha)
    expected, expected_gradient = gradient(model, objective, whole, SIZE)
    found, found_gradient = gradient(model, objective, whole, at_once)
    assert expected_gradient.abs().max() > 0.01
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_gradient, expected_gradient)


def test_a_mean_of_means_would_be_another_one() -> None:
    """What the test above would not let pass: parts that weigh by their examples."""
    loss, make_labels = CASES["weighted tokens"]
    torch.manual_seed(0)
    whole = batch_of(make_labels())
    logits = torch.randn(SIZE, LENGTH, CLASSES)
    parts = [(logits[:4], whole["labels"][:4]), (logits[4:], whole["labels"][4:])]
    means = [loss(each, {"labels": labels}, {"labels": labels}) for each, labels in parts]
    whole_mean = loss(logits, whole, whole)
    assert abs((0.4 * means[0] + 0.6 * means[1] - whole_mean).item()) > 0.01


def test_r_drop_by_hand() -> None:
    # Of numbers: predictions 1 and 3 for a label of 2 are both wrong by 1, and 4 = 2^2 apart.
    passes = iter([1.0, 3.0])
    batch = {"labels": torch.tensor([2.0])}
    objective = RDrop(Supervised(MeanSquaredError()), MeanSquaredError(), alpha=0.5)
    assert objective(lambda _: torch.tensor([[next(passes)]]), batch, batch).item() == 1.0 + 0.5 * 4.0


def test_distillation_by_hand() -> None:
    """At temperature 2 the teacher says 3 to 1 and the student 1 to 1: KL = 3/4 ln(3/2) + 1/4 ln(1/2), times 2^2."""
    told, said = torch.tensor([[2 * math.log(3.0), 0.0]]), torch.zeros(1, 2)
    batch = {"labels": torch.tensor([1]), "teacher_logits": told}
    objective = Distillation(Supervised(CrossEntropy()), CrossEntropy(), alpha=0.25, temperature=2.0)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    expected = 0.75 * math.log(2.0) + 0.25 * 4 * divergence
    assert objective(lambda _: said, batch, batch).item() == pytest.approx(expected, rel=1e-6)


def test_the_distance_of_two_classes_is_the_same_as_of_one_that_is_there_or_not() -> None:
    told, said = torch.tensor([[1.3], [-0.2]]), torch.tensor([[0.4], [2.0]])
    both = {"labels": torch.tensor([0, 1]), "teacher_logits": torch.cat([torch.zeros(2, 1), told], 1)}
    one = {"labels": torch.zeros(2, 1), "teacher_logits": told}
    of_two = CrossEntropy().distance_to_teacher(torch.cat([torch.zeros(2, 1), said], 1), both, both, 3.0)
    torch.testing.assert_close(BinaryCrossEntropy().distance_to_teacher(said, one, one, 3.0), of_two)


def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn() -> None:
    told = torch.randn(5, CLASSES)
    for loss in (CrossEntropy(), BinaryCrossEntropy(), MeanSquaredError()):
        batch = {"labels": torch.zeros(5), "teacher_logits": told}
        assert loss.distance_to_teacher(told.clone(), batch, batch, 2.0).item() == pytest.approx(0.0, abs=1e-6)


def test_teachers_fuse_to_the_mean_of_their_probabilities() -> None:
    outputs = np.random.default_rng(0).normal(size=(3, 7, CLASSES)).astype(np.float32) * 4
    fused = torch.from_numpy(CrossEntropy.fused(outputs)).softmax(-1)
    torch.testing.assert_close(fused, torch.from_numpy(outputs).softmax(-1).mean(0), rtol=1e-5, atol=1e-6)
    fused = torch.from_numpy(BinaryCrossEntropy.fused(outputs)).sigmoid()
    torch.testing.assert_close(fused, torch.from_numpy(outputs).sigmoid().mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(MeanSquaredError.fused(outputs), outputs.mean(0), rtol=1e-5, atol=1e-6)


def context(model_type: str = "bert", own: float | None = None, **settings: Any) -> Context:
    config = tiny_config(model_type)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob") if own is not None else ():
        setattr(config, name, own)
    return Context(CrossEntropy(), TrainingSpec.model_validate(settings), tiny_model(config), "a/model")


def test_what_is_not_asked_for_is_not_there() -> None:
    assert set(OBJECTIVES) <= set(TrainingSpec.model_fields)
    assert isinstance(build_objective(context()), Supervised)
    asked = build_objective(context(r_drop_alpha=1.5))
    assert isinstance(asked, RDrop) and asked.alpha == 1.5 and asked.capturable
    both = build_objective(context(r_drop_alpha=1.5, distillation_alpha=0.5, distillation_temperature=4.0))
    assert isinstance(both, RDrop) and isinstance(both.inner, Distillation) and both.inner.temperature == 4.0


def test_no_second_pass_where_it_would_be_the_first_again() -> None:
    """A search may draw that."""
    assert isinstance(build_objective(context(own=0.0, r_drop_alpha=1.0, dropout=0.0)), Supervised)


def test_r_drop_of_a_model_without_dropout() -> None:
    with pytest.raises(DataError, match=r"`a/model` has none of its own\. Set training\.dropout, or remove"):
        build_objective(context(own=0.0, r_drop_alpha=1.0))


def test_where_dropout_is() -> None:
    assert has_dropout(context("distilbert").model) and not has_dropout(context(own=0.0).model)
    only_a_number = nn.Linear(1, 1)
    only_a_number.attention_dropout = 0.1  # type: ignore[assignment]
    assert has_dropout(only_a_number)


@pytest.mark.usefixtures("no_gpu")
def test_r_drop_draws_other_dropout_in_each_pass(spec: StudySpec) -> None:
    setup = set_up(space.trial_config(spec, {"r_drop_alpha": 1.0, "dropout": 0.3}, seed=7), None)
    assert isinstance(setup.step, Step) and isinstance(setup.step.objective, RDrop)
    setup.pretrained.model.train()
    seen: list[torch.Tensor] = []
    step, objective = setup.step, setup.step.objective
    whole = setup.train.gather(next(setup.train.rows([range(8)])))  # type: ignore[list-item]

    def noted(batch: Batch) -> torch.Tensor:
        seen.append(step._forward(batch))
        return seen[-1]

    with_divergence = objective(noted, whole, whole)
    assert len(seen) == 2 and not torch.equal(seen[0], seen[1])
    losses = [objective.loss(logits, whole, whole) for logits in seen]
    assert with_divergence.item() > ((losses[0] + losses[1]) / 2).item()
