"""Real training of a two-layer model on sentences whose label is in one word."""

import dataclasses
import math
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.tiny import sentences, write_csv
from hpo import space
from hpo.data.tokens import Tokens
from hpo.errors import DataError, Diverged
from hpo.members import OPTIMIZERS
from hpo.spec import ModelSpec, SplitSource, StudySpec, TrialConfig
from hpo.training import finetune as finetune_module
from hpo.training.batches import DeviceTokens, Rows, evaluation_order
from hpo.training.finetune import evaluate, evaluation_steps, finetune
from hpo.training.schedule import learning_rates
from hpo.training.setup import set_up
from hpo.training.step import Step
from hpo.training_spec import SchedulerType, TrainingSpec
from models import tiny_config
from trained import all_weights, train, what_was_learned

pytestmark = pytest.mark.usefixtures("no_gpu")

ConfigMaker = Callable[..., TrialConfig]
FEATURES = torch.cpu.get_capabilities()
HAS_BF16 = any(FEATURES.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))


@pytest.fixture
def make_config(spec: StudySpec) -> ConfigMaker:
    """The default trial of the study in `conftest.py`, with other training settings or another seed."""

    def make(seed: int = 7, **training: Any) -> TrialConfig:
        return space.trial_config(spec, training, seed)

    return make


# Learning


def test_it_learns(make_config: ConfigMaker) -> None:
    _, evaluations = train(make_config(num_train_epochs=6.0, learning_rate=3e-3))
    first, last = evaluations[0], evaluations[-1]
    assert last.metrics["eval/loss"] < 0.2 < first.metrics["eval/loss"]
    assert first.metrics["eval/accuracy"] < 0.9 < last.metrics["eval/accuracy"]
    assert last.curve[-1].loss < first.curve[0].loss / 2


def test_evaluations_come_at_equal_shares(make_config: ConfigMaker) -> None:
    steps: list[int] = []
    setup = set_up(make_config(), None)
    evaluations = list(finetune(setup, steps.append))
    # Two epochs of 15 steps; quarters of 30 are 7.5, 15, 22.5 and 30, rounded up.
    assert [(each.step, each.global_step) for each in evaluations] == [(1, 8), (2, 15), (3, 23), (4, 30)]
    # 16 examples a step: 128, 240, 368 and 480 of 240.
    assert [each.epoch for each in evaluations] == pytest.approx([128 / 240, 1.0, 368 / 240, 2.0])
    assert steps == list(range(1, 31))
    assert all(each.examples_per_second > 0 and each.memory_mib > 0 for each in evaluations)


def test_the_loop_can_be_left(make_config: ConfigMaker) -> None:
    # As the pruner does: nothing runs that is not asked for.
    steps: list[int] = []
    run = finetune(set_up(make_config(), None), steps.append)
    assert next(run).step == 1
    assert steps == list(range(1, 9))


def test_three_steps_written_out(make_config: ConfigMaker) -> None:
    """The loop is forward, backward, clip, step, schedule: no gradient of one step is left in the next."""
    config = make_config(
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.0,
        weight_decay=0.0,
        max_grad_norm=0.5,
        dropout=0.0,
        num_train_epochs=0.2,
        warmup_ratio=0.0,
    )
    setup = set_up(config, None)
    model = setup.pretrained.model
    order = setup.train.training_rows(16, np.random.default_rng(config.seed))
    for rows, share in zip(order, (1, 2 / 3, 1 / 3), strict=False):  # linear, over three steps
        batch = setup.train.gather(rows)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
        step = 0.1 * share * min(1.0, 0.5 / norm)
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(step * gradient)
    by_hand, start = all_weights(setup), all_weights(set_up(config, None))
    moved = train(config)[0] - start
    assert moved.abs().max() > 1e-3
    assert torch.allclose(moved, by_hand - start, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("num_training_steps", "num_evaluations", "expected"),
    [
        (30, 4, {8: 1, 15: 2, 23: 3, 30: 4}),
        (30, 1, {30: 1}),
        (3, 3, {1: 1, 2: 2, 3: 3}),
        # Fewer steps than evaluations: fifths of 2 are 0.4, 0.8, 1.2, 1.6, 2.0; the last on each step counts.
        (2, 5, {1: 2, 2: 5}),
        (1, 10, {1: 10}),
        # Thirds of 10: 3.33, 6.67, 10.
        (10, 3, {4: 1, 7: 2, 10: 3}),
    ],
)
def test_evaluation_steps(num_training_steps: int, num_evaluations: int, expected: dict[int, int]) -> None:
    assert evaluation_steps(num_training_steps, num_evaluations) == expected


