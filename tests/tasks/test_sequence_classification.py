"""Scores of small confusion matrices, worked out by hand."""

from collections.abc import Sequence
from math import isnan, log, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from hpo.tasks.sequence_classification import SEQUENCE_CLASSIFICATION, classification_metrics


def logits_for(predictions: Sequence[int], num_classes: int) -> NDArray[np.float32]:
    """Logits whose largest is the predicted class."""
    return np.eye(num_classes, dtype=np.float32)[list(predictions)]


def scores(labels: Sequence[int], predictions: Sequence[int], num_classes: int) -> dict[str, float]:
    metrics = classification_metrics(logits_for(predictions, num_classes), np.array(labels, dtype=np.int64))
    del metrics["eval/loss"]
    return {name.removeprefix("eval/"): value for name, value in metrics.items()}


def test_two_classes() -> None:
    # Of the positive class: 3 true, 2 false, 1 missed; 4 true negatives.
    labels = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    predictions = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    assert scores(labels, predictions, 2) == pytest.approx(
        {
            "accuracy": 0.7,
            "precision": 3 / 5,
            "recall": 3 / 4,
            "f1": 2 / 3,  # 2*3 / (2*3 + 2 + 1)
            "precision_macro": (4 / 5 + 3 / 5) / 2,
            "recall_macro": (4 / 6 + 3 / 4) / 2,
            "f1_macro": (8 / 11 + 6 / 9) / 2,  # of the negative class 2*4 / (2*4 + 1 + 2)
            "mcc": 10 / sqrt(600),  # (3*4 - 2*1) / sqrt(5 * 4 * 6 * 5)
        }
    )


def test_three_classes() -> None:
    # Rows are labels, columns predictions: 2 1 0 / 0 2 0 / 1 0 0. Class 2 is never predicted.
    assert scores([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0], 3) == pytest.approx(
        {
            "accuracy": 4 / 6,
            "precision_macro": (2 / 3 + 2 / 3 + 0) / 3,
            "recall_macro": (2 / 3 + 1 + 0) / 3,
            "f1_macro": (2 / 3 + 4 / 5 + 0) / 3,  # 2*2/(3+3), 2*2/(2+3)
            # 4 of 6 right; labels (3, 2, 1), predictions (3, 3, 0):
            # (4*6 - (3*3 + 2*3 + 1*0)) / sqrt((36 - 18) * (36 - 14)) = 9 / sqrt(396)
            "mcc": 9 / sqrt(396),
        }
    )


def test_a_class_without_labels_counts_as_zero() -> None:
    assert scores([0, 1, 1, 0], [0, 1, 2, 0], 3) == pytest.approx(
        {
            "accuracy": 3 / 4,
            "precision_macro": (1 + 1 + 0) / 3,
            "recall_macro": (1 + 1 / 2 + 0) / 3,
            "f1_macro": (1 + 2 / 3 + 0) / 3,
            # Labels (2, 2, 0), predictions (2, 1, 1): (3*4 - (4 + 2 + 0)) / sqrt((16 - 6) * (16 - 8)) = 6 / sqrt(80)
            "mcc": 6 / sqrt(80),
        }
    )


def test_one_class_predicted_only() -> None:
    assert scores([0, 0, 1], [0, 0, 0], 2) == pytest.approx(
        {
            "accuracy": 2 / 3,
            "precision": 0,
            "recall": 0,
            "f1": 0,
            "precision_macro": 2 / 3 / 2,
            "recall_macro": 1 / 2,
            "f1_macro": 4 / 5 / 2,  # 2*2 / (2*2 + 1)
            "mcc": 0,
        }
    )


@pytest.mark.parametrize("num_classes", [2, 3])
def test_one_class_altogether(num_classes: int) -> None:
    # A validation split may have a single class; scikit-learn would warn.
    found = scores([0, 0], [0, 0], num_classes)
    assert found["accuracy"] == 1
    assert found["mcc"] == 0
    assert found["f1_macro"] == pytest.approx(1 / num_classes)


def test_loss() -> None:
    # -log(1/2) = log 2 and -log(1/(3+1)) = 2 log 2, in the mean 1.5 log 2.
    logits = np.array([[0, 0], [log(3), 0]], dtype=np.float32)
    loss = classification_metrics(logits, np.array([0, 1]))["eval/loss"]
    assert loss == pytest.approx(1.5 * log(2), rel=1e-6)


def test_loss_of_three_classes() -> None:
    # log(1 + 2 + 5) - log(1), - log(2) and - log(5): log 8, log 4, log 1.6; in the mean log(51.2) / 3.
    logits = np.log(np.array([[1, 2, 5]] * 3, dtype=np.float32))
    loss = classification_metrics(logits, np.array([0, 1, 2]))["eval/loss"]
    assert loss == pytest.approx(log(51.2) / 3, rel=1e-6)


def test_loss_of_large_logits_is_finite() -> None:
    # log(exp(30000) + exp(0)) - 0.
    assert classification_metrics(np.array([[3e4, 0]], dtype=np.float32), np.array([1]))["eval/loss"] == 3e4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_loss_of_infinite_logits_is_not_a_number(value: float) -> None:
    logits = np.array([[value, value], [0, 1]], dtype=np.float32)
    assert isnan(classification_metrics(logits, np.array([0, 1]))["eval/loss"])


def test_names_are_those_of_the_spec() -> None:
    of_two = set(classification_metrics(logits_for([0, 1], 2), np.array([0, 1])))
    of_three = set(classification_metrics(logits_for([0, 1, 2], 3), np.array([0, 1, 2])))
    assert of_two == set(SEQUENCE_CLASSIFICATION.metrics)
    assert of_two - of_three == {"eval/f1", "eval/precision", "eval/recall"}
