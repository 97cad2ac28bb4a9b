"""Whether a training step has become slower, or its result another: `python -m benchmarks.against CHECKOUT`.

This checkout and another one of this project each have a process, and the processes take every step in turns, with the
same rows and on the same cores: what slows the machine for longer than a second slows both. Who goes first alternates.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import CHILD_ENVIRONMENT, ROOT, machine, say, software, spread
from benchmarks.table import add_common_options, parse

STUDY = "studies/rotten_tomatoes.yaml"
QUICK = {"repeats": 1, "steps": 3, "warmup_steps": 1}


@dataclass(frozen=True)
class Stepped:
    """One step of one checkout."""

    seconds: float
    loss: float


class Stepping:
    """A process that trains with the code of a checkout, a step whenever it is told to."""

    def __init__(self, checkout: Path, study: str, seed: int, stack: ExitStack) -> None:
        command = [sys.executable, "-P", str(ROOT / "benchmarks" / "stepper.py"), study, str(seed)]
        environment = os.environ | CHILD_ENVIRONMENT | {"PYTHONPATH": str(checkout.resolve())}
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._process = stack.enter_context(process)
        code = Path(self._answer())
        if not code.is_relative_to(checkout.resolve()):
            raise RuntimeError(f"the process must train with the code of {checkout}, but took {code}")

    def step(self) -> Stepped:
        assert self._process.stdin
        self._process.stdin.write("step\n")
        return Stepped(*json.loads(self._answer()))

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process must take all its steps, but ended: its error is above")
        return line.strip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__.split("\n")[0])
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT", help="a folder with another commit of this project")
    add_common_options(parser, cores=1)
    parser.add_argument("--repeats", type=int, default=4, metavar="N", help="pairs of processes (default: 4)")
    parser.add_argument("--steps", type=int, default=120, metavar="N", help="steps that are timed (default: 120)")
    parser.add_argument("--warmup-steps", type=int, default=20, metavar="N", help="steps before them (default: 20)")
    parser.add_argument("--study", default=STUDY, metavar="FILE", help=f"in both checkouts (default: {STUDY})")
    options = parse(parser, QUICK, arguments)
    medians, same = [], True
    print(f"{'':8}{'ours, ms':>10}{'theirs, ms':>12}{'ours / theirs: median (quartiles)':>36}")
    for repeat in range(options.repeats):
        say(f"  {repeat + 1}/{options.repeats}")
        steps = list(_in_turns(options, repeat))
        same &= all(ours.loss == theirs.loss for ours, theirs in steps)
        timed = steps[options.warmup_steps :]
        ratios = [ours.seconds / theirs.seconds for ours, theirs in timed]
        low, median, high = statistics.quantiles(ratios, method="inclusive")
        ours, theirs = (1000 * statistics.median(pair[role].seconds for pair in timed) for role in (0, 1))
        medians.append(median)
        print(f"{repeat + 1:8}{ours:10.1f}{theirs:12.1f}{f'{median:.3f} ({low:.3f} to {high:.3f})':>36}")
    over = spread(medians)
    print(f"median of {over.n} pairs of processes: {over.median:.3f} ({over.low:.3f} to {over.high:.3f})")
    print(f"losses: {'the same to the bit' if same else 'not the same'}, {options.steps + options.warmup_steps} steps")
    print(machine(), software(), sep="\n")
    return 0


def _in_turns(options: argparse.Namespace, seed: int) -> Iterator[tuple[Stepped, Stepped]]:
    with ExitStack() as stack:
        stepping = [Stepping(checkout, options.study, seed, stack) for checkout in (ROOT, options.checkout)]
        for number in range(options.warmup_steps + options.steps):
            if number % 2:
                theirs, ours = stepping[1].step(), stepping[0].step()
            else:
                ours, theirs = stepping[0].step(), stepping[1].step()
            yield ours, theirs


if __name__ == "__main__":
    sys.exit(main())