@pytest.mark.parametrize("num_training_steps", [1, 7, 100, 999])
@pytest.mark.parametrize("num_evaluations", [1, 3, 10, 49])
def test_the_last_evaluation_is_at_the_end(num_training_steps: int, num_evaluations: int) -> None:
    steps = evaluation_steps(num_training_steps, num_evaluations)
    assert list(steps.items())[-1] == (num_training_steps, num_evaluations)
    assert list(steps) == sorted(steps)
    assert len(steps) == min(num_training_steps, num_evaluations)


@pytest.mark.parametrize(
    ("epochs", "num_evaluations", "expected"),
    [
        (0.2, 1, [(1, 3, 48 / 240)]),
        (1.4, 2, [(1, 11, 176 / 240), (2, 21, 1 + 96 / 240)]),  # halves of 21: 10.5 and 21
        (0.1, 4, [(2, 1, 16 / 240), (4, 2, 32 / 240)]),  # 1.5 steps, rounded to 2
    ],
)
def test_fractional_epochs(
    make_config: ConfigMaker, epochs: float, num_evaluations: int, expected: list[tuple[int, int, float]]
) -> None:
    _, evaluations = train(make_config(num_train_epochs=epochs, num_evaluations=num_evaluations))
    found = [(each.step, each.global_step, each.epoch) for each in evaluations]
    assert np.array(found) == pytest.approx(np.array(expected))


# Curves


@pytest.mark.parametrize("name", get_args(SchedulerType))
def test_learning_rates_follow_the_schedule(make_config: ConfigMaker, name: str) -> None:
    config = make_config(lr_scheduler_type=name, warmup_ratio=0.2, num_train_epochs=1.0)
    _, evaluations = train(config)
    curve = [point for each in evaluations for point in each.curve]
    # 15 steps are fewer than the points of a curve: a point each.
    assert [point.global_step for point in curve] == list(range(1, 16))
    assert [point.learning_rate for point in curve] == learning_rates(config.training, 15)
    assert all(point.grad_norm > 0 for point in curve)


