"""What MLflow is told of a trial, in its words: params, tags, and metrics by step."""

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from hpo.data.splits import Splits
from hpo.references import local_path
from hpo.results import Estimate, Finals
from hpo.spec import DataSpec, TrialConfig
from hpo.tasks import TASKS
from hpo.tracking import Dataset, Point
from hpo.tracking_run import metric_name
from hpo.training.finetune import CurvePoint, Evaluation
from hpo.training.setup import Setup

# Of a data set's fingerprint MLflow takes 36 characters, and shows them all beside its name.
DIGEST = 12
MAX_NAME = 100


def flat_params(config: TrialConfig) -> dict[str, Any]:
    """The whole configuration as MLflow params: settings of `training` by their names, others by dotted path."""
    settings = config.model_dump(mode="json")
    training = settings.pop("training")
    return {**training, **dict(_flatten(settings, ""))}


def _flatten(settings: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            flat += _flatten(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", value))
    return flat


def setup_tags(setup: Setup) -> dict[str, str]:
    """What a trial ran on and with, for MLflow."""
    return {
        "device": setup.device.name,
        "precision": setup.device.precision,
        "data.fingerprint": setup.splits.fingerprint,
        "model.fingerprint": setup.pretrained.fingerprint,
        "model.num_parameters": str(setup.pretrained.num_parameters),
        "model.num_trained_parameters": str(setup.pretrained.num_trained_parameters),
    }


def datasets(data: DataSpec, splits: Splits, contexts: Sequence[str] = ("train", "validation")) -> list[Dataset]:
    """Splits of a study's data, as inputs of a run that reads them."""
    return [_dataset(data, splits, context) for context in contexts]


def _dataset(data: DataSpec, splits: Splits, context: str) -> Dataset:
    source = data.sources.get(context, data.train)
    if local_path(source.source) is None:
        chosen = {"path": source.source, "config_name": source.subset, "split": source.split or context}
        source_type, place = "hugging_face", {name: value for name, value in chosen.items() if value is not None}
    else:
        source_type, place = "local", {"uri": source.source}
    held_out = {} if context in data.sources else {"held_out_of": "train"}
    classes = splits.class_counts[context]
    names = (*data.text_columns, *data.label_columns)
    columns = [{"name": name, "type": "string", "required": True} for name in names]
    fingerprint = split_fingerprint(splits, context)
    profile = {"num_rows": len(getattr(splits, context)), "classes": classes, **held_out, "fingerprint": fingerprint}
    return Dataset(
        context=context,
        name=source.source.rpartition("/")[2][:MAX_NAME],
        digest=fingerprint[:DIGEST],
        source_type=source_type,
        source=json.dumps(place),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(profile),
    )


@functools.lru_cache(maxsize=16)
def split_fingerprint(splits: Splits, name: str) -> str:
    """SHA-256 of one split's texts, labels and class names: it stays when only the others change."""
    split = getattr(splits, name)
    content = [splits.labels, split.inputs, TASKS[splits.task].labels.plain(split.labels)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def curve_points(evaluation: Evaluation, metric: str) -> list[Point]:
    """Scores by evaluation (the k of the k-th share of the budget, as the pruner sees it), curves by optimizer step.

    The study's metric stands first: MLflow's comparison opens with the first that was logged.
    """
    names = dict.fromkeys([metric, *evaluation.metrics])
    scores: list[Point] = [(name, evaluation.metrics[name], evaluation.step) for name in names]
    return [*scores, ("epoch", evaluation.epoch, evaluation.step), *training_points(evaluation.curve)]


def training_points(curve: Sequence[CurvePoint]) -> list[Point]:
    """The curves of the training, by optimizer step."""
    points: list[Point] = []
    for point in curve:
        at = point.global_step
        points += [
            ("train/loss", point.loss, at),
            ("train/learning_rate", point.learning_rate, at),
            ("train/grad_norm", point.grad_norm, at),
        ]
    return points


def final_metrics(finals: Finals) -> dict[str, float]:
    """What the finalists came to, for the study's run: scores with their intervals, the winner's and the default's."""
    told = {"validation/mean": finals.chosen.fresh_mean}
    if finals.search_best is not None:  # of a loss it is the least
        told["validation/maximum"] = finals.search_best
    if reading := finals.reading:
        for of, scores in (
            ("test", reading.winner_scores),
            ("test_default", reading.default_scores),
            ("test_difference", reading.differences),
        ):
            for name, estimate in scores.items():
                told |= _interval(of, metric_name(name), estimate)
        told |= {f"test_p_value/{metric_name(name)}": each.p_value for name, each in reading.differences.items()}
    return told


def _interval(of: str, name: str, estimate: Estimate) -> dict[str, float]:
    """MLflow shows a section of charts for what stands before the `/`: intervals have one of their own."""
    ends = {f"{of}_interval/{name}_low": estimate.low, f"{of}_interval/{name}_high": estimate.high}
    return {f"{of}/{name}": estimate.value, **ends}
