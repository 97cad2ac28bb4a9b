"""The tasks by the names that a study file uses."""

from hpo.tasks.base import Task
from hpo.tasks.sequence_classification import SEQUENCE_CLASSIFICATION

TASKS: dict[str, Task] = {
    "sequence_classification": SEQUENCE_CLASSIFICATION,
}
