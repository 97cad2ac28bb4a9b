"""How long the command line lets one wait before it answers: `python -m hpo.run --help`, a whole process.

python -m benchmarks.startup
"""

import argparse
import sys

from benchmarks.measure import interleaved, run_module, say, spread
from benchmarks.table import Row, add_common_options, parse, print_table

GOAL_SECONDS = 0.4
QUICK = {"startup_repeats": 2}


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("startup")
    group.add_argument("--startup-repeats", type=int, default=9, metavar="N", help="processes (default: 9)")


def measure(options: argparse.Namespace) -> list[Row]:
    say("startup")
    run_module("hpo.run", "--help")  # byte code is compiled once, by whoever comes first
    help_ = {"--help": lambda repeat: run_module("hpo.run", "--help").seconds}
    seconds = spread(interleaved(help_, options.startup_repeats)["--help"])
    return [
        Row(
            what="python -m hpo.run --help",
            ours=f"{seconds.median:.2f} s",
            theirs="",
            result=f"{seconds.median:.2f} s ({seconds.low:.2f} to {seconds.high:.2f})",
            n=seconds.n,
            goal=f"{GOAL_SECONDS:g} s",
            reached=seconds.median <= GOAL_SECONDS,
        )
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.split("\n")[0])
    add_common_options(parser)
    add_options(parser)
    print_table("Startup", measure(parse(parser, QUICK, arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
