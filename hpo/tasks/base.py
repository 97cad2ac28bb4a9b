"""What a task must give the training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Task:
    """One kind of thing to learn: a head, a loss and scores. Each member is a file of this folder."""

    auto_model: Any
    """The class of transformers that puts the head on."""
    loss: str
    """As `hpo.training.losses` names it."""
    metrics: Callable[[NDArray[np.float32], NDArray[np.int64]], dict[str, float]]
    """Of all validation logits and labels; its keys are the metrics that a study may name."""
    first_token_only: bool
    """The head reads the first token's row and no other, in the architectures that `training.encoder` knows."""
