"""The rows that need a GPU: is it right, how many steps a second against an expert's Trainer, and a whole trial.

python -m benchmarks.gpu --pack sst2.npz --train train.tsv --dev dev.tsv    # where the whole project is installed
python -m benchmarks.gpu sst2.npz --json gpu.json                           # where the GPU is
python -m benchmarks.gpu --device cpu --quick                               # does it run? Without a GPU

The second needs this folder and `hpo/`, torch, transformers, accelerate and scikit-learn; no network and no weights.
Without a file it draws tokens as long as SST-2's. A part that fails does not stop the others, but the exit code is 1.
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import transformers
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_checks import capture_without_memory, graphs_agree, halves_agree, layers_agree
from benchmarks.gpu_setup import (
    MULTIPLE,
    CountedCapture,
    Data,
    DeviceData,
    Training,
    as_setup,
    build_step,
    drawn,
    free,
    pack,
    plain_model,
    read,
)
from benchmarks.measure import CYCLE, interleaved, machine, say, software
from benchmarks.table import Check, Row, print_table, ratio_row
from hpo.training.device import Device, choose_device
from hpo.training.finetune import finetune
from hpo.training.graphs import CudaCapture, GraphedStep

T = TypeVar("T")

PARTS = ("correctness", "speed", "trial", "memory", "attention")
"""In this order: a capture that fails may leave traces, so what makes or may make one fail comes last."""
GOAL_RATIO, GOAL_SECONDS = 10.0, 10.0
WORKERS = (0, 2, 4)
"""Loader processes that an expert would try."""
RATES = {"adamw": 1e-4, "adam": 1e-4, "sgd": 1e-2}
"""At which each optimizer moves the weights in a few steps."""


class StepClock:
    """Reads the time when the first steps are done and when the last is, each time waiting for the device."""

    def __init__(self, device: Device, warmup_steps: int, steps: int) -> None:
        self._device, self._steps = device, steps
        self._read_at = (warmup_steps, warmup_steps + steps)
        self._times: list[float] = []

    def __call__(self, step: int) -> None:
        if step in self._read_at:
            self._device.synchronize()
            self._times.append(time.perf_counter())

    @property
    def steps_per_second(self) -> float:
        since, now = self._times
        return self._steps / (now - since)


class Report:
    """What was measured so far. A part that fails leaves its traceback, and the others go on."""

    def __init__(self, device: Device, path: Path | None) -> None:
        self._device, self._path = device, path
        self.rows: list[Row] = []
        self.checks: list[Check] = []
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.measured: dict[str, Any] = {}

    def attempt(self, what: str, measure: Callable[[], T]) -> T | None:
        result: T | None = None
        try:
            result = measure()
        except Exception:
            traceback.print_exc()
            self.failures.append(what)
        try:
            free(self._device)
        except RuntimeError:  # an error that has ended the device's context ends every call after it
            traceback.print_exc()
        self.save()
        return result

    def check(self, what: str, compare: Callable[[], list[Check]]) -> None:
        say(what)
        for check in self.attempt(what, compare) or []:
            self.checks.append(check)
            print(check, flush=True)

    def save(self) -> None:
        """After every part, for the next one may never end."""
        if self._path is not None:
            checks = [asdict(check) for check in self.checks]
            rows = [asdict(row) for row in self.rows]
            found = {**self.measured, "checks": checks, "rows": rows, "notes": self.notes, "failures": self.failures}
            self._path.write_text(json.dumps(found, indent=1), encoding="utf-8")

    def print(self, title: str) -> None:
        passed = sum(check.passed for check in self.checks)
        total = len(self.checks)
        correct = [Row("comparisons", f"{passed} passed", "", "", total, f"all {total}", passed == total)]
        print_table(title, [*(correct if total else []), *self.rows], self.notes)
        for failure in self.failures:
            print(f"FAILED, see its traceback: {failure}")

    @property
    def good(self) -> bool:
        return not self.failures and all(check.passed for check in self.checks)


# Correctness.


def check_correctness(report: Report, models: Sequence[str], data: DeviceData, device: Device, steps: int) -> None:
    for name in models:
        report.check(f"layers of {name}", partial(layers_agree, name, data, device))
    first, *others = models
    cases = [(first, optimizer, dropout) for optimizer in RATES for dropout in (0.0, 0.1)]
    for name, optimizer, dropout in [*cases, *((other, "adamw", 0.1) for other in others)]:
        training = Training(
            optimizer=optimizer, learning_rate=RATES[optimizer], dropout=dropout, warmup_ratio=0.2, train_batch_size=16
        )
        what = f"graphs of {name}, {optimizer}, dropout {dropout:g}"
        report.check(what, partial(graphs_agree, name, training, data, device, steps))


def check_memory(report: Report, name: str, data: DeviceData, device: Device, steps: int) -> None:
    report.check("a batch in parts", partial(halves_agree, name, data, device))
    report.check("no memory for a graph", partial(capture_without_memory, name, data, device, steps))


# Attention: which kernel torch chooses, and what each would take.


def measure_attention(report: Report, device: Device) -> None:
    """Forward and backward as a layer of a batch of 32 short texts asks for it; for whoever wants it faster."""
    for name, width in (("MiniLM-L6", 32), ("DistilBERT", 64)):
        say(f"attention of {name}")
        found = report.attempt(f"attention of {name}", partial(_attention_kernels, width, device))
        if found is not None:
            report.measured.setdefault("attention", {})[name] = found
            kernels = ", ".join(f"{kernel} {said}" for kernel, said in found["kernels"].items())
            print(f"attention of {name}: torch of itself chooses {found['chosen']}; {kernels}", flush=True)


def _attention_kernels(width: int, device: Device) -> dict[str, Any]:
    def inputs(length: int) -> tuple[torch.Tensor, ...]:
        def heads() -> torch.Tensor:
            return torch.randn(32, 12, length, width, device=device.type, dtype=device.dtype, requires_grad=True)

        bias = torch.zeros(32, 1, 1, length, device=device.type, dtype=device.dtype)
        bias[:, :, :, length // 2 :] = -torch.inf
        return heads(), heads(), heads(), bias

    def forward_and_backward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> None:
        context = scaled_dot_product_attention(query, key, value, bias, dropout_p=0.1)
        torch.autograd.grad(context, (query, key, value), context)

    torch.backends.cuda.enable_cudnn_sdp(True)  # ours leaves it out
    query, key, value, bias = inputs(32)
    chosen = SDPBackend(torch._fused_sdp_choice(query, key, value, bias, dropout_p=0.1, is_causal=False)).name
    kernels: dict[str, str] = {}
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
        try:
            with sdpa_kernel(backend):
                forward_and_backward(*inputs(24))  # what a library makes at its first use of all
                since = _now(device)
                forward_and_backward(query, key, value, bias)
                first = _now(device) - since

                def many(times: int = 20) -> None:
                    for _ in range(times):
                        forward_and_backward(query, key, value, bias)

                replay = CudaCapture()(many)
                replay()
                since = _now(device)
                for _ in range(10):
                    replay()
                each = (_now(device) - since) / 200
            kernels[backend.name] = f"{1e6 * each:.1f} us, {1e3 * first:.0f} ms the first time of a shape"
        except RuntimeError as error:
            kernels[backend.name] = f"none ({str(error).splitlines()[0]})"
            free(device)
    return {"chosen": chosen, "kernels": kernels}


def _now(device: Device) -> float:
    device.synchronize()
    return time.perf_counter()


# Speed.


@dataclass(frozen=True)
class Race:
    """Steps per second of one model at one batch size, by everybody who trains it."""

    name: str
    training: Training
    host: Data
    data: DeviceData
    device: Device
    warmup_steps: int
    steps: int

    def expert(self, workers: int) -> float:
        """The Trainer, with so many loader processes."""
        from benchmarks import gpu_peer  # the Trainer takes seconds to import

        free(self.device)
        clock = StepClock(self.device, self.warmup_steps, self.steps)
        gpu_peer.train(
            plain_model(self.name, self.training.dropout, self.device),
            self.training,
            self.host.train,
            self.device,
            workers=workers,
            steps=self.warmup_steps + self.steps,
            clock=clock,
        )
        return clock.steps_per_second

    def ours(self, graphed: bool, compiled: bool = False) -> float:
        """The product's loop. Every shape is captured before the clock starts: the whole trial's row has that time."""
        free(self.device)
        clock = StepClock(self.device, self.warmup_steps, self.steps)
        plain = build_step(self.name, self.training, self.data, self.device)
        model = plain.model.train()
        if compiled:
            plain.model = cast(nn.Module, torch.compile(model, dynamic=True))
        step = GraphedStep(plain, CountedCapture(self.device)) if graphed else plain
        for length in range(MULTIPLE, self.data.longest + 1, MULTIPLE):
            rows = self.data.shortest_rows(self.training.train_batch_size, length, self.device)
            for _ in range(2):
                step(rows, 0.0)
        steps = self.warmup_steps + self.steps
        for _ in finetune(as_setup(self.training, self.data, self.device, model, step, steps), clock):
            pass
        return clock.steps_per_second


def measure_speed(report: Report, race: Race, options: argparse.Namespace) -> None:
    what = f"{race.name}, batch {race.training.train_batch_size}"
    trying = replace(race, warmup_steps=CYCLE, steps=CYCLE) if not options.quick else race
    tried: dict[int, float | None] = {}
    for workers in options.workers:
        say(f"{what}: the expert with {workers} loader processes")
        tried[workers] = report.attempt(f"{what}: expert, {workers} loaders", partial(trying.expert, workers))
    workers = max(options.workers, key=lambda count: tried[count] or 0.0)
    contestants = {
        "graphed": partial(race.ours, graphed=True),
        "plain": partial(race.ours, graphed=False),
        "expert": partial(race.expert, workers),
    }
    if options.compile:
        contestants["compiled"] = partial(race.ours, graphed=False, compiled=True)

    def take_turn(contestant: str, repeat: int) -> float | None:
        steps_per_second = report.attempt(f"{what}: {contestant}", contestants[contestant])
        if steps_per_second is not None:
            say(f"      {steps_per_second:,.1f} steps/s")  # at once: the rows come when all is done
        return steps_per_second

    say(f"{what}: {race.warmup_steps} + {race.steps} steps")
    runs = interleaved({contestant: partial(take_turn, contestant) for contestant in contestants}, options.repeats)
    report.measured.setdefault("speed", {})[what] = {**runs, "workers": workers, "expert_by_workers": tried}
    labels = {
        "graphed": f"{what}, expert ({race.device.precision}, by length, {workers} loaders)",
        "plain": f"{what}, ours without graphs",
        "compiled": f"{what}, ours under torch.compile",
    }
    for contestant, label in labels.items():
        if contestant in runs:
            goal = GOAL_RATIO if contestant == "graphed" else None
            report.rows += _speed_row(label, runs[contestant], runs["expert"], goal)


def _speed_row(
    label: str, ours: Sequence[float | None], theirs: Sequence[float | None], goal: float | None
) -> list[Row]:
    """Of the rounds in which both came through."""
    rounds = [(one, other) for one, other in zip(ours, theirs, strict=True) if one is not None and other is not None]
    if rounds:
        both, peers = zip(*rounds, strict=True)
        return [ratio_row(label, both, peers, "steps/s", higher_is_better=True, goal=goal)]
    alone = [one for one in ours if one is not None]
    return [Row(label, f"{statistics.median(alone):,.0f} steps/s", "failed", "", len(alone))] if alone else []


# A whole trial.


def measure_trial(report: Report, name: str, data: DeviceData, device: Device, options: argparse.Namespace) -> None:
    """From the weights in memory and the tokens on the device, as a trial of a running study starts."""
    training = Training(num_train_epochs=options.epochs)
    batches = -(-len(data.train) // training.train_batch_size)
    steps = max(1, round(training.num_train_epochs * batches))
    runs: list[dict[str, float]] = []
    for repeat in range(options.repeats):
        say(f"whole trial {repeat + 1}/{options.repeats}: {steps} steps")
        found = report.attempt("whole trial", partial(_trial, name, training, data, device, steps))
        if found is not None:
            runs.append(found)
            report.measured["trial"] = runs
    if runs:
        seconds = [run["seconds"] for run in runs]
        median = statistics.median(seconds)
        captures, took = (statistics.median(run[key] for run in runs) for key in ("captures", "capture_seconds"))
        report.rows.append(
            Row(
                what=f"{name}, {training.num_train_epochs:g} epochs of {len(data.train):,} rows, batch 32, evaluations",
                ours=f"{median:.1f} s",
                theirs="",
                result=f"{median:.1f} s ({min(seconds):.1f} to {max(seconds):.1f})",
                n=len(seconds),
                goal=f"{GOAL_SECONDS:g} s",
                reached=median <= GOAL_SECONDS,
            )
        )
        report.notes.append(
            f"Whole trial: {captures:.0f} captures in {took:.1f} s of it, peak memory "
            f"{max(run['memory_mib'] for run in runs):,.0f} MiB, accuracy from random weights "
            f"{statistics.median(run['accuracy'] for run in runs):.3f}; its first run took {seconds[0]:.1f} s."
        )


def _trial(name: str, training: Training, data: DeviceData, device: Device, steps: int) -> dict[str, float]:
    counted = CountedCapture(device)
    since = _now(device)
    step = build_step(name, training, data, device)
    setup = as_setup(training, data, device, step.model, GraphedStep(step, counted), steps)
    evaluations = list(finetune(setup))
    seconds = _now(device) - since
    last = evaluations[-1]
    assert (last.step, last.global_step) == (training.num_evaluations, steps), "the whole budget must be used"
    return {
        "seconds": seconds,
        "steps": steps,
        "captures": counted.captures,
        "replays": counted.replays,
        "capture_seconds": counted.seconds,
        "memory_mib": last.memory_mib,
        "accuracy": last.metrics["eval/accuracy"],
        "loss": last.metrics["eval/loss"],
    }


# The command.


def machine_notes(device: Device) -> dict[str, str]:
    """What the numbers depend on."""
    notes = {"device": device.name, "precision": device.precision, "machine": machine(), "software": software()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        notes["gpu"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, "
            f"cuDNN {torch.backends.cudnn.version()}, Python {platform.python_version()}"
        )
    return notes


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("file", nargs="?", type=Path, help="tokens that --pack has written (default: drawn ones)")
    made.add_argument("--pack", type=Path, metavar="FILE", help="write the tokens of --train and --dev, and end")
    made.add_argument("--train", type=Path, metavar="TSV", help="SST-2's train.tsv, for --pack")
    made.add_argument("--dev", type=Path, metavar="TSV", help="SST-2's dev.tsv, for --pack")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    made.add_argument("--models", nargs="+", choices=("MiniLM-L6", "DistilBERT", "tiny"))
    made.add_argument("--batch-sizes", nargs="+", type=int, default=(16, 32), metavar="N", help="default: 16 32")
    made.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds (default: 3)")
    made.add_argument(
        "--steps", type=int, default=6 * CYCLE, metavar="N", help=f"timed; best whole {CYCLE}s (default: 300)"
    )
    made.add_argument("--warmup-steps", type=int, default=CYCLE, metavar="N", help="before them (default: 50)")
    made.add_argument("--check-steps", type=int, default=96, metavar="N", help="of a comparison (default: 96)")
    made.add_argument("--epochs", type=float, default=3.0, metavar="X", help="of the whole trial (default: 3)")
    made.add_argument("--workers", nargs="+", type=int, default=WORKERS, metavar="N", help="the expert tries (0 2 4)")
    made.add_argument("--rows", type=int, metavar="N", help="training rows, at most (default: all)")
    made.add_argument("--compile", action="store_true", help="also ours under torch.compile, which takes minutes")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    made.add_argument("--quick", action="store_true", help="does it run? The numbers mean nothing")
    return made


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """`--quick` changes the defaults, and what is given beside it still holds."""
    made = parser()
    options = made.parse_args(arguments)
    if options.quick:
        made.set_defaults(steps=10, warmup_steps=5, repeats=1, check_steps=24, workers=(0,), rows=400, batch_sizes=(8,))
        options = made.parse_args(arguments)
    if options.models is None:
        options.models = ("tiny",) if options.quick and options.device == "cpu" else ("MiniLM-L6", "DistilBERT")
    if options.pack and not (options.train and options.dev):
        made.error("--pack needs --train and --dev")
    if options.device == "cuda" and not options.pack and not torch.cuda.is_available():
        made.error("torch sees no GPU here. `--device cpu --quick` runs what can be run without one")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_of(arguments)
    if options.pack:
        pack(options.pack, options.train, options.dev)
        return 0
    transformers.logging.set_verbosity_error()
    device = choose_device("auto") if options.device == "cuda" else Device("cpu", "CPU", torch.float32)
    host = drawn() if options.file is None else read(options.file)
    if options.rows is not None:
        host = host.first(options.rows, max(1, options.rows // 10))
    data = DeviceData.of(host, device)
    report = Report(device, options.json)
    report.measured |= {
        **machine_notes(device),
        "data": host.described,
        "options": {key: str(value) for key, value in vars(options).items()},
    }
    say("; ".join(report.measured[key] for key in ("device", "software", "data")))
    report.notes.append(f"Data: {host.described}. Weights are random. {report.measured.get('gpu', device.name)}.")
    first = options.models[0]
    if "correctness" in options.parts:
        check_correctness(report, options.models, data, device, options.check_steps)
    if "speed" in options.parts:
        for name, batch_size in itertools.product(options.models, options.batch_sizes):
            training = Training(train_batch_size=batch_size, num_evaluations=1)
            race = Race(name, training, host, data, device, options.warmup_steps, options.steps)
            measure_speed(report, race, options)
    if "trial" in options.parts:
        measure_trial(report, first, data, device, options)
    if device.type == "cpu":
        report.notes.append("Without a GPU: a graph is a function that is called again, and memory was not limited.")
    elif "memory" in options.parts:
        check_memory(report, first, data, device, options.check_steps)
    if device.type == "cuda" and "attention" in options.parts:
        measure_attention(report, replace(device, dtype=torch.bfloat16))
    report.save()
    report.print("GPU rows" if device.type == "cuda" else "GPU rows, tried WITHOUT A GPU: the numbers mean nothing")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
