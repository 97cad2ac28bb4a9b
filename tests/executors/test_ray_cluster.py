"""Trials on Ray: a cluster of two nodes that loses one, trials that hang, and clusters that cannot be used.

All nodes are on 127.0.0.1. Ray reads its variables once in a process.
"""

import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.postgres import Database, free_port
from conftest import StudyMaker
from hpo.errors import HpoError, StorageError
from hpo.events import Event, StepDone
from hpo.executors import Lost, ray_cluster, worker
from hpo.executors.ray_cluster import RayCluster
from hpo.executors.ray_connection import Share, share_of
from hpo.lease import OWNER
from hpo.spec import StudySpec
from hpo.storage import open_storage
from hpo.study import load_study
from hpo.study_file import parse_study
from hpo.tune import tune
from test_tune import Recorder
from workers import begin, long, pid_of, runs_of, wait_until, wait_until_free


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One core each; RAY_ADDRESS names them."""
    for name, value in {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }.items():
        os.environ.setdefault(name, value)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()
    assert not [child for child in psutil.Process().children(recursive=True) if "ray" in child.name()]


def raylet_of(node: Any) -> int:
    """The parent of a node's workers."""
    return int(node.all_processes["raylet"][0].process.pid)


class NodeLoss(Recorder):
    """Takes the second node away in the middle of the first trial that is seen on it."""

    def __init__(self, cluster: Any, pid_of: Callable[[int], int]) -> None:
        super().__init__()
        self.cluster, self.pid_of = cluster, pid_of
        (self.node,) = cluster.worker_nodes
        self.raylet = raylet_of(self.node)
        self.nodes: dict[int, int] = {}
        self.lost: int | None = None

    def take(self, event: Event) -> None:
        super().take(event)
        if self.lost is None and isinstance(event, StepDone) and event.step >= 200:
            self.nodes[event.number] = psutil.Process(self.pid_of(event.number)).ppid()
            if self.nodes[event.number] == self.raylet:
                self.lost = event.number
                self.cluster.remove_node(self.node, allow_graceful=False)


@pytest.mark.timeout(240)
def test_a_node_that_is_lost_costs_no_trial(
    raw_study: StudyMaker, output: Path, postgres: Database, two_nodes: Any
) -> None:
    def stored() -> Any:
        return load_study(open_storage(output, postgres.url), "long")

    loss = NodeLoss(two_nodes, lambda number: int(stored().trials[number].user_attrs[OWNER]["pid"]))
    spec = parse_study(long(raw_study, n_trials=3), "x")
    outcome = tune(spec, output, loss, workers=2, executor="ray", storage=postgres.url)
    trials = outcome.study.trials
    assert sorted(trial.state.name for trial in trials) == ["COMPLETE"] * 3 + ["FAIL"]
    assert loss.lost is not None
    lost = trials[loss.lost]
    assert (lost.user_attrs["result"]["reason"], lost.user_attrs["result"]["retried"]) == ("killed", True)
    (again,) = (trial for trial in trials if trial.user_attrs.get("retry_of") == lost.number)
    assert again.params == lost.params
    owners = {trial.user_attrs[OWNER]["pid"] for trial in trials}
    assert len(owners) == 2
    # Ray ends an actor's process a moment after it has said so.
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in owners), "end of the workers")
    runs = runs_of(output)
    assert runs.pop("long").info.status == "FINISHED"
    status = {True: "FINISHED", False: "FAILED"}
    assert {name: run.info.status for name, run in runs.items()} == {
        f"trial-{trial.number:04d}": status[trial.state.name == "COMPLETE"] for trial in trials
    }
    assert runs[f"trial-{lost.number:04d}"].data.tags["trial.reason"] == "killed"
    assert int(runs[f"trial-{again.number:04d}"].data.tags["trial.resumed_step"]) > 0
    assert not list((output / "long" / "checkpoints").glob("*"))
    assert outcome.best_yaml is not None


@pytest.mark.timeout(180)
def test_a_trial_that_hangs_is_killed_and_its_worker_replaced(
    raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "TO_TIME_OUT", 2.0)
    spec = parse_study(long(raw_study, trial_timeout=6), "x")
    job = begin(spec, output)
    stopped: list[int] = []

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and not stopped:
            stopped.append(pid_of(output, event.number))
            os.kill(stopped[0], signal.SIGSTOP)

    with RayCluster(spec, output, None, 1, lambda: None) as executor:
        executor.on_event = stop
        wait_until_free(executor)
        executor.submit(spec, job)
        lost: list[Lost] = []
        while executor.busy:
            lost += executor.wait(0.5)
        assert lost == [Lost(0, "timed_out")]
        wait_until_free(executor)
    assert stopped and not psutil.pid_exists(stopped[0])