def test_long_curves_are_means_over_windows(make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config()
    fine = [point for each in train(config)[1] for point in each.curve]
    monkeypatch.setattr(finetune_module, "CURVE_POINTS", 4)
    evaluations = train(config)[1]
    # 30 steps for 4 points: one at every 7th, and one at each evaluation (8, 15, 23, 30).
    assert [[point.global_step for point in each.curve] for each in evaluations] == [
        [7, 8],
        [14, 15],
        [21, 23],
        [28, 30],
    ]
    start = 0
    for point in (point for each in evaluations for point in each.curve):
        window = fine[start : point.global_step]
        assert point.loss == pytest.approx(np.mean([each.loss for each in window]), rel=1e-5)
        assert point.grad_norm == pytest.approx(np.mean([each.grad_norm for each in window]), rel=1e-5)
        assert point.learning_rate == window[-1].learning_rate
        start = point.global_step


def test_the_gradient_norm_is_that_before_clipping(make_config: ConfigMaker) -> None:
    norms = [train(make_config(num_train_epochs=0.05, max_grad_norm=limit))[1] for limit in (None, 1e-3)]
    before, clipped = (evaluations[0].curve[0].grad_norm for evaluations in norms)
    assert before == pytest.approx(clipped, rel=1e-5)
    assert before > 1e-2


# Randomness


def test_the_same_configuration_gives_the_same_run(make_config: ConfigMaker) -> None:
    (weights, evaluations), (again, evaluations_again) = (train(make_config()) for _ in range(2))
    assert torch.equal(weights, again)
    assert what_was_learned(evaluations) == what_was_learned(evaluations_again)


def test_another_seed_gives_another_run(make_config: ConfigMaker) -> None:
    (weights, evaluations), (others, other_evaluations) = (train(make_config(seed=seed)) for seed in (7, 8))
    assert not torch.equal(weights, others)
    assert evaluations[-1].metrics != other_evaluations[-1].metrics


def test_the_order_of_trials_does_not_matter(make_config: ConfigMaker) -> None:
    first = make_config(seed=1, learning_rate=1e-2, dropout=0.3, train_batch_size=8, optimizer="sgd")
    second = make_config(seed=2)
    alone_weights, alone = train(second)
    train(first)
    torch.rand(17)
    after_weights, after = train(second)
    assert torch.equal(alone_weights, after_weights)
    assert what_was_learned(alone) == what_was_learned(after)


def test_a_trial_that_was_left_leaves_nothing_behind(make_config: ConfigMaker) -> None:
    alone_weights, _ = train(make_config())
    next(finetune(set_up(make_config(seed=1, dropout=0.5), None)))
    assert torch.equal(alone_weights, train(make_config())[0])


def test_what_is_drawn_between_set_up_and_training_does_not_matter(make_config: ConfigMaker) -> None:
    setup = set_up(make_config(), None)
    torch.rand(17)
    list(finetune(setup))
    assert torch.equal(all_weights(setup), train(make_config())[0])


def test_the_seed_orders_the_examples(make_config: ConfigMaker) -> None:
    def order(seed: int) -> list[list[int]]:
        taken: list[list[int]] = []
        setup = set_up(make_config(seed=seed, num_train_epochs=1.0, num_evaluations=1), None)
        step = setup.step

        class Noting(Step):
            def __init__(self) -> None:
                pass

            micro_batch_size = None

            def __call__(self, rows: Rows, learning_rate: float) -> tuple[torch.Tensor, torch.Tensor]:
                taken.append(rows.indices.tolist())
                return step(rows, learning_rate)

        list(finetune(dataclasses.replace(setup, step=Noting())))
        return taken

    first, again, other = order(1), order(1), order(2)
    assert sorted(chain.from_iterable(first)) == list(range(240))
    assert first == again
    assert first != other


# Divergence


def test_a_training_loss_that_is_not_finite(make_config: ConfigMaker) -> None:
    config = make_config(optimizer="sgd", learning_rate=1e30, max_grad_norm=None, warmup_ratio=0.0)
    with pytest.raises(Diverged, match="the training loss was not finite at step 8") as caught:
        train(config)
    assert caught.value.reason == "diverged"


def test_a_validation_loss_that_is_not_finite(make_config: ConfigMaker) -> None:
    # The only training loss is of the weights before the only step.
    config = make_config(
        optimizer="sgd", learning_rate=1e30, max_grad_norm=None, warmup_ratio=0.0, num_train_epochs=0.05
    )
    with pytest.raises(Diverged, match="the validation loss was not finite at step 1"):
        train(config)


# Evaluation


def test_the_scores_are_those_of_the_validation_rows(make_config: ConfigMaker) -> None:
    """Told apart from train's: of three rows that the model gets right, wrong, right."""
    setup = set_up(make_config(eval_batch_size=2), None)
    model = setup.pretrained.model.eval()
    each = setup.validation.rows([np.array([at]) for at in range(3)])
    rows = [setup.validation.gather(row)["input_ids"][0].numpy() for row in each]
    with torch.inference_mode():
        predicted = [int(model(input_ids=torch.tensor(row[None], dtype=torch.int64)).logits.argmax()) for row in rows]
    tokens = Tokens(
        input_ids=np.concatenate(rows).astype(np.int32),
        offsets=np.cumsum([0, *map(len, rows)]),
        labels=np.array(predicted) ^ np.array([0, 1, 0]),
        n_truncated=0,
    )
    three = DeviceTokens(tokens, 0, "cpu", most_lengths=16)
    assert evaluate(dataclasses.replace(setup, validation=three))["eval/accuracy"] == 2 / 3


@pytest.mark.skipif(not HAS_BF16, reason="needs a CPU that computes in bf16")
def test_evaluation_computes_in_the_same_precision(make_config: ConfigMaker) -> None:
    setup = set_up(make_config(precision="bf16"), None)
    seen: list[torch.dtype] = []
    classifier = setup.pretrained.model.get_submodule("classifier")
    classifier.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    evaluate(setup)
    assert set(seen) == {torch.bfloat16}


# Precision


def test_bf16(make_config: ConfigMaker) -> None:
    config = make_config(precision="bf16", num_train_epochs=6.0, learning_rate=3e-3)
    if not HAS_BF16:
        with pytest.raises(DataError, match="Use precision: auto or fp32"):
            train(config)
        return
    weights, evaluations = train(config)
    assert weights.dtype == torch.float32
    assert evaluations[-1].metrics["eval/accuracy"] > 0.9
    assert torch.equal(weights, train(config)[0])


def test_auto_precision_is_one_of_the_two(make_config: ConfigMaker) -> None:
    auto, named = (
        train(make_config(precision=precision, num_train_epochs=0.2))[0]
        for precision in ("auto", "bf16" if HAS_BF16 else "fp32")
    )
    assert torch.equal(auto, named)


# No setting without an effect: for each, the settings under which it has one, and another value.

CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "method": ({}, "head_only"),
    "num_trained_layers": ({"method": "last_layers"}, 1),
    "layer_lr_decay": ({}, 0.5),
    "lora_rank": ({"method": "lora"}, 2),
    "lora_alpha": ({"method": "lora"}, 8.0),
    "lora_dropout": ({"method": "lora"}, 0.5),
    "lora_target_modules": ({"method": "lora"}, "all_linear"),
    "optimizer": ({}, "adam"),
    "learning_rate": ({}, 2e-3),
    "weight_decay": ({}, 0.0),
    "momentum": ({"optimizer": "sgd"}, 0.5),
    "adam_beta1": ({}, 0.8),
    "adam_beta2": ({}, 0.9),
    "adam_epsilon": ({}, 1e-6),
    "max_grad_norm": ({"max_grad_norm": None, "optimizer": "sgd"}, 1e-3),
    "lr_scheduler_type": ({}, "cosine"),
    "warmup_ratio": ({}, 0.5),
    "dropout": ({}, 0.3),
    "label_smoothing": ({}, 0.1),
    "r_drop_alpha": ({}, 1.0),
    "ema_decay": ({}, 0.9),
    "early_stopping_patience": ({"learning_rate": 1e-9, "num_train_epochs": 0.4, "num_evaluations": 5}, 1),
    "train_batch_size": ({}, 8),
    "num_train_epochs": ({}, 0.4),
    "max_length": ({}, 6),
    "precision": ({}, "bf16"),
    "augment_method": ({"augment_probability": 0.5}, "swap"),
    "augment_probability": ({"augment_method": "swap"}, 0.6),
    "train_fraction": ({}, 0.5),
}
CHANGE_NOTHING = {"eval_batch_size", "activation_checkpointing", "num_evaluations"}
# The tiny study's classes are as many, and it has no teachers; tests of their own have others.
OTHER_DATA = {"class_weights", "distillation_alpha", "distillation_temperature"}


