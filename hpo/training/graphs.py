"""The step as a CUDA graph for every shape of batch: one launch instead of a thousand.

A small model on a large GPU spends its time on launching kernels, not in them. A shape is run plainly when it is first
met, which also makes what libraries and the optimizer make at their first use; it is captured at the second time, which
computes nothing, and replayed from then on. So no step is run twice, and the results are those of the plain step.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch.optim import Optimizer

from hpo.training.batches import Rows
from hpo.training.device import is_out_of_memory
from hpo.training.optimizer import set_learning_rate
from hpo.training.step import Step


class Capture(Protocol):
    """Records what a function does to the device without doing it, and gives what does it."""

    def __call__(self, record: Callable[[], None]) -> Callable[[], None]: ...


class CudaCapture:
    """By CUDA graphs that share one pool of memory: they never run at the same time, and leave nothing in it."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._room: torch.Tensor | None = None

    def __call__(self, record: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        capturing = torch.cuda.graph(graph, pool=self._pool)
        if self._room is None:
            # For its graphs torch keeps where dropout's generator stands, in memory of the capture's stream. Were there
            # none for it, torch 2.11 would abort the process. Beside this tensor there is some, or it is what raises.
            with torch.cuda.stream(capturing.capture_stream):
                self._room = torch.empty(1, device="cuda")
        with torch.cuda.stream(torch.cuda.current_stream()), capturing:  # what fails would leave its own stream
            record()
        return graph.replay


class GraphedStep:
    """A `Step` that replays what it has captured."""

    def __init__(self, step: Step, capture: Capture) -> None:
        self._step, self._capture = step, capture
        self._fits = True
        self._met: set[tuple[int, int]] = set()
        self._graphs: dict[tuple[int, int], tuple[Callable[[], None], torch.Tensor, torch.Tensor]] = {}

    @property
    def optimizer(self) -> Optimizer:
        return self._step.optimizer

    @property
    def micro_batch_size(self) -> int | None:
        return self._step.micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, size: int | None) -> None:
        self._step.micro_batch_size = size

    @property
    def taken(self) -> int:
        return self._step.taken

    @taken.setter
    def taken(self, steps: int) -> None:
        self._step.taken = steps

    def __call__(self, rows: Rows, learning_rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Step.__call__`."""
        shape = (len(rows), rows.length)
        if shape not in self._graphs and shape in self._met and self._fits:
            self._try_to_capture(shape, rows)
        if shape not in self._graphs:
            self._met.add(shape)
            return self._step(rows, learning_rate)
        replay, indices, results = self._graphs[shape]
        set_learning_rate(self._step.optimizer, learning_rate)
        indices.copy_(rows.indices)
        replay()
        self._step.taken += 1
        loss, grad_norm = results.clone()  # the next replay writes over it
        return loss, grad_norm

    def _try_to_capture(self, shape: tuple[int, int], rows: Rows) -> None:
        """Graphs need memory of their own. Where that is not there, or steps come in parts, the plain one goes on."""
        self._fits = self._step.micro_batch_size is None
        if self._fits:
            try:
                self._graphs[shape] = self._captured(rows)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._fits = False

    def _captured(self, rows: Rows) -> tuple[Callable[[], None], torch.Tensor, torch.Tensor]:
        indices = rows.indices.clone()
        results = torch.zeros(2, device=indices.device)

        def record() -> None:
            results.copy_(torch.stack(self._step.compute(Rows(indices, rows.length))))

        return self._capture(record), indices, results
