"""The code that a registered model brings along: what MLflow runs it with, where `hpo` is not installed.

MLflow keeps this file beside the weights and runs it when it loads the model. So nothing is pickled, and it needs only
what `hpo.tracking_model` names as the model's requirements.
"""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

BATCH_SIZE = 32


class TextClassifier(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """The label of a text and its probability, of texts cut to the length that the model was trained on."""

    def load_context(self, context: PythonModelContext) -> None:
        from transformers import pipeline  # seconds, that saving the model need not take

        self._max_length = context.model_config["max_length"]
        self._classify = pipeline("text-classification", model=context.artifacts["model"], trust_remote_code=False)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        texts = model_input["text"].fillna("").tolist()  # an empty cell of a CSV file
        found = self._classify(texts, batch_size=BATCH_SIZE, truncation=True, max_length=self._max_length)
        return pd.DataFrame(found, columns=["label", "score"])


set_model(TextClassifier())
