"""One trial from suggest to tell: the place where search, training and tracking meet."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch

from hpo import space
from hpo.errors import Diverged, HpoError, TrialFailed
from hpo.events import Evaluated, OnEvent, StepDone, TrialEnded, TrialStarted
from hpo.search import build_pruner, build_sampler, derive_seed
from hpo.spec import StudySpec, TrialConfig
from hpo.study import INTERRUPTED, first_attempt, load_study, position_of, storage_of
from hpo.tracking import Point, tracker_of
from hpo.training.finetune import Evaluation, finetune
from hpo.training.setup import Setup, set_up

FELL_BEHIND = "fell behind"


@dataclass(frozen=True)
class Job:
    """Where one trial runs: picklable, so that an executor can send it anywhere."""

    output: Path
    position: int
    """How many trials the study had had when it was sent: the sampler's seed follows it."""
    parent_run_id: str


def run_trial(spec: StudySpec, job: Job, on_event: OnEvent = lambda event: None) -> None:
    """Runs the study's next trial. What the trial itself breaks is recorded and the study goes on.

    Raises:
        HpoError: a mistake of the user's, that would break every trial alike.
    """
    study = load_study(storage_of(job.output), spec.name)
    study.sampler, study.pruner = build_sampler(spec, job.position), build_pruner(spec)
    study.optimize(lambda trial: _Attempt(spec, job, study, trial, on_event).run(), n_trials=1, catch=(TrialFailed,))


class _Attempt:
    """What is known of a running trial, so that its end can be told whatever ends it."""

    def __init__(self, spec: StudySpec, job: Job, study: optuna.Study, trial: optuna.Trial, on_event: OnEvent) -> None:
        self.spec, self.trial, self.on_event = spec, trial, on_event
        self.started = time.perf_counter()
        self.setup: Setup | None = None
        self.last: Evaluation | None = None
        self.cache = job.output / "cache"
        self.is_default = first_attempt(study, trial) == 0
        params = space.suggest(trial, spec)
        self.config = space.trial_config(spec, params, derive_seed(spec.seed, "trial", position_of(study, trial)))
        trial.set_user_attr("config", self.config.model_dump(mode="json"))
        repeats = trial.user_attrs.get("retry_of")
        self.track = tracker_of(job.output).start_trial(
            job.parent_run_id,
            trial.number,
            tags={
                "trial.default": str(self.is_default).lower(),
                **({"trial.retry_of": str(repeats)} if repeats is not None else {}),
                **({"fallback_for": spec.fallback_for} if spec.fallback_for else {}),
            },
        )
        trial.set_user_attr("mlflow_run_id", self.track.run_id)
        self.track.log_params(flat_params(self.config))
        on_event(TrialStarted(trial.number, dict(params)))

    def run(self) -> float:
        """The objective: the score of the last evaluation."""
        try:
            score = self._train()
        except optuna.TrialPruned:
            self._end("PRUNED", FELL_BEHIND)
            raise
        except Diverged as error:
            self._end("PRUNED", error.reason, traceback=str(error))
            raise optuna.TrialPruned(str(error)) from error
        except torch.OutOfMemoryError as error:
            self._end("FAIL", "out_of_memory", traceback=traceback.format_exc())
            raise TrialFailed("out_of_memory", str(error)) from None  # the frames hold the tensors
        except HpoError as error:
            self._end("FAIL", "wrong input", traceback=str(error))
            raise
        except Exception as error:
            self._end("FAIL", "crashed", traceback=traceback.format_exc())
            raise TrialFailed("crashed", f"{type(error).__name__}: {error}") from error
        except KeyboardInterrupt:
            self._end("FAIL", INTERRUPTED)
            raise
        self._end("COMPLETE", None)
        return score

    def _train(self) -> float:
        number, spec, trial = self.trial.number, self.spec, self.trial
        self.setup = setup = set_up(self.config, self.cache)
        self.track.set_tags(setup_tags(setup))
        trial.set_user_attr("model_fingerprint", setup.pretrained.fingerprint)
        trial.set_user_attr("machine", {"device": setup.device.name, "precision": setup.device.precision})
        for evaluation in finetune(setup, self._step_counter(setup.num_training_steps)):
            self.last = evaluation
            score = evaluation.metrics[spec.metric]
            self.track.log_points(curve_points(evaluation))
            trial.report(score, evaluation.step)
            self.on_event(Evaluated(number, evaluation.step, score))
            spent = evaluation.global_step == setup.num_training_steps
            # The default is what everything is compared with, and at the end there is nothing left to save.
            # It is asked for all the same: by that it enters the rungs of successive halving.
            if trial.should_prune() and not spent and not self.is_default:
                raise optuna.TrialPruned
        return score

    def _step_counter(self, num_training_steps: int) -> Callable[[int], None]:
        return lambda step: self.on_event(StepDone(self.trial.number, step, num_training_steps))

    def _end(self, state: str, reason: str | None, traceback: str | None = None) -> None:
        """Writes the trial's result to Optuna and MLflow, and tells it."""
        seconds, last, total = time.perf_counter() - self.started, self.last, 0
        if self.setup is not None:
            total = self.setup.num_training_steps
        steps = last.global_step if last else 0
        numbers = {
            "seconds": seconds,
            "optimizer_steps": steps,
            "total_steps": total,
            "examples_per_second": last.examples_per_second if last else 0.0,
            "peak_memory_mib": last.memory_mib if last else 0.0,
        }
        metrics = dict(last.metrics) if last else {}
        self.trial.set_user_attr("result", {"metrics": metrics, "reason": reason, **numbers})
        pruned_at = {"trial.pruned_step": str(last.step if last else 0)} if state == "PRUNED" else {}
        self.track.end(state, reason=reason, tags=pruned_at, metrics=numbers, traceback=traceback)
        score = metrics.get(self.spec.metric)
        share = steps / total if total else 0.0
        self.on_event(TrialEnded(self.trial.number, state, reason, score, metrics, share, seconds, self.is_default))


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
    scores.append(("epoch", evaluation.epoch, evaluation.step))
    for point in evaluation.curve:
        at = point.global_step
        scores += [
            ("train/loss", point.loss, at),
            ("train/learning_rate", point.learning_rate, at),
            ("train/grad_norm", point.grad_norm, at),
        ]
    return scores
