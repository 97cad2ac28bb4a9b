"""What a trained model says of rows without labels, as columns to stand beside them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from hpo.data.inputs import Input
from hpo.data.splits import Split
from hpo.training.trained import TrainedModel

Answers = dict[str, list[Any]]
"""By column, one entry a row."""


def label(
    trained: TrainedModel, inputs: Sequence[Input], between_batches: Callable[[], None] = lambda: None
) -> tuple[Answers, int]:
    """What is to stand beside each row, and how many of the rows were too long to be read whole."""
    labels = trained.task.labels.unknown(inputs, len(trained.classes))
    split = Split(tuple(inputs), labels, trained.form)
    tokens = trained.tokens(split)
    outputs = trained.outputs(trained.on_device(tokens), between_batches)
    return ANSWERS[trained.task.serves](trained, outputs, inputs), tokens.n_truncated


def _one_label(trained: TrainedModel, outputs: NDArray[np.float32], inputs: Sequence[Input]) -> Answers:
    if trained.task.labels.numeric:
        return {"prediction": [float(value) for value in outputs[:, 0]]}
    probabilities = softmax(outputs.astype(np.float64), axis=1)
    found = probabilities.argmax(axis=1)
    return {
        "prediction": [trained.classes[at] for at in found],
        "probability": [float(row[at]) for row, at in zip(probabilities, found, strict=True)],
    }


def _several_labels(trained: TrainedModel, outputs: NDArray[np.float32], inputs: Sequence[Input]) -> Answers:
    probabilities = expit(outputs.astype(np.float64))
    has = [[name for name, p in zip(trained.classes, row, strict=True) if p >= 0.5] for row in probabilities]
    each = {
        f"probability_{name}": [float(p) for p in of] for name, of in zip(trained.classes, probabilities.T, strict=True)
    }
    return {"prediction": [", ".join(names) for names in has], **each}


def _tags(trained: TrainedModel, outputs: NDArray[np.float32], inputs: Sequence[Input]) -> Answers:
    names = np.array(trained.classes)[outputs.argmax(axis=1)]
    ends = np.cumsum([len(words) for words in inputs])[:-1]
    return {"prediction": [row.tolist() for row in np.split(names, ends)]}


ANSWERS: dict[str, Callable[[TrainedModel, NDArray[np.float32], Sequence[Input]], Answers]] = {
    "label": _one_label,
    "labels": _several_labels,
    "entities": _tags,
}
