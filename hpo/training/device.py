"""Where a trial computes and in which precision, and how much memory it took."""

import ctypes
import functools
import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

import psutil
import torch

from hpo.errors import DataError

T = TypeVar("T")
# cudaErrorMemoryAllocation of driver_types.h: such as of a context for which there is no room.
CUDA_OUT_OF_MEMORY = 2


@dataclass(frozen=True)
class Device:
    """A torch device with the precision of the computation; weights are float32 in any case."""

    type: Literal["cuda", "cpu"]
    name: str
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        """As the study file spells it."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def autocast(self) -> torch.autocast:
        """The context of every forward pass."""
        return torch.autocast(self.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    @property
    def multiple_of(self) -> int:
        """What the lengths of batches are multiples of: on a GPU matrix products are faster then."""
        return 8 if self.type == "cuda" else 1

    def largest_that_fits(self, size: int, attempt: Callable[[int], T]) -> tuple[T, int]:
        """What `attempt` gives for `size`, or for the first half, quarter, ... of it that does not run out of memory.

        Returns:
            Its result, and the size that gave it.

        Raises:
            torch.OutOfMemoryError: it does so with 1 as well.
        """
        while True:
            try:
                return attempt(size), size
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            # Only here: the error holds its frames, and they hold what filled the memory.
            size = -(-size // 2)
            gc.collect()
            if self.type == "cuda":
                torch.cuda.empty_cache()

    def synchronize(self) -> None:
        """Waits for the device, so that a clock read after it is true."""
        if self.type == "cuda":
            torch.cuda.synchronize()

    @property
    def gpu(self) -> str | None:
        """The GPU's own name, which no other one in the world has."""
        return str(torch.cuda.get_device_properties(0).uuid) if self.type == "cuda" else None

    def available_mib(self) -> float:
        """MiB that this process could hold in all: what it does hold, and what is free."""
        if self.type == "cuda":
            try:
                return (torch.cuda.memory_reserved() + torch.cuda.mem_get_info()[0]) / 2**20
            except (RuntimeError, MemoryError) as error:  # there is no room even for a context
                if not is_out_of_memory(error):
                    raise
                return 0.0
        return self.memory_mib() + float(psutil.virtual_memory().available) / 2**20

    def held_mib(self) -> float:
        """MiB, as `memory_mib`, that nobody else can have: with what the blocks of a GPU's allocator leave."""
        return torch.cuda.max_memory_reserved() / 2**20 if self.type == "cuda" else self.memory_mib()

    def reset_peak_memory(self) -> None:
        if self.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def memory_mib(self) -> float:
        """MiB: the peak since the last reset on a GPU, what the process holds now on a CPU."""
        if self.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return float(psutil.Process().memory_info().rss) / 2**20


def return_unused_memory() -> None:
    """Gives back what this process keeps of a GPU for its next tensors: others may share it."""
    if torch.cuda.is_initialized():
        with suppress(torch.AcceleratorError):  # it has failed
            torch.cuda.empty_cache()


def device_failed(error: BaseException) -> bool:
    """Whether a GPU reported an error, such as an illegal address: all further calls of this process fail as well."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """A GPU's allocator has an error of its own, CUDA itself a number, and the CPU's allocator only words for it."""
    cuda = isinstance(error, torch.AcceleratorError) and getattr(error, "error_code", None) == CUDA_OUT_OF_MEMORY
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or cuda or "DefaultCPUAllocator" in str(error)


@functools.cache
def keep_freed_memory() -> None:
    """Tells the C library to keep what is freed for the next step, for the whole process.

    By default it returns every tensor of more than 32 MiB to the system, and gets it back page by page, each a fault
    and zeroed: the embeddings' gradient of DistilBERT, 10,000 pages a step. Where it is not glibc nothing happens.
    """
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Gives the system back what is freed by now: of Arrow's memory, in which pandas reads, and of glibc's if it is."""
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def leave_out_cudnn_attention() -> None:
    """Takes cuDNN's attention out of those that torch chooses from, for the whole process.

    On an H100 or H200 torch prefers it. It rounds a dropout probability to a sixteenth, which torch has not always
    known (pytorch/pytorch#174245): a search would compare other settings than it says. It also plans anew for every
    shape, and for short rows it takes twice as long (measured on an H200).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def num_threads() -> int:
    """The threads that torch computes with here: a core each, or what OMP_NUM_THREADS says."""
    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """As OMP_NUM_THREADS, but for a torch that is imported already."""
    torch.set_num_threads(count)


def visible_gpus() -> list[str]:
    """The GPUs of this process, each as CUDA_VISIBLE_DEVICES names it. Takes none of their memory."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = [str(number) for number in range(torch.cuda.device_count())]
    return named.split(",")[: len(numbers)] if named else numbers


def choose_device(precision: Literal["auto", "bf16", "fp32"]) -> Device:
    """The GPU if there is one; `auto` precision is bf16 where the device has units for it.

    Raises:
        DataError: bf16 was asked for on a device that only emulates it.
    """
    if torch.cuda.is_available():
        name, has_bf16 = torch.cuda.get_device_name(), torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = torch.cpu.get_capabilities()
        name = f"{features.get('cpu_name', 'CPU')}, {torch.get_num_threads()} threads"
        has_bf16 = bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("arm_bf16"))
    if precision == "bf16" and not has_bf16:
        raise DataError(
            f"precision bf16 needs a device that computes in it, but got {name}. Use precision: auto or fp32."
        )
    dtype = torch.bfloat16 if has_bf16 and precision != "fp32" else torch.float32
    return Device("cuda" if torch.cuda.is_available() else "cpu", name, dtype)