def short(make_config: ConfigMaker, **changed: Any) -> TrialConfig:
    # Three steps, evaluated once.
    return make_config(**{"num_train_epochs": 0.2, "num_evaluations": 1, "warmup_ratio": 0.0, **changed})


@pytest.mark.parametrize("field", sorted(set(TrainingSpec.model_fields) - CHANGE_NOTHING - OTHER_DATA))
def test_no_silent_no_op(make_config: ConfigMaker, field: str) -> None:
    assert field in CHANGES, f"say what `{field}` changes"
    base, value = CHANGES[field]
    before, after = short(make_config, **base), short(make_config, **{**base, field: value})
    differing = [name for name in TrainingSpec.model_fields if _of(before, name) != _of(after, name)]
    assert differing == [field]
    if field == "precision" and not HAS_BF16:
        with pytest.raises(DataError):
            train(after)
        return
    assert not torch.equal(train(before)[0], train(after)[0])


def test_class_weights_bring_up_what_is_rare(make_config: ConfigMaker, tmp_path: Path) -> None:
    """Of the tiny study, where classes are as many, nothing changes, to the bit; of one with one in ten, much does."""
    plain, weighted = (short(make_config, class_weights=weights) for weights in (None, "balanced"))
    assert torch.equal(train(plain)[0], train(weighted)[0])
    rows = sentences(400, seed=1)
    rare = write_csv(tmp_path / "rare.csv", [row for number, row in enumerate(rows) if row[1] == 0 or number % 10 == 1])
    data = plain.data.model_copy(update={"train": SplitSource(source=str(rare))})
    recalls = []
    for config in (plain, weighted):
        training = config.training.model_copy(update={"num_train_epochs": 2.0})
        _, evaluations = train(config.model_copy(update={"data": data, "training": training}))
        recalls.append(evaluations[-1].metrics["eval/recall"])
    assert recalls[1] > recalls[0] + 0.2


