"""One side of `benchmarks.against`: a step with every line that is read. It imports only the `hpo` of its checkout."""

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hpo import space
from hpo.study_file import read_study
from hpo.training import setup as setup_module


def main(study: str, seed: int) -> None:
    spec = read_study(Path(study), [])
    config = space.trial_config(spec, {}, seed)
    with tempfile.TemporaryDirectory() as cache:
        setup = setup_module.set_up(config, Path(cache))
        setup.pretrained.model.train()
        batches = setup.train.training_rows(config.training.train_batch_size, np.random.default_rng(seed))
        rates = itertools.cycle(setup.learning_rates)
        print(setup_module.__file__, flush=True)
        for _ in sys.stdin:
            rows, rate = next(batches), next(rates)
            started = time.perf_counter()
            loss = float(setup.step(rows, rate)[0])
            print(json.dumps([time.perf_counter() - started, loss]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
