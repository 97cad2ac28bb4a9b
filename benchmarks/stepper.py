"""A training to be timed step by step; as a script one side of `benchmarks.against`: a step with every line it reads.

It imports only the `hpo` that is first on the path, which may be that of another checkout.
"""

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpo import space
from hpo.study_file import read_study
from hpo.training import setup as setup_module
from hpo.training.setup import Setup


def prepared(study: Path, seed: int, cache: Path) -> tuple[Setup, Iterator[tuple[Any, float]]]:
    """The untuned default of a study, ready to train, and the rows and learning rates of its steps, without an end."""
    config = space.trial_config(read_study(study, []), {}, seed)
    setup = setup_module.set_up(config, cache)
    setup.pretrained.model.train()
    batches = setup.train.training_rows(config.training.train_batch_size, np.random.default_rng(seed))
    return setup, zip(batches, itertools.cycle(setup.learning_rates), strict=False)


def main(study: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as cache:
        setup, steps_of = prepared(Path(study), seed, Path(cache))
        print(setup_module.__file__, flush=True)
        for _ in sys.stdin:
            step = next(steps_of)
            started = time.perf_counter()
            loss = float(setup.step(*step)[0])
            print(json.dumps([time.perf_counter() - started, loss]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
