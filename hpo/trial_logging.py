"""What MLflow is told of a trial, in its words: params, tags, and metrics by step."""

from collections.abc import Sequence
from typing import Any

from hpo.results import Estimate, Finals
from hpo.spec import TrialConfig
from hpo.tracking import Point
from hpo.training.finetune import CurvePoint, Evaluation
from hpo.training.setup import Setup


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
    }


def curve_points(evaluation: Evaluation) -> list[Point]:
    """Scores by evaluation (the k of the k-th share of the budget, as the pruner sees it), curves by optimizer step."""
    scores: list[Point] = [(name, value, evaluation.step) for name, value in evaluation.metrics.items()]
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
    told = {"validation/mean": finals.chosen.mean}
    if finals.chosen.searched is not None:
        told["validation/maximum"] = finals.chosen.searched
    if reading := finals.reading:
        for of, scores in (
            ("test", reading.winner_scores),
            ("test_default", reading.default_scores),
            ("test_difference", reading.differences),
        ):
            for name, estimate in scores.items():
                told |= _interval(f"{of}/{name}", estimate)
        told |= {f"test_p_value/{name}": difference.p_value for name, difference in reading.differences.items()}
    return told


def _interval(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}/low": estimate.low, f"{name}/high": estimate.high}
