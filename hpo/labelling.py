"""What a trained model says of rows without labels: as `hpo.train` and a study's finalists save it.

The rows go through the same tokens, batches and loop as validation does, so the answers are those that were measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from scipy.special import expit, softmax
from transformers import AutoTokenizer

from hpo.data.files import first_line
from hpo.data.inputs import Form, Input, form_of
from hpo.data.splits import Split
from hpo.data.tokens import tokenize_split
from hpo.errors import DataError
from hpo.model_folder import config_of
from hpo.spec import TrialConfig
from hpo.tasks import TASKS
from hpo.tasks.base import Outputs, Task
from hpo.training.batches import MOST_EVALUATION_LENGTHS, DeviceTokens
from hpo.training.device import Device, choose_device
from hpo.training.encoder import replace_layers
from hpo.training.inference import outputs_of
from hpo.training.model import takes_token_types

Answers = dict[str, list[Any]]
"""By column, one entry a row."""


@dataclass(frozen=True)
class Labeller:
    """A model folder, ready to label."""

    config: TrialConfig
    classes: tuple[str, ...]
    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    device: Device

    @property
    def task(self) -> Task:
        return TASKS[self.config.task]

    @property
    def form(self) -> Form:
        return form_of(self.task.words, self.config.data.text_columns)

    def outputs(self, inputs: Sequence[Input], between_batches: Callable[[], None] = lambda: None) -> Outputs:
        """What the head says: [rows, classes], or [words, classes], in the order of the rows."""
        split = Split(tuple(inputs), _no_labels(inputs, self.form), self.form)
        length = self.config.training.max_length
        tokens = tokenize_split(split, self.tokenizer, length, fingerprint="", name="", cache_dir=None)
        if not takes_token_types(self.model):
            tokens = replace(tokens, token_type_ids=None)
        padding, multiple = self.tokenizer.pad_token_id, self.device.multiple_of
        on_device = DeviceTokens(tokens, padding, self.device.type, MOST_EVALUATION_LENGTHS, multiple)
        most = self.config.training.eval_batch_size
        return on_device.in_order(*outputs_of(self.model, on_device, most, self.device, between_batches))

    def label(self, inputs: Sequence[Input], between_batches: Callable[[], None] = lambda: None) -> Answers:
        """What is to stand beside each row."""
        return ANSWERS[self.task.serves](self, self.outputs(inputs, between_batches), inputs)


def read_model(folder: Path) -> Labeller:
    """Loads a model folder.

    Raises:
        DataError: it is none of ours, or cannot be loaded.
    """
    config = config_of(folder)
    task, device = TASKS[config.task], choose_device(config.training.precision)
    try:
        auto_model = getattr(transformers, task.auto_model)
        model = auto_model.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a damaged file raises anything
        raise DataError(
            f"`{folder}` must hold a whole model, but got: {first_line(error)}. Save it again with `hpo.train`."
        ) from error
    model = model.to(device.type).eval()
    replace_layers(model, task.first_token_only)
    classes = tuple(name for _, name in sorted(model.config.id2label.items()))
    return Labeller(config, classes, model, tokenizer, device)


def _no_labels(inputs: Sequence[Input], form: Form) -> NDArray[Any]:
    """Labels that nobody reads; of words there are as many."""
    if form != "words":
        return np.zeros(len(inputs), dtype=np.int64)
    labels = np.empty(len(inputs), dtype=object)
    labels[:] = [np.zeros(len(words), dtype=np.int64) for words in inputs]
    return labels


def _one_label(labeller: Labeller, outputs: NDArray[np.float32], inputs: Sequence[Input]) -> Answers:
    if labeller.task.labels.numeric:
        return {"prediction": [float(value) for value in outputs[:, 0]]}
    probabilities = softmax(outputs.astype(np.float64), axis=1)
    found = probabilities.argmax(axis=1)
    return {
        "prediction": [labeller.classes[at] for at in found],
        "probability": [float(row[at]) for row, at in zip(probabilities, found, strict=True)],
    }


def _several_labels(labeller: Labeller, outputs: NDArray[np.float32], inputs: Sequence[Input]) -> Answers:
    probabilities = expit(outputs.astype(np.float64))
    has = [[name for name, p in zip(labeller.classes, row, strict=True) if p >= 0.5] for row in probabilities]
    each = {
        f"probability_{name}": [float(p) for p in of]
        for name, of in zip(labeller.classes, probabilities.T, strict=True)
    }
    return {"prediction": [", ".join(names) for names in has], **each}


def _tags(labeller: Labeller, outputs: NDArray[np.float32], inputs: Sequence[Input]) -> Answers:
    names = np.array(labeller.classes)[outputs.argmax(axis=1)]
    ends = np.cumsum([len(words) for words in inputs])[:-1]
    return {"prediction": [row.tolist() for row in np.split(names, ends)]}


ANSWERS: dict[str, Callable[[Labeller, NDArray[np.float32], Sequence[Input]], Answers]] = {
    "label": _one_label,
    "labels": _several_labels,
    "entities": _tags,
}
