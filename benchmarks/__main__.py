"""All CPU rows in one table: `make bench`, `make bench ARGS=--quick`, `python -m benchmarks --help`."""

import argparse
import sys

from benchmarks import startup, study, training
from benchmarks.table import add_common_options, parse, print_table

SCRIPTS = (startup, training, study)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    add_common_options(parser)
    for script in SCRIPTS:
        script.add_options(parser)
    options = parse(parser, startup.QUICK | training.QUICK | study.QUICK, arguments)
    startup_rows = startup.measure(options)
    training_rows, workers = training.measure(options)
    study_rows, notes = study.measure(options, workers)
    print_table("MiniLM-L6 on rotten_tomatoes, batch 32, CPU", [*training_rows, *study_rows, *startup_rows], notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
