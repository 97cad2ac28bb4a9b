"""Studies long enough to be interrupted, and what is looked at of them meanwhile and afterwards."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial

from conftest import StudyMaker
from hpo import trial, trial_end
from hpo.errors import StorageError
from hpo.executors import Executor, processes
from hpo.lease import OWNER
from hpo.spec import StudySpec
from hpo.storage import open_storage
from hpo.study import load_study, open_study
from hpo.tracking import tracker_of, tracking_uri
from hpo.training.setup import Setup, set_up
from hpo.trial import Job

ROOT = Path(__file__).parent.parent


def long(raw_study: StudyMaker, name: str = "long", **sections: Any) -> dict[str, Any]:
    """A study whose trials take some seconds, whose pruner prunes nothing, and whose default is drawn again."""
    training = raw_study()["training"] | {"num_train_epochs": 40, "num_evaluations": 10}
    space = {"weight_decay": {"choices": [0.01, 0.02, 0.03]}}
    common = {"name": name, "training": training, "search_space": space, "pruner": {"name": "none"}}
    return raw_study(**common | {"sampler": {"name": "random"}, "n_trials": 2, "checkpoint_every": 0.2} | sections)


def runs_of(output: Path, name: str = "long") -> dict[str, Run]:
    tracker_of(output).flush()
    client = MlflowClient(tracking_uri(output))
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    return {run.info.run_name: run for run in runs}


def pid_of(output: Path, number: int, name: str = "long") -> int:
    return int(load_study(open_storage(output), name).trials[number].user_attrs[OWNER]["pid"])


def trials_of(output: Path, name: str = "long") -> list[FrozenTrial]:
    try:
        return load_study(open_storage(output), name).trials
    except StorageError:  # not there yet
        return []


def begin(spec: StudySpec, output: Path) -> Job:
    """A study as the driver begins it."""
    open_study(spec, open_storage(output))
    return Job(output, tracker_of(output).start_study(spec.name, None, "", {}))


def wait_until_free(executor: Executor) -> None:
    deadline = time.monotonic() + 120
    while not executor.free:
        assert time.monotonic() < deadline
        assert executor.wait(0.5) == []


def start_run(output: Path, path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hpo.run", "--study", str(path), "--output", str(output), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in two minutes"
        time.sleep(0.1)


def work_on_a_gpu_that_fails_once(pipe: Connection, quiet: bool, environment: dict[str, str]) -> None:
    """A worker whose first trial of all, by the file that FAILED names, gets an error as a GPU's."""

    def fail(*arguments: Any) -> None:
        with suppress(FileExistsError):
            Path(environment["FAILED"]).touch(exist_ok=False)
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def set_up_to_fail(*arguments: Any, **keywords: Any) -> Setup:
        setup = set_up(*arguments, **keywords)
        setup.pretrained.model.register_forward_pre_hook(fail)
        return setup

    trial.set_up = set_up_to_fail  # type: ignore[attr-defined]
    processes._work(pipe, quiet, environment)


def work_and_die_once_with_the_end_untold(pipe: Connection, quiet: bool, environment: dict[str, str]) -> None:
    """A worker that is killed when Optuna knows of its trial's end, and nobody else; by the file that DIED names."""

    def die(*arguments: Any) -> None:
        with suppress(FileExistsError):
            Path(environment["DIED"]).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        end_run(*arguments)

    end_run, trial.end_run = trial_end.end_run, die  # type: ignore[assignment,attr-defined]
    processes._work(pipe, quiet, environment)
