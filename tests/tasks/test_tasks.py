"""What holds for every task: its labels, its scores against each other, and that it trains, is saved and loaded."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoTokenizer, pipeline

from hpo.data.splits import Split, Splits, load_splits
from hpo.mistakes import find_errors
from hpo.space import default_params, trial_config
from hpo.spec import TrialConfig
from hpo.study_file import parse_study
from hpo.tasks import TASKS
from hpo.tasks.base import Task
from hpo.training.finetune import finetune, predict
from hpo.training.setup import Setup, save_model, set_up
from task_data import KINDS, task_study


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def config(kind: str, model_folder: Path, tmp_path: Path) -> TrialConfig:
    spec = parse_study(task_study(kind, model_folder, tmp_path), "tiny.yaml")
    return trial_config(spec, default_params(spec), seed=0)


@pytest.fixture
def splits(config: TrialConfig) -> Splits:
    return load_splits(config.task, config.data, config.data_seed)


def some_outputs(splits: Splits, split: Split, seeds: int = 3) -> NDArray[np.float32]:
    """Drawn, and right more often than not."""
    task, draw = TASKS[splits.task], np.random.default_rng(1)
    right: NDArray[Any] = np.concatenate(split.labels) if task.words else split.labels
    if task.labels.numeric:
        right = right[:, None]
    elif right.ndim == 1:
        right = np.eye(len(splits.labels))[right]
    drawn: NDArray[np.float32] = (right * 2 + draw.normal(size=(seeds, *right.shape)) - 0.5).astype(np.float32)
    return drawn


def without(task: Task, outputs: NDArray[np.float32], labels: NDArray[Any], row: int) -> tuple[Any, Any]:
    """Outputs of one seed and labels without one row."""
    if not task.words:
        return np.delete(outputs, row, axis=0), np.delete(labels, row, axis=0)
    ends = np.cumsum([len(each) for each in labels])
    words = range(ends[row] - len(labels[row]), ends[row])
    return np.delete(outputs, list(words), axis=0), np.delete(labels, row, axis=0)


class TestTask:
    def test_it_offers_what_it_evaluates(self, splits: Splits) -> None:
        task, split = TASKS[splits.task], splits.validation
        found = task.evaluate(some_outputs(splits, split)[0], split.labels, splits.labels)
        assert found.keys() <= task.metrics.keys()
        missing = task.metrics.keys() - found.keys()
        assert all(task.needs(metric, splits.labels) for metric in missing)
        assert not any(task.needs(metric, splits.labels) for metric in found)
        assert set(task.shown) <= {metric.removeprefix("eval/") for metric in found}

    def test_scores_are_those_of_the_evaluation_and_of_leaving_each_row_out(self, splits: Splits) -> None:
        task, split = TASKS[splits.task], splits.validation.take(np.arange(25))
        outputs = some_outputs(splits, split)
        scores = {score.name: score for score in task.scores(outputs, split.labels, splits.labels)}
        for seed, of_seed in enumerate(outputs):
            whole = task.evaluate(of_seed, split.labels, splits.labels)
            for metric, value in whole.items():
                contributions = scores[metric.removeprefix("eval/")].contributions[seed]
                assert contributions.mean() == pytest.approx(value, abs=1e-6), metric
            left = [task.evaluate(*without(task, of_seed, split.labels, row), splits.labels) for row in range(25)]
            for metric in whole:
                each = np.array([found[metric] for found in left])
                influence = 24 * (each.mean() - each)
                contributions = scores[metric.removeprefix("eval/")].contributions[seed]
                assert np.allclose(contributions - contributions.mean(), influence, atol=1e-6), metric

    def test_outputs_that_are_not_finite_give_no_finite_loss(self, splits: Splits) -> None:
        task, split = TASKS[splits.task], splits.validation
        outputs = some_outputs(splits, split)[0]
        outputs[0] = np.nan
        assert not math.isfinite(task.evaluate(outputs, split.labels, splits.labels)["eval/loss"])

    def test_labels_are_what_the_file_says(self, splits: Splits) -> None:
        labels = TASKS[splits.task].labels
        split = splits.test
        json.dumps(labels.plain(split.labels))
        strata = labels.strata(splits.train.labels, len(splits.labels))
        assert len(strata) == len(splits.train)
        assert np.bincount(strata)[np.unique(strata)].min() >= 2
        counts = labels.counts(split.labels, len(splits.labels))
        assert len(counts) == (0 if labels.numeric else len(splits.labels))
        assert all(labels.text(label, splits.labels) for label in split.labels)

    def test_errors_are_found_in_what_it_decides(self, splits: Splits) -> None:
        task, split = TASKS[splits.task], splits.validation
        if task.decisions is None:
            assert task.labels.numeric
            return
        outputs = some_outputs(splits, split)
        decided = task.decisions(split, split.labels, splits.labels, (-outputs, outputs))
        errors = find_errors(decided, split.texts)
        assert sum(map(sum, errors.confusion)) == pytest.approx(len(decided.labels))
        assert errors.mistakes and all(0 <= each.row < len(split) for each in errors.mistakes)
        assert sum(group.rows for group in errors.by_length) == len(decided.labels)

    def test_it_learns_is_saved_and_loaded_with_the_same_predictions(
        self, kind: str, config: TrialConfig, tmp_path: Path
    ) -> None:
        training = config.training.model_copy(
            update={"num_train_epochs": 8.0, "learning_rate": 3e-3, "num_evaluations": 2, "dropout": 0.0}
        )
        setup = set_up(config.model_copy(update={"training": training}), None)
        evaluations = list(finetune(setup))
        assert evaluations[-1].curve[-1].loss < 0.7 * evaluations[0].curve[0].loss
        metric = next(iter(setup.task.metrics))
        assert evaluations[-1].metrics[metric] > 0.6
        outputs = predict(setup, setup.validation)
        save_model(setup, tmp_path / "model")
        assert np.allclose(one_by_one(setup, tmp_path / "model"), outputs, atol=1e-5)
        make: Any = pipeline  # its overloads want the task as it is written
        head = make(setup.task.pipeline, model=str(tmp_path / "model"))
        first = setup.splits.validation.inputs[0]
        said = head(dict(zip(("text", "text_pair"), first, strict=True)) if kind == "pairs" else readable(first))
        assert said if kind != "tags" else isinstance(said, list)


def readable(row: Any) -> str:
    return row if isinstance(row, str) else " ".join(row)


@torch.inference_mode()
def one_by_one(setup: Setup, folder: Path) -> NDArray[np.float32]:
    """What transformers' own classes make of each row of validation, by itself."""
    model = getattr(transformers, setup.task.auto_model).from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for row in setup.splits.validation.inputs:
        split = isinstance(row, tuple) and setup.task.words
        parts = [list(row)] if split else [row] if isinstance(row, str) else list(row)
        encoded = tokenizer(*parts, is_split_into_words=split, return_tensors="pt")
        logits = model(**encoded).logits[0]
        if split:
            ids = encoded.word_ids(0)
            logits = torch.stack([logits[ids.index(word)] for word in range(len(row))])
        found.append(logits.reshape(-1, logits.shape[-1]).numpy())
    joined: NDArray[np.float32] = np.concatenate(found)
    return joined
