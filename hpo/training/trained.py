"""A model folder of ours, read to be used: to label rows, to teach a student, or to be served otherwise.

Rows go through the tokens, the batches and the loop of an evaluation, so the answers are those that were measured.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hpo.data.inputs import Form, form_of
from hpo.data.splits import Split
from hpo.data.tokens import Tokens, tokenize_split
from hpo.errors import DataError
from hpo.model_folder import config_of
from hpo.spec import ModelSpec, TrialConfig
from hpo.tasks import TASKS
from hpo.tasks.base import Outputs, Task
from hpo.training.batches import MOST_EVALUATION_LENGTHS, Batch, DeviceTokens
from hpo.training.device import Device, choose_device
from hpo.training.encoder import replace_layers
from hpo.training.inference import outputs_of
from hpo.training.model import read_checkpoint, takes_token_types


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model as a training left it."""

    folder: Path
    config: TrialConfig
    """That made it."""
    classes: tuple[str, ...]
    """In the order of its outputs; of numbers, the name of what they are."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: Device

    @property
    def task(self) -> Task:
        return TASKS[self.config.task]

    @property
    def form(self) -> Form:
        """Of what it reads."""
        return form_of(self.task.words, self.config.data.text_columns)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def tokens(self, split: Split, fingerprint: str = "", name: str = "", cache_dir: Path | None = None) -> Tokens:
        """What it reads of rows; as `tokenize_split`, whose cache is for those of a study's data."""
        length = self.config.training.max_length
        tokens = tokenize_split(split, self.tokenizer, length, fingerprint=fingerprint, name=name, cache_dir=cache_dir)
        return tokens if takes_token_types(self.model) else replace(tokens, token_type_ids=None)

    def on_device(self, tokens: Tokens) -> DeviceTokens:
        """These, where the model is."""
        padding, multiple = self.tokenizer.pad_token_id, self.device.multiple_of
        return DeviceTokens(tokens, padding, self.device.type, MOST_EVALUATION_LENGTHS, multiple)

    def outputs(self, tokens: DeviceTokens, between_batches: Callable[[], None] = lambda: None) -> Outputs:
        """What the head says: [rows, classes], or [words, classes], in the order of the rows."""
        most = self.config.training.eval_batch_size
        return tokens.in_order(*outputs_of(self._logits, tokens, most, self.device, between_batches))

    def _logits(self, inputs: Batch) -> torch.Tensor:
        with self.device.autocast():
            logits: torch.Tensor = self.model(**inputs).logits
        return logits


def read_trained(folder: Path, device: Device | None = None, *, fast: bool = True) -> TrainedModel:
    """Reads a model folder, its weights in float32, onto a device.

    Args:
        device: by default the one here, in the precision that the model was trained in.
        fast: with our own layers in the place of its own, which compute the same.

    Raises:
        DataError: it is none of ours, or damaged.
    """
    config, classes = config_of(folder), classes_of(folder)
    task, spec = TASKS[config.task], ModelSpec(name=str(folder.resolve()))
    device = device or choose_device(config.training.precision)
    # Past the cache, which is for the checkpoints that trials start from.
    read = read_checkpoint.__wrapped__
    checkpoint = read(spec, task.auto_model, task.problem_type, task.words, classes, device.type, ())
    if checkpoint.new_weights:
        raise DataError(
            f"`{folder}` must hold a whole trained model, but got no {checkpoint.new_weights[0]}. Save it again with "
            "`hpo.train`."
        )
    model = checkpoint.model.eval()
    model.to(torch.device(device.type))
    if fast:
        replace_layers(model, task.first_token_only)
    return TrainedModel(folder, config, classes, model, checkpoint.tokenizer, device)


def classes_of(folder: Path) -> tuple[str, ...]:
    """The classes of a model folder in the order of its outputs. Raises `DataError` if it names none."""
    path = folder / "config.json"
    try:
        named = json.loads(path.read_bytes())["id2label"]
        return tuple(str(named[str(index)]) for index in range(len(named)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"a model must name its labels, but {path} has no `id2label` that can be read. Use the folder as it was "
            "saved, or save it again with `hpo.train`."
        ) from error
