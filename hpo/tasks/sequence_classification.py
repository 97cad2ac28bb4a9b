"""One label a text."""

from transformers import AutoModelForSequenceClassification

from hpo.tasks.base import Task
from hpo.training.metrics import classification_metrics

SEQUENCE_CLASSIFICATION = Task(
    auto_model=AutoModelForSequenceClassification,
    loss="cross_entropy",
    metrics=classification_metrics,
    first_token_only=True,
)
