"""Where trials run, by the names that the command line uses."""

from hpo.executors.base import Executor, Lost
from hpo.executors.processes import Processes
from hpo.executors.ray_cluster import RayCluster
from hpo.executors.serial import Serial

EXECUTORS: dict[str, type[Executor]] = {
    "serial": Serial,
    "processes": Processes,
    "ray": RayCluster,
}

__all__ = ["EXECUTORS", "Executor", "Lost"]
