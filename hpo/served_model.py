"""The code that a registered model brings along: what MLflow runs it with, where `hpo` is not installed.

MLflow keeps this file beside the weights and runs it when it loads the model. So nothing is pickled, and it needs only
what `hpo.tracking_model` names as the model's requirements.
"""

import json
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

BATCH_SIZE = 32


class TextClassifier(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """What the model says of each text, cut to the length that it was trained on.

    The label and its probability (of a regression its name and the number); several labels from a probability of a half
    on, with commas between, and all probabilities as JSON; or the entities as JSON.
    """

    def load_context(self, context: PythonModelContext) -> None:
        from transformers import pipeline  # seconds, that saving the model need not take

        self._serves = context.model_config["serves"]
        self._pipeline = pipeline(
            context.model_config["pipeline"], model=context.artifacts["model"], trust_remote_code=False
        )
        self._pipeline.tokenizer.model_max_length = context.model_config["max_length"]

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        cells = model_input.fillna("")  # an empty one of a CSV file
        texts = cells["text"].tolist()
        if "text_pair" in cells:
            texts = cells[["text", "text_pair"]].to_dict("records")
        if self._serves == "entities":
            found = self._pipeline(texts, batch_size=BATCH_SIZE, aggregation_strategy="first")
            return pd.DataFrame({"entities": [json.dumps(row, default=float) for row in found]})
        if self._serves == "labels":
            rows = [
                {each["label"]: each["score"] for each in row}
                for row in self._pipeline(texts, batch_size=BATCH_SIZE, truncation=True, top_k=None)
            ]
            labels = [", ".join(name for name, score in row.items() if score >= 0.5) for row in rows]
            return pd.DataFrame({"labels": labels, "scores": [json.dumps(row) for row in rows]})
        found = self._pipeline(texts, batch_size=BATCH_SIZE, truncation=True)
        return pd.DataFrame(found, columns=["label", "score"])


set_model(TextClassifier())