def refused(spec: StudySpec, output: Path, storage: str | None = None) -> str:
    """The words of the error with which a study ends before anything is stored."""
    with pytest.raises(HpoError) as raised:
        tune(spec, output, Recorder(), executor="ray", storage=storage)
    assert not (output / "optuna.db").exists()
    return str(raised.value)


def test_without_ray_it_says_how_to_install_it(spec: StudySpec, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "Run `pip install 'hpo[ray]'`" in refused(spec, output)


def test_where_nothing_listens_it_says_so_soon(spec: StudySpec, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    began = time.monotonic()
    said = refused(spec, output)
    assert "RAY_ADDRESS must be a Ray cluster that can be reached" in said and "refused" in said
    assert time.monotonic() - began < 20  # Ray itself takes 41 s


def test_an_address_without_a_port_is_none(spec: StudySpec, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "cluster.example")
    assert "Write `auto`, or host:port" in refused(spec, output)


@pytest.mark.skipif(find_spec("grpc") is not None, reason="ray[client] is installed")
def test_rays_client_needs_its_extra(spec: StudySpec, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("RAY_ADDRESS", f"ray://127.0.0.1:{listener.getsockname()[1]}")
        assert "Run `pip install 'ray[client]'`" in refused(spec, output)


def test_gpus_that_no_node_has_are_refused(raw_study: StudyMaker, output: Path) -> None:
    said = refused(parse_study(raw_study(num_gpus=1000), "x"), output)
    assert "got num_gpus=1000 and at most" in said


def test_several_machines_need_servers(spec: StudySpec, output: Path, two_nodes: Any, postgres: Database) -> None:
    """127.0.0.2 is another machine to Ray."""
    two_nodes.add_node(num_cpus=1, node_ip_address="127.0.0.2")
    for storage in (None, postgres.url):  # MLflow's database is a file in either case
        said = refused(spec, output, storage)
        assert "the Ray cluster has 127.0.0.1, 127.0.0.2" in said and "--storage postgresql://" in said


@pytest.mark.parametrize(
    ("nodes", "workers", "num_gpus", "share"),
    [
        ([{"CPU": 8}], 2, None, Share(4, 0)),
        ([{"CPU": 8}], 3, None, Share(2, 0)),
        ([{"CPU": 2}], 5, None, Share(1, 0)),  # three of them wait for room
        ([{"CPU": 6}, {"CPU": 2}], 2, None, Share(3, 0)),
        ([{"CPU": 6}, {"CPU": 2}], 3, None, Share(2, 0)),
        ([{"CPU": 0}, {"CPU": 4}], 1, None, Share(4, 0)),
        ([{"CPU": 16, "GPU": 4}], 2, None, Share(8, 1)),
        ([{"CPU": 16, "GPU": 4}], 4, None, Share(4, 1)),
        ([{"CPU": 16, "GPU": 4}], 5, None, Share(3, 0.5)),
        ([{"CPU": 16, "GPU": 1}], 3, None, Share(5, 0.3333)),
        ([{"CPU": 16, "GPU": 1}], 7, None, Share(2, 0.1428)),  # seven times 0.1429 would be too much
        ([{"CPU": 20, "GPU": 1}], 10, None, Share(2, 0.1)),
        ([{"CPU": 64}, {"CPU": 8, "GPU": 2}], 2, None, Share(4, 1)),  # where the GPUs are
        ([{"CPU": 64}, {"CPU": 8, "GPU": 2}], 2, 0, Share(32, 0)),
        ([{"CPU": 16, "GPU": 4}], 2, 2, Share(8, 2)),
        ([{"CPU": 16, "GPU": 4}], 8, 0.5, Share(2, 0.5)),
    ],
)
def test_the_share_of_a_worker(
    nodes: list[dict[str, float]], workers: int, num_gpus: float | None, share: Share
) -> None:
    assert share_of(nodes, workers, num_gpus) == share


def test_more_gpus_than_a_node_has_are_refused() -> None:
    with pytest.raises(HpoError, match="got num_gpus=2 and at most 1 on one node"):
        share_of([{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], 1, 2)


def test_a_worker_refuses_a_node_without_the_studys_folder(tmp_path: Path) -> None:
    started = ray_cluster._Worker(None)
    told = started.prepare({}, [tmp_path / "elsewhere"], None, False)
    assert isinstance(told.error, StorageError) and "has no" in str(told.error)
    told = started.prepare({}, [tmp_path], "another machine", False)
    assert "MLFLOW_TRACKING_URI" in str(told.error)
