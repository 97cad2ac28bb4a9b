"""`transformers.Trainer` on a GPU as an expert sets it, without the package `datasets` and without a tokenizer.

Padding is to the longest of a batch, as `DataCollatorWithPadding` does, in less time: it has lists to convert. Knows
nothing of our training code but the names of the settings.
"""

import dataclasses
import tempfile
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from benchmarks.gpu_setup import PAD, Training
from hpo.data.tokens import Tokens
from hpo.training.device import Device

Example = dict[str, torch.Tensor]


class Examples(Dataset[Example]):
    """Row by row, as tensors."""

    def __init__(self, tokens: Tokens) -> None:
        self._input_ids = torch.from_numpy(tokens.input_ids).long().split(tokens.lengths.tolist())
        self._labels = torch.from_numpy(tokens.labels)

    def __len__(self) -> int:
        return len(self._input_ids)

    def __getitem__(self, row: int) -> Example:
        return {"input_ids": self._input_ids[row], "labels": self._labels[row]}  # beyond the end an IndexError


def collate(examples: list[Example]) -> Example:
    input_ids = pad_sequence([example["input_ids"] for example in examples], batch_first=True, padding_value=PAD)
    labels = torch.stack([example["labels"] for example in examples])
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), "labels": labels}


class OnStep(TrainerCallback):
    def __init__(self, clock: Any) -> None:
        self._clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._clock(state.global_step)


def train(
    model: PreTrainedModel, training: Training, tokens: Tokens, device: Device, *, workers: int, steps: int, clock: Any
) -> None:
    """Trains so many steps; the clock is called after each of them. Attention is what torch chooses of itself."""
    torch.backends.cuda.enable_cudnn_sdp(True)  # ours leaves it out
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=training_arguments(training, device, folder, workers, steps),
            train_dataset=Examples(tokens),
            data_collator=collate,
            callbacks=[OnStep(clock)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def training_arguments(
    training: Training, device: Device, folder: str, workers: int, max_steps: int
) -> TrainingArguments:
    """bf16, batches by length, fused AdamW, pinned memory, and nothing logged, saved or reported.

    Nor is the loss looked at every step (`logging_nan_inf_filter`), which would make the GPU wait.
    """
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    by_length: dict[str, Any] = (
        {"train_sampling_strategy": "group_by_length"}
        if "train_sampling_strategy" in known
        else {"group_by_length": True}
    )
    assert set(by_length) <= known, "the Trainer must be able to group by length"
    return TrainingArguments(
        output_dir=folder,
        max_steps=max_steps,
        optim="adamw_torch_fused",
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm or 0.0,
        per_device_train_batch_size=training.train_batch_size,
        bf16=device.dtype == torch.bfloat16,
        use_cpu=device.type == "cpu",
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=device.type == "cuda",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **by_length,
    )
