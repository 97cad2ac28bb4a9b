"""How everything here is measured: a fresh process each time, contestants in turn, ratios within a round."""

import contextlib
import importlib.metadata
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hpo.provenance import git_commit

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
# CPU rows on a machine with a GPU too, and nobody asks a network for anything.
CHILD_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
CYCLE = 50
"""Batches over which the Trainer's order by length runs from long texts to short ones, again and again: what is timed,
and what is left out before it, are whole cycles, or more of the one than of the other would be timed."""
SIGNIFICANT = 0.05
"""Below this p-value two means differ by more than noise."""


@dataclass(frozen=True)
class Finished:
    """A process that has ended well."""

    stdout: str
    seconds: float
    """Wall time of the whole process."""
    peak_memory_mib: float
    """Of resident memory, as the kernel counted it; of its own children the largest counts, not their sum."""


def run_module(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Finished:
    """`python -m module` in a fresh process, with this project first on its path.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | CHILD_ENVIRONMENT | dict(environment or {}),
        )
        # Popen.wait would lose the resource usage, and getrusage gives the largest of all children so far.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode:
            said = (stdout.read() + stderr.read())[-4000:]
            raise RuntimeError(f"`python -m {module}` must succeed, but got exit code {process.returncode}:\n{said}")
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return Finished(stdout.read(), seconds, usage.ru_maxrss / unit)


def interleaved(contestants: Mapping[str, Callable[[int], T]], repeats: int) -> dict[str, list[T]]:
    """A B C, A B C, ...: what slows the machine for a while slows them all. Each is told the number of the round."""
    results: dict[str, list[T]] = {name: [] for name in contestants}
    for repeat in range(repeats):
        for name, measure in contestants.items():
            say(f"  {repeat + 1}/{repeats} {name}")
            results[name].append(measure(repeat))
    return results


def say(text: str) -> None:
    """Progress, beside the results on stdout."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Spread:
    """The median of several values, and how far they lie apart."""

    median: float
    low: float
    high: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Of the ratios within each round, not the ratio of the medians: both sides of a round saw the same machine."""
    return spread([above / below for above, below in zip(numerators, denominators, strict=True)])


@dataclass(frozen=True)
class Difference:
    """The difference of two means, with Welch's t-test of whether it is more than noise."""

    mean: float
    standard_error: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    p_value: float

    @property
    def within_noise(self) -> bool:
        return self.p_value >= SIGNIFICANT


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """`ours` minus `theirs`, each with its own variance: one of two trainers may well be the steadier one."""
    mean = statistics.mean(ours) - statistics.mean(theirs)
    squares = [statistics.variance(values) / len(values) for values in (ours, theirs)]
    error = math.sqrt(sum(squares))
    if error == 0:  # all equal among themselves: a t-test has nothing to go by
        return Difference(mean, error, mean, mean, 1.0 if mean == 0 else 0.0)
    from scipy.stats import ttest_ind  # half a second, at the end

    test = ttest_ind(ours, theirs, equal_var=False)
    low, high = test.confidence_interval(1 - SIGNIFICANT)
    return Difference(mean, error, float(low), float(high), float(test.pvalue))


def use_cores(count: int) -> None:
    """Keeps this process, and all that it starts, to so many of its cores; torch takes as many threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    else:
        os.environ["OMP_NUM_THREADS"] = str(count)


def machine() -> str:
    """The processor, the cores in use, and the system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores in use, {platform.system()} {platform.release()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names: Iterable[str] = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(iter(names), platform.processor() or platform.machine())


def software() -> str:
    """The commit of this code, and the versions of what computes; a machine for the GPU rows has not all of it."""
    used = [f"python {platform.python_version()}"]
    for name in ("torch", "transformers", "accelerate", "optuna", "mlflow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            used.append(f"{name} {importlib.metadata.version(name)}")
    return f"hpo {(git_commit() or 'without a commit')[:19]}; {', '.join(used)}"
