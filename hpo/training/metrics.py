"""Scores of predictions, by scikit-learn."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.metrics import accuracy_score, matthews_corrcoef, precision_recall_fscore_support


def classification_metrics(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """Scores of `logits` [n, classes] against `labels` [n].

    Macro means every class counts the same, absent ones as 0. With two classes `f1`, `precision` and `recall` are
    those of the positive class, the second one.
    """
    num_classes = logits.shape[1]
    predictions = logits.argmax(axis=1)
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite logits: the loss is NaN, and the caller ends the trial
        loss = np.mean(logsumexp(wide, axis=1) - wide[np.arange(len(labels)), labels])
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, labels=np.arange(num_classes), average=None, zero_division=0.0
    )
    metrics = {
        "eval/loss": float(loss),
        "eval/accuracy": float(accuracy_score(labels, predictions)),
        "eval/f1_macro": float(f1.mean()),
        "eval/precision_macro": float(precision.mean()),
        "eval/recall_macro": float(recall.mean()),
        # Of a single class scikit-learn warns, and returns 0 as well.
        "eval/mcc": float(matthews_corrcoef(labels, predictions)) if len(np.union1d(labels, predictions)) > 1 else 0.0,
    }
    if num_classes == 2:
        metrics |= {
            "eval/f1": float(f1[1]),
            "eval/precision": float(precision[1]),
            "eval/recall": float(recall[1]),
        }
    return metrics