def _of(config: TrialConfig, field: str) -> Any:
    return getattr(config.training, field)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("optimizer", tuple(OPTIMIZERS)),
        ("dropout", (None, 0.0, 0.3)),  # the model's own is 0.1
        ("max_grad_norm", (None, 1e-3, 1e-2)),
        # Twelve steps, of which warmup_stable_decay decays over two.
        ("lr_scheduler_type", get_args(SchedulerType)),
    ],
)
def test_no_two_values_are_the_same(make_config: ConfigMaker, field: str, values: tuple[Any, ...]) -> None:
    results = {value: train(short(make_config, num_train_epochs=0.8, **{field: value}))[0] for value in values}
    same = [(a, b) for a, b in combinations(results, 2) if torch.equal(results[a], results[b])]
    assert same == []


def test_dropout_of_none_is_the_models_own(make_config: ConfigMaker) -> None:
    own, named = (train(short(make_config, dropout=dropout))[0] for dropout in (None, 0.1))
    assert torch.equal(own, named)


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_activation_checkpointing_changes_no_result(
    make_config: ConfigMaker, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, model_type: str
) -> None:
    """Not even what dropout drops, in our layers and in transformers' own."""
    AutoModelForSequenceClassification.from_config(tiny_config(model_type)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = short(make_config, dropout=0.3)
    config = config.model_copy(update={"model": ModelSpec(name=str(tmp_path))})
    changed = config.model_copy(
        update={"training": config.training.model_copy(update={"activation_checkpointing": True})}
    )
    setup, calls = set_up(changed, None), 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    for name, module in setup.pretrained.model.named_modules():
        if name.endswith(("intermediate.dense", "mlp.Wi")):
            module.register_forward_pre_hook(count)
    list(finetune(setup))
    once = len(evaluation_order(setup.validation.padded, setup.config.training.eval_batch_size))
    assert calls == 2 * 3 * 2 + 2 * once  # two layers in three steps, twice each, and once in the evaluation
    assert torch.equal(all_weights(setup), train(config)[0])


@pytest.mark.parametrize("eval_batch_size", [1, 7, 1000])
def test_eval_batch_size_changes_no_result(make_config: ConfigMaker, eval_batch_size: int) -> None:
    (weights, [evaluation]), (others, [other]) = (
        train(short(make_config, eval_batch_size=size)) for size in (128, eval_batch_size)
    )
    assert torch.equal(weights, others)
    assert other.metrics == pytest.approx(evaluation.metrics, abs=1e-6)


def test_num_evaluations_changes_no_result(make_config: ConfigMaker) -> None:
    (weights, once), (others, often) = (
        train(short(make_config, num_train_epochs=1.0, num_evaluations=number)) for number in (1, 5)
    )
    assert (len(once), len(often)) == (1, 5)
    assert torch.equal(weights, others)
    assert once[-1].metrics == often[-1].metrics


def test_what_changes_nothing_is_listed(make_config: ConfigMaker) -> None:
    assert set(CHANGES) | CHANGE_NOTHING | OTHER_DATA == set(TrainingSpec.model_fields)
    assert math.isfinite(train(short(make_config))[1][0].metrics["eval/loss"])
