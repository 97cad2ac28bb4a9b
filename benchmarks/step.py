"""Where a training step spends its time on a CPU, and what each of our changes gives: `python -m benchmarks.step`.

Every variant has what the one before it has and one thing more, from transformers' own layers to ours, trained for the
same steps in a process of its own.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Finished, interleaved, machine, ratios, run_module, say, software, spread
from benchmarks.table import add_common_options, parse

STUDY = ROOT / "studies" / "rotten_tomatoes.yaml"
QUICK = {"repeats": 1, "steps": 3, "warmup_steps": 1, "operators": 5}
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")
# What each variant adds to the one before it, and what is not there yet takes the place of in `set_up`.
CHANGES: dict[str, str] = {
    "transformers' own": "",
    "memory is kept": "keep_freed_memory",
    "dropout from 16 bits": "replace_dropouts",
    "words of the study only": "keep_seen",
    "our layers": "replace_layers",
    "last layer: one row": "first_token_only",
    "clipping in the optimizer": "clip_gradients",
    "16 lengths to pad to": "padded_lengths",
}


@dataclass(frozen=True)
class Timed:
    """One variant in one process."""

    step_ms: float
    """The mean over the timed steps."""
    examples_per_second: float
    peak_memory_mib: float = 0.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.split("\n")[0])
    add_common_options(parser)
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds (default: 3)")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="steps that are timed (default: 100)")
    parser.add_argument("--warmup-steps", type=int, default=20, metavar="N", help="steps before them (default: 20)")
    parser.add_argument("--operators", type=int, default=14, metavar="N", help="lines of the profile (default: 14)")
    parser.add_argument("--child", metavar="JSON", help=argparse.SUPPRESS)
    options = parse(parser, QUICK, arguments)
    if options.child:
        _child(**json.loads(options.child))
        return 0
    runs = interleaved({name: _measured(name, options) for name in CHANGES}, options.repeats)
    _print_table({name: list(of) for name, of in runs.items()})
    for name in (next(iter(CHANGES)), list(CHANGES)[-1]):
        say(f"profile: {name}")
        call = {"variant": name, "steps": 20, "warmup_steps": options.warmup_steps, "operators": options.operators}
        print(f"\n{name}\n{_in_a_child(call, options).stdout}")
    print(machine(), software(), sep="\n")
    return 0


def _in_a_child(call: dict[str, Any], options: argparse.Namespace) -> Finished:
    return run_module("benchmarks.step", "--cores", str(options.cores), "--child", json.dumps(call))


def _measured(name: str, options: argparse.Namespace) -> Callable[[int], Timed]:
    call = {"variant": name, "steps": options.steps, "warmup_steps": options.warmup_steps}

    def measure(repeat: int) -> Timed:
        process = _in_a_child(call | {"seed": repeat}, options)
        timed = Timed(**json.loads(process.stdout.splitlines()[-1]))
        return replace(timed, peak_memory_mib=process.peak_memory_mib)

    return measure


def _print_table(runs: dict[str, list[Timed]]) -> None:
    first = [run.step_ms for run in next(iter(runs.values()))]
    before = first
    print(f"{'':28}{'ms a step':>10}{'examples/s':>12}{'of the one before':>20}{'of the first':>20}{'peak MiB':>10}")
    for name, of in runs.items():
        steps = [run.step_ms for run in of]
        times = [ratios(steps, others) for others in (before, first)]
        shown = [f"{each.median:.2f} ({each.low:.2f} to {each.high:.2f})" for each in times]
        speed, peak = (spread([getattr(run, key) for run in of]) for key in ("examples_per_second", "peak_memory_mib"))
        print(
            f"{name:28}{spread(steps).median:10.1f}{speed.median:12.0f}{shown[0]:>20}{shown[1]:>20}{peak.median:10,.0f}"
        )
        before = steps


def _child(variant: str, steps: int, warmup_steps: int, seed: int = 0, operators: int = 0) -> None:
    from benchmarks.stepper import prepared  # and with it torch, which only a child needs

    _take_back(list(CHANGES)[list(CHANGES).index(variant) + 1 :])
    with tempfile.TemporaryDirectory() as cache:
        setup, steps_of = prepared(STUDY, seed, Path(cache))
        for _ in range(warmup_steps):
            setup.step(*next(steps_of))
        if operators:
            _profile(setup, steps_of, steps, operators)
            return
        started, examples = time.perf_counter(), 0
        for _ in range(steps):
            rows, rate = next(steps_of)
            setup.step(rows, rate)
            examples += len(rows)
        seconds = time.perf_counter() - started
    print(json.dumps({"step_ms": 1000 * seconds / steps, "examples_per_second": examples / seconds}))


def _profile(setup: Any, steps_of: Iterator[Any], steps: int, operators: int) -> None:
    from torch.profiler import ProfilerActivity, profile

    took: Counter[str] = Counter()  # microseconds by operator, without those that it calls
    calls: Counter[str] = Counter()
    products = []
    for _ in range(steps):
        # Each step alone: what the profiler keeps would fill the gaps that a step leaves for the next one's gradients.
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            setup.step(*next(steps_of))
        for each in profiled.key_averages():
            took[each.key] += each.self_cpu_time_total
            calls[each.key] += each.count
        for event in profiled.events():
            if event.name in PRODUCTS:
                products.append(tuple(shape for shape in event.input_shapes if len(shape) > 1)[-2:])
    total = sum(took.values())
    for key, microseconds in took.most_common(operators):
        print(f"{microseconds / total:7.1%} {microseconds / steps / 1000:7.1f} ms {calls[key] / steps:7.1f}x  {key}")
    print(f"{'':7} {total / steps / 1000:7.1f} ms a step in all, profiling included")
    seconds, flops = _products_alone(products, setup.device.dtype)
    alone, rate = 1000 * seconds / steps, flops / seconds / 1e9
    print(f"{'':7} {alone:7.1f} ms for its matrix products alone, on contiguous tensors: {rate:.0f} GFLOP/s")


def _products_alone(products: Sequence[Any], dtype: Any, rounds: int = 5) -> tuple[float, float]:
    """What these products take with nothing between them, as near to a floor under the step as torch comes.

    Every shape has its tensors once, so that more of them are in the cache than in a step.

    Returns:
        Seconds, the median of some rounds, and floating point operations.
    """
    import torch

    keys = [tuple(map(tuple, shapes)) for shapes in products]
    tensors = {key: [torch.randn(shape).to(dtype) for shape in key] for key in set(keys)}
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        for key in keys:
            torch.matmul(*tensors[key])
        seconds.append(time.perf_counter() - started)
    flops = sum(2.0 * math.prod(left) * right[-1] for left, right in products)
    return statistics.median(seconds[1:]), flops  # the first round compiles


def _take_back(changes: Sequence[str]) -> None:
    """Puts what stood there before these changes in their places, for the rest of the process."""
    from torch import nn

    from hpo.training import batches, model, setup, step
    from hpo.training.encoder import replace_layers

    def plain_clip(optimizer: Any, max_grad_norm: float | None) -> Any:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, max_grad_norm or float("inf"))

    padded_lengths = batches.padded_lengths
    before: dict[str, tuple[Any, str, Any]] = {
        "keep_freed_memory": (setup, "keep_freed_memory", lambda: None),
        "replace_dropouts": (model, "replace_dropouts", lambda model: None),
        "keep_seen": (setup, "keep_seen", lambda model, token_ids: None),
        "first_token_only": (model, "replace_layers", lambda model, first_token_only: replace_layers(model, False)),
        "replace_layers": (model, "replace_layers", lambda model, first_token_only: False),
        "clip_gradients": (step, "clip_gradients", plain_clip),
        "padded_lengths": (batches, "padded_lengths", lambda lengths, most, multiple: padded_lengths(lengths, 1000)),
    }
    taken_back = {CHANGES[name] for name in changes}
    for change, (module, attribute, value) in before.items():
        if change in taken_back:
            setattr(module, attribute, value)


if __name__ == "__main__":
    sys.exit(main())
