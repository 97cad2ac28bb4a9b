"""What a finished training predicts, of validation and of the test split, whose labels nobody looks at here.

A finalist leaves its predictions in Optuna's storage, wherever it ran: in the end the test split's labels are held
against those of the winner and of the default, once, without any weights.
"""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.training.finetune import predict
from hpo.training.setup import Setup, held_back_tokens, trained_model

# The attribute of a finalist that has them.
PREDICTIONS = "predictions"


def predictions(
    setup: Setup, cache_dir: Path | None, between_batches: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The logits of validation and test, as a trial's attribute keeps them. Ends the setup's training."""
    trained_model(setup)  # with the whole vocabulary: the test split has words of its own
    splits = {"validation": setup.validation, "test": held_back_tokens(setup, cache_dir)}
    return {name: packed(predict(setup, tokens, between_batches)) for name, tokens in splits.items()}


def packed(logits: NDArray[np.float32]) -> dict[str, Any]:
    """[rows, classes] as JSON holds it, to the bit."""
    return {"shape": list(logits.shape), "float32": base64.b64encode(logits.astype("<f4").tobytes()).decode()}


def unpacked(kept: Mapping[str, Any]) -> NDArray[np.float32]:
    """The same as an array [rows, classes]."""
    return np.frombuffer(base64.b64decode(kept["float32"]), "<f4").reshape(kept["shape"])
