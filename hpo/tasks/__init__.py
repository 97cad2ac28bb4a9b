"""The tasks by the names that a study file uses."""

from hpo.tasks.base import Task
from hpo.tasks.multi_label_classification import MULTI_LABEL_CLASSIFICATION
from hpo.tasks.regression import REGRESSION
from hpo.tasks.sequence_classification import SEQUENCE_CLASSIFICATION
from hpo.tasks.token_classification import TOKEN_CLASSIFICATION

TASKS: dict[str, Task] = {
    "sequence_classification": SEQUENCE_CLASSIFICATION,
    "multi_label_classification": MULTI_LABEL_CLASSIFICATION,
    "regression": REGRESSION,
    "token_classification": TOKEN_CLASSIFICATION,
}
# Of a study that names none.
DEFAULT_TASK = "sequence_classification"
