"""A running trial on disk: everything that going on with it to the bit takes, written whole or not at all.

The training waits only while its tensors are copied; a thread writes the copy.
"""

import dataclasses
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from hpo.output import replacing, temporaries
from hpo.training.finetune import CurvePoint, Evaluation, Progress
from hpo.training.setup import Setup

# What of a `Progress` is a number.
PLAIN = ("global_step", "examples", "seconds", "evaluating", "memory_mib")
# Of what is written. Another one is no mistake: the trial then starts from its beginning.
FORMAT = 3


class Checkpoints:
    """Those of one trial, of which the last one is kept."""

    def __init__(self, path: Path, every: float) -> None:
        """`every` so many seconds, at most."""
        self.path, self.every = path, every
        self._written = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    @property
    def due(self) -> bool:
        return time.monotonic() - self._written >= self.every and (self._writing is None or self._writing.done())

    def save(self, setup: Setup, progress: Progress) -> None:
        """Copies the state and has it written.

        Raises:
            OSError: the one before could not be written.
        """
        self.wait()
        state = _state(setup, progress)
        self._writing = self._thread.submit(_write, state, self.path)
        self._written = time.monotonic()

    def wait(self) -> None:
        """Until the last one is on disk. Raises `OSError` if it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def restore(self, setup: Setup) -> Progress | None:
        """Puts a new setup where the trial stood, and says where that is; None where there is nothing to go on from.

        A file that is damaged, or of another configuration, other data, weights or shapes, is none to go on from.
        """
        try:
            # Tensors, numbers and strings: nothing that could run.
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["format"] != FORMAT or state["of"] != _identity(setup):
                return None
        except (OSError, RuntimeError, UnpicklingError, EOFError, KeyError, TypeError, ValueError):
            return None
        own = setup.pretrained.model.state_dict()
        if {name: own[name].shape for name in own} != {name: tensor.shape for name, tensor in state["model"].items()}:
            return None
        setup.pretrained.model.load_state_dict(state["model"])
        optimizer = setup.step.optimizer
        # Without its settings, which are those of the configuration: the learning rate of a GPU is a tensor there, and
        # a step that was captured with one of the CPU would keep its value for ever.
        settings = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": settings})
        setup.step.micro_batch_size = state["micro_batch_size"]
        setup.averages.restore(state["averages"])
        setup.step.taken = state["progress"]["global_step"]
        torch.set_rng_state(state["random"]["cpu"])
        if setup.device.type == "cuda" and "cuda" in state["random"]:  # not where it began on a CPU
            torch.cuda.set_rng_state(state["random"]["cuda"])
        return _progress(state["progress"])

    def close(self, *, keep: bool) -> None:
        """Ends the thread; a trial that has come to its end needs no checkpoint, nor does any attempt before it."""
        self._thread.shutdown()
        if not keep:
            for path in (self.path, *temporaries(self.path)):
                path.unlink(missing_ok=True)


def _identity(setup: Setup) -> dict[str, Any]:
    """What must be the same for one training to go on where another stood."""
    return {
        "config": setup.config.model_dump(mode="json"),
        "data": setup.splits.fingerprint,
        "model": setup.pretrained.fingerprint,
        "teachers": dict(setup.teachers),
        "precision": setup.device.precision,
    }


def _state(setup: Setup, progress: Progress) -> dict[str, Any]:
    """A copy of all of it, on the CPU, which further training does not change."""
    progress.look_at_clock()
    random = {"cpu": torch.get_rng_state()}
    if setup.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state()
    stored = {name: getattr(progress, name) for name in PLAIN}
    return {
        "format": FORMAT,
        "of": _identity(setup),
        "model": _copied(setup.pretrained.model.state_dict()),
        "optimizer": _copied(setup.step.optimizer.state_dict()),
        "averages": _copied(setup.averages.tensors),
        "micro_batch_size": setup.step.micro_batch_size,
        "random": random,
        "progress": {
            **stored,
            "evaluations": [dataclasses.asdict(evaluation) for evaluation in progress.evaluations],
            "window": _copied(progress.window),
            "curve": _copied(progress.curve),
        },
    }


def _copied(value: Any) -> Any:
    match value:
        case torch.Tensor():
            return value.detach().to("cpu", copy=True)
        case dict():
            return {key: _copied(inner) for key, inner in value.items()}
        case list() | tuple():
            return type(value)(map(_copied, value))
    return value


def _progress(stored: dict[str, Any]) -> Progress:
    evaluations = [
        Evaluation(**{**evaluation, "curve": tuple(CurvePoint(**point) for point in evaluation["curve"])})
        for evaluation in stored["evaluations"]
    ]
    return Progress(**{**stored, "evaluations": evaluations})


def _write(state: dict[str, Any], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:  # by torch's own a full disk has other words
        torch.save(state, file)
