"""The winner's model in MLflow's registry: a version of `hpo-<study>`, of which the best on test is the champion.

What is done here can be done again, and nothing is there twice: a version knows by its tag `hpo.key` which training
it comes from. Goes through `MlflowClient` with explicit run ids, as all tracking does.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from hpo.tasks.base import Task
from hpo.tracking_run import MAX_VALUE, Dataset, metric_name, now
from hpo.tracking_store import KEY

CHAMPION = "champion"
SERVED = Path(__file__).parent / "served_model.py"
# The columns of its answers, by what the task serves.
ANSWERS = {
    "label": {"label": "string", "score": "double"},
    "labels": {"labels": "string", "scores": "string"},
    "entities": {"entities": "string"},
}
# What the model is loaded with, in the versions that trained it.
PACKAGES = ("torch", "transformers", "pandas")
# Seconds that a server may take to store a file of weights: MLflow's own default for any answer.
UPLOAD_TIMEOUT = "120"


@dataclass(frozen=True)
class TestScore:
    """What a model is worth, and on which data."""

    __test__ = False  # pytest would take it for a test

    metric: str
    greater_is_better: bool
    value: float
    low: float
    high: float
    """The 95 % interval's ends."""
    data: str
    """The fingerprint of the test split."""


@dataclass(frozen=True)
class Winner:
    """The model of a study's winner, to be registered."""

    study: str
    trial: int
    """Its number in the search."""
    run: str
    """The run of the training that it comes from."""
    trained_on: str
    """The splits that it learned from: `train`, or `train and validation`, of which no score is known."""
    folder: Path
    """As transformers saves a model."""
    max_length: int
    """Tokens to which texts are cut."""
    labels: Sequence[str]
    examples: Sequence[Mapping[str, str]]
    """Of its input: a `text`, of pairs also a `text_pair`."""
    task: Task
    versions: Mapping[str, str]
    """Of the packages that trained it."""
    score: TestScore | None
    """None: the test split was not read for it."""
    scores: Mapping[str, float]
    """By metric, on the test split."""
    test: Dataset | None
    """What the scores are of."""
    report: Path
    """The study's page, on the machine that wrote it."""
    description: str
    """In Markdown."""

    @property
    def name(self) -> str:
        """Of the registered model."""
        return f"hpo-{self.study}"

    @property
    def tags(self) -> dict[str, str]:
        """Of its version: what it is compared by, and where it comes from."""
        told = {KEY: self.run, "study": self.study, "trial": str(self.trial), "report": str(self.report)}
        told["trained_on"] = self.trained_on
        if score := self.score:
            told |= {
                "test.metric": score.metric,
                "test.score": repr(score.value),
                "test.interval": f"{score.low:.4f} to {score.high:.4f}",
                "test.data": score.data,
            }
        return told


def register(client: MlflowClient, winner: Winner, run: Run, parent: Run) -> str:
    """Registers the model, unless it is, and makes it the champion if it is better than the one that is.

    Returns what came of it, in sentences.

    Args:
        run: of the training; the study's, if that one is not there any more.
        parent: the study's.
    """
    version = _version(client, winner) or _new_version(client, winner, run, parent)
    for key, value in winner.tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(winner.name, version.version, key, value)
    client.update_model_version(winner.name, version.version, winner.description)
    return _choose_champion(client, winner, str(version.version))


def _choose_champion(client: MlflowClient, winner: Winner, version: str) -> str:
    aliases = client.get_registered_model(winner.name).aliases
    holder = None if CHAMPION not in aliases else str(aliases[CHAMPION])
    if holder == version:
        why = f"It is the {CHAMPION} already."
    else:
        tags = None if holder is None else client.get_model_version(winner.name, holder).tags
        wins, why = is_better(winner.score, tags, holder)
        if wins:
            client.set_registered_model_alias(winner.name, CHAMPION, version)
    return f"The winner is version {version} of {winner.name} in MLflow's registry. {why}"


def is_better(score: TestScore | None, champion: Mapping[str, str] | None, version: str | None) -> tuple[bool, str]:
    """Whether a model takes the champion's place, and why, in a sentence.

    Args:
        champion: the tags of the version that is the champion; None if none is.
        version: its number.
    """
    stays = f"Version {version} stays the {CHAMPION}" if version else f"It is not the {CHAMPION}"
    if score is None:
        return False, f"{stays}: the test split was not read for the new one."
    if champion is None:
        return True, f"It is the {CHAMPION}, as the first one whose test score is known."
    if "test.score" not in champion:
        return False, f"{stays}, for its own test score is not known. Move the alias by hand, if it is to go."
    if champion.get("test.data") != score.data or champion.get("test.metric") != score.metric:
        which = "data" if champion.get("test.data") != score.data else "metric"
        return False, f"{stays}, for it was tested on other {which} and the two cannot be compared."
    old = float(champion["test.score"])
    better = score.value > old if score.greater_is_better else score.value < old
    pair = f"test {score.metric} {score.value:.4f} against {old:.4f} on the same data"
    if better:
        return True, f"It is the {CHAMPION} now, instead of version {version}: {pair}."
    return False, f"{stays}: the new one is no better, with {pair}."


