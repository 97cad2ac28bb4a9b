"""A Ray cluster as it is found: joined or started, told in words when it cannot be, and shared out among workers."""

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hpo.addresses import hide_passwords, masked
from hpo.errors import HpoError, StorageError
from hpo.training.device import num_threads, visible_gpus

# Seconds that it has to answer.
TO_ANSWER = 3.0
WAY_OUT = (
    "Start it (`ray start --head`), make this machine one of its nodes (`ray start --address=...`), mend the address, "
    "or unset RAY_ADDRESS to run on this machine alone."
)


@dataclass(frozen=True)
class Share:
    """What a worker takes of its node."""

    num_cpus: int
    num_gpus: float


def share_of(nodes: Sequence[Mapping[str, float]], workers: int, num_gpus: float | None) -> Share:
    """The largest equal share of the nodes' resources of which there are enough for all workers.

    Args:
        nodes: how much of `CPU` and `GPU` each has.
        num_gpus: what the study says; None: a GPU is divided into as few parts as will do.

    Raises:
        HpoError: no node has so many GPUs.
    """
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    if num_gpus is None:
        parts = max(1, -(-workers // sum(gpus))) if sum(gpus) else 0
        # Ray counts in parts of ten thousand, and rounds a seventh up: seven would not fit.
        num_gpus = 10_000 // parts / 10_000 if parts else 0.0
    if num_gpus > max(gpus):
        raise HpoError(
            f"num_gpus must be no more than a node of the Ray cluster has, but got num_gpus={num_gpus:g} and at most "
            f"{max(gpus)} on one node. Lower it (--set num_gpus=...), or start nodes that have them."
        )

    def room(num_cpus: int, node: Mapping[str, float]) -> int:
        by_cpu, gpus = node.get("CPU", 0) // num_cpus, node.get("GPU", 0)
        if not num_gpus:
            return int(by_cpu)
        # One below 1 is of a single GPU.
        return int(min(by_cpu, gpus // num_gpus if num_gpus >= 1 else gpus * int(1 / num_gpus + 1e-6)))

    most = int(max(node.get("CPU", 0) for node in nodes))
    fitting = (n for n in range(most, 0, -1) if sum(room(n, node) for node in nodes) >= workers)
    return Share(next(fitting, 1), num_gpus)


def connected(workers: int, quiet: bool) -> Any:
    """Ray, joined to the cluster of RAY_ADDRESS or to one that it starts here. Raises HpoError."""
    address = os.environ.get("RAY_ADDRESS", "local")
    own = address == "local"
    # Ray looks at them when it is imported.
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_NUM_REDIS_GET_RETRIES": "1"}
    if own:  # on 127.0.0.1, and only for who knows the token
        variables |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray._private.worker
    except ImportError as error:
        raise HpoError(
            f"--executor ray needs Ray, which is not installed ({error}). Run `pip install 'hpo[ray]'`."
        ) from error
    if quiet:  # what it says of dead nodes goes to stdout, whatever it is told
        ray._private.worker.listen_error_messages = lambda *arguments: None
    resources = {"num_cpus": max(workers, num_threads()), "num_gpus": len(visible_gpus())} if own else {}
    if not own:
        _require_listener(address)
    talk = {"logging_level": logging.ERROR if quiet else logging.INFO, "log_to_driver": not quiet}
    try:
        with _own_sigterm():
            ray.init(address, include_dashboard=False if own else None, **talk, **resources)
    except (ConnectionError, ValueError, ImportError, RuntimeError) as error:
        if own:
            raise
        client = "Run `pip install 'ray[client]'`, or the command on a node of the cluster, with RAY_ADDRESS=auto."
        way_out = client if address.startswith("ray://") else WAY_OUT
        raise _no_cluster(address, str(error), way_out) from error
    return ray


def _require_listener(address: str) -> None:
    """Raises HpoError if nothing listens there: Ray itself looks for 41 s."""
    if address == "auto":
        return
    name, _, port = address.removeprefix("ray://").rpartition(":")
    if not name or not port.isdigit():
        raise _no_cluster(address, "no host and port", "Write `auto`, or host:port as `ray start` shows it.")
    try:
        socket.create_connection((name.strip("[]"), int(port)), TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error), WAY_OUT) from error


def _no_cluster(address: str, reason: str, way_out: str) -> HpoError:
    reason = hide_passwords(" ".join(reason.split())).rstrip(".")
    return HpoError(
        f"RAY_ADDRESS must be a Ray cluster that can be reached, but got {masked(address)}: {reason}. {way_out}"
    )


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray takes the signal for itself when it starts."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def needs_servers(machines: Sequence[str]) -> StorageError:
    """That SQLite is a file of one machine, and the cluster has several."""
    return StorageError(
        "trials on several machines need databases that all of them can reach, but SQLite is a file of one machine, "
        f"and the Ray cluster has {', '.join(machines)}. Give --storage postgresql://... and "
        "MLFLOW_TRACKING_URI=http://..., or unset RAY_ADDRESS to run on this machine alone."
    )
