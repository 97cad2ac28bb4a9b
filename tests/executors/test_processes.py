"""Workers on one machine: what each gets of it, and how it comes to be."""

import os
from pathlib import Path

import psutil
import pytest

from conftest import StudyMaker
from hpo.executors import processes
from hpo.executors.processes import Processes, slots
from hpo.lease import OWNER
from hpo.study_file import parse_study
from workers import begin, trials_of


@pytest.mark.parametrize(
    ("workers", "cores", "gpus", "threads", "shown"),
    [
        (1, 8, [], "8", [None]),
        (4, 8, [], "2", [None] * 4),
        (3, 8, [], "2", [None] * 3),
        (4, 2, [], "1", [None] * 4),  # never none
        (4, 8, ["0"], "2", ["0"] * 4),
        (3, 8, ["2", "GPU-7f"], "2", ["2", "GPU-7f", "2"]),
    ],
)
def test_a_worker_has_its_share_of_the_cores_and_a_gpu_in_turn(
    monkeypatch: pytest.MonkeyPatch, workers: int, cores: int, gpus: list[str], threads: str, shown: list[str | None]
) -> None:
    monkeypatch.setattr(processes, "num_threads", lambda: cores)
    monkeypatch.setattr(processes, "visible_gpus", lambda: gpus)
    made = slots(workers)
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in made] == shown
    assert {slot["OMP_NUM_THREADS"] for slot in made} == {slot["RAYON_NUM_THREADS"] for slot in made} == {threads}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("gpus", [[], ["0"]])
def test_a_worker_is_forked_but_for_a_gpu(
    raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch, gpus: list[str]
) -> None:
    """CUDA cannot be used in a fork of a process that has looked at it: with a GPU the driver itself is the parent."""
    monkeypatch.setattr(processes, "visible_gpus", lambda: gpus)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spec = parse_study(raw_study(n_trials=1), "x")
    job = begin(spec, output)
    parents: set[int] = set()
    with Processes(spec, output, None, 1, lambda: None) as executor:
        executor.on_event = lambda event: parents.update(
            psutil.Process(trial.user_attrs[OWNER]["pid"]).ppid()
            for trial in trials_of(output, "tiny")
            if OWNER in trial.user_attrs and trial.state.name == "RUNNING"
        )
        executor.submit(spec, job)
        while executor.busy:
            assert executor.wait(0.5) == []
    (trial,) = trials_of(output, "tiny")
    assert trial.state.name == "COMPLETE"
    assert trial.user_attrs["machine"]["device"].endswith("1 threads")
    assert (parents == {os.getpid()}) is bool(gpus) and len(parents) == 1