def _version(client: MlflowClient, winner: Winner) -> ModelVersion | None:
    """The version of that training, if it is registered."""
    page = None
    while page != "":
        found = client.search_model_versions(f"name = '{winner.name}'", page_token=page)
        for version in found:
            if version.tags.get(KEY) == winner.run:
                return version
        page = found.token or ""
    return None


def _new_version(client: MlflowClient, winner: Winner, run: Run, parent: Run) -> ModelVersion:
    model = _logged(client, winner, run) or _log(client, winner, run)
    for where in {each.info.run_id: each for each in (run, parent)}.values():
        outputs = where.outputs.model_outputs if where.outputs else []
        if model.model_id not in {output.model_id for output in outputs}:
            client.log_outputs(where.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    if test := winner.test:
        metrics = [
            Metric(
                f"test/{metric_name(name)}", value, now(), 0, model.model_id, test.name, test.digest, parent.info.run_id
            )
            for name, value in winner.scores.items()
        ]
        client.log_batch(parent.info.run_id, metrics)
    _create_registered_model(client, winner)
    return client.create_model_version(
        winner.name,
        model.artifact_location,  # MLflow would look up `models:/...` at the address of its fluent API
        parent.info.run_id,  # which has the answer, and lists its registered models; the model knows its training
        winner.tags,
        model_id=model.model_id,
        await_creation_for=0,
    )


def _create_registered_model(client: MlflowClient, winner: Winner) -> None:
    told = f"The winners of the study `{winner.study}`. `{CHAMPION}` is the best of them on the test split."
    try:
        client.create_registered_model(winner.name, {"study": winner.study}, told)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _logged(client: MlflowClient, winner: Winner, run: Run) -> LoggedModel | None:
    """The model of that training, if it is whole in MLflow; one that was cut short is deleted."""
    whole = None
    for model in client.search_logged_models([run.info.experiment_id], f"tags.`{KEY}` = '{winner.run}'"):
        if model.status == LoggedModelStatus.READY:
            whole = model
        else:
            client.delete_logged_model(model.model_id)
    return whole


def _log(client: MlflowClient, winner: Winner, run: Run) -> LoggedModel:
    tags = {
        KEY: winner.run,
        "study": winner.study,
        "trial": str(winner.trial),
        "labels": ", ".join(winner.labels)[:MAX_VALUE],
    }
    model = client.create_logged_model(
        run.info.experiment_id,
        f"trial-{winner.trial:04d}",
        run.info.run_id,
        tags,
        run.data.params,
        winner.task.pipeline,
    )
    with tempfile.TemporaryDirectory(prefix=".model-", dir=winner.folder.parent) as folder:
        made = Path(folder) / "model"
        _save(winner, made, model)
        with _patience_for_uploads():
            client.log_model_artifacts(model.model_id, str(made))
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _save(winner: Winner, folder: Path, model: LoggedModel) -> None:
    import pandas as pd
    from mlflow import pyfunc  # seconds, that only this takes
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    texts = [ColSpec("string", name) for name in winner.examples[0]]
    found = [ColSpec(kind, name) for name, kind in ANSWERS[winner.task.serves].items()]
    pyfunc.save_model(
        folder,
        python_model=SERVED,
        artifacts={"model": str(winner.folder.resolve())},
        model_config={
            "max_length": winner.max_length,
            "pipeline": winner.task.pipeline,
            "serves": winner.task.serves,
        },
        signature=ModelSignature(Schema(texts), Schema(found)),
        input_example=pd.DataFrame([*winner.examples]),
        pip_requirements=list(_requirements(winner.versions)),
        metadata={"labels": [*winner.labels]},
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            run_id=model.source_run_id,
            model_uuid=model.model_id,
            model_id=model.model_id,
        ),
    )


def _requirements(versions: Mapping[str, str]) -> Iterator[str]:
    """Pinned; a build's own part of a version, such as `+cpu`, is of one machine. MLflow adds itself."""
    for package in PACKAGES:
        version = versions.get(package, "").partition("+")[0]
        yield f"{package}=={version}" if version else package


@contextmanager
def _patience_for_uploads() -> Iterator[None]:
    """While weights are sent, for which a server needs longer than for an answer."""
    before = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = UPLOAD_TIMEOUT
    try:
        yield
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = before
