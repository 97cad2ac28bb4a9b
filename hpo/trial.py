"""One trial from suggest to tell: the place where search, training and tracking meet."""

import gc
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hpo import space
from hpo.errors import Diverged, HpoError, TrialFailed
from hpo.events import Evaluated, OnEvent, StepDone, TrialEnded, TrialStarted
from hpo.output import disk_error
from hpo.provenance import git_commit, versions
from hpo.search import build_pruner, build_sampler, derive_seed
from hpo.spec import StudySpec, TrialConfig
from hpo.storage import storage_of
from hpo.study import COSTS, INTERRUPTED, failure_reason, first_attempt, load_study, position_of, require_unchanged
from hpo.tracking import Point, TrialRun, tracker_of
from hpo.training.device import is_out_of_memory
from hpo.training.finetune import CurvePoint, Evaluation, finetune
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
        HpoError: a mistake of the user's, that would break every trial alike. This one counts as interrupted.
    """
    study = load_study(storage_of(job.output), spec.name)
    study.sampler, study.pruner = build_sampler(spec, job.position), build_pruner(spec)
    attempts: list[_Attempt] = []

    def objective(trial: optuna.Trial) -> float:
        attempts.append(_Attempt(spec, job, study, trial, on_event))
        return attempts[0].run()

    # An exception holds its frames, they hold the model, and it holds them until the next collection. That one has to
    # look at what this trial made, not at all libraries and stored trials again, which takes longer with each of them.
    gc.freeze()
    try:
        study.optimize(objective, n_trials=1, catch=(TrialFailed,), gc_after_trial=True)
    finally:
        gc.unfreeze()
        for attempt in attempts:
            attempt.tell_end()


class _Attempt:
    """What is known of a running trial, so that its end can be told whatever ends it."""

    def __init__(self, spec: StudySpec, job: Job, study: optuna.Study, trial: optuna.Trial, on_event: OnEvent) -> None:
        self.spec, self.job, self.study, self.trial, self.on_event = spec, job, study, trial, on_event
        self.started = time.perf_counter()
        self.is_default = first_attempt(study, trial) == 0
        self.track: TrialRun | None = None
        self.details: str | None = None
        self.last: Evaluation | None = None
        self.total_steps = self.steps = 0

    def run(self) -> float:
        """The objective: the score of the last evaluation."""
        try:
            score = self._train(self._start())
        except optuna.TrialPruned:
            self._record("PRUNED", FELL_BEHIND, self.last.step if self.last else 0)
            raise
        except Diverged as error:
            if self.track:
                self.track.log_points(training_points(error.curve))
            self.details = error.details
            self._record("PRUNED", error.reason, error.step)
            raise optuna.TrialPruned(str(error)) from error
        except TrialFailed as error:
            self.details = error.details
            self._record("FAIL", error.reason)
            raise
        except KeyboardInterrupt:
            self._record("FAIL", INTERRUPTED)
            raise
        self._record("COMPLETE")
        return score

    def _start(self) -> TrialConfig:
        """Draws the configuration and opens the run."""
        spec, trial, number = self.spec, self.trial, self.trial.number
        params = space.suggest(trial, spec)
        config = space.trial_config(spec, params, derive_seed(spec.seed, "trial", position_of(self.study, trial)))
        trial.set_user_attr("config", config.model_dump(mode="json"))
        trial.set_user_attr("versions", versions())
        trial.set_user_attr("git_commit", git_commit())
        repeats = trial.user_attrs.get("retry_of")
        self.track = tracker_of(self.job.output).start_trial(
            self.job.parent_run_id,
            number,
            tags={
                "trial.default": str(self.is_default).lower(),
                **({"trial.retry_of": str(repeats)} if repeats is not None else {}),
                **({"fallback_for": spec.fallback_for} if spec.fallback_for else {}),
            },
        )
        trial.set_user_attr("mlflow_run_id", self.track.run_id)
        self.track.log_params(flat_params(config))
        self.on_event(TrialStarted(number, dict(params)))
        return config

    def _train(self, config: TrialConfig) -> float:
        number, spec, trial, track = self.trial.number, self.spec, self.trial, self.track
        assert track is not None
        with _own_faults():
            setup = set_up(config, self.job.output / "cache")
        self.total_steps = setup.num_training_steps
        fingerprint = setup.pretrained.fingerprint
        require_unchanged(self.study, setup.splits.fingerprint, {config.model.reference: fingerprint})
        track.set_tags(setup_tags(setup))
        trial.set_user_attr("model_fingerprint", fingerprint)
        trial.set_user_attr("machine", {"device": setup.device.name, "precision": setup.device.precision})
        for evaluation in self._evaluations(setup):
            self.last = evaluation
            score = evaluation.metrics[spec.metric]
            track.log_points(curve_points(evaluation))
            trial.report(score, evaluation.step)
            self.on_event(Evaluated(number, evaluation.step, score))
            spent = evaluation.global_step == setup.num_training_steps
            # The default is what everything is compared with, and at the end there is nothing left to save.
            # It is asked for all the same: by that it enters the rungs of successive halving.
            if trial.should_prune() and not spent and not self.is_default:
                raise optuna.TrialPruned
        return score

    def _evaluations(self, setup: Setup) -> Iterator[Evaluation]:
        evaluations = finetune(setup, self._count_step)
        while True:
            with _own_faults():
                evaluation = next(evaluations, None)
            if evaluation is None:
                return
            yield evaluation

    def _count_step(self, step: int) -> None:
        self.steps = step
        self.on_event(StepDone(self.trial.number, step, self.total_steps))

    def _record(self, state: str, reason: str | None = None, step: int | None = None) -> None:
        """Stores the result with the trial, before Optuna is told of its end: afterwards it takes no attributes."""
        last = self.last
        result = {
            "state": state,
            "reason": reason,
            "step": step,  # the evaluation at which it was stopped
            "metrics": dict(last.metrics) if last else {},
            "seconds": time.perf_counter() - self.started,
            "optimizer_steps": self.steps,
            "total_steps": self.total_steps,
            "examples_per_second": last.examples_per_second if last else 0.0,
            "peak_memory_mib": last.memory_mib if last else 0.0,
            "micro_batch_size": last.micro_batch_size if last else None,
        }
        self.trial.set_user_attr("result", result)
        if self.track:  # a trial that Optuna knows as ended has all its curves, or MLflow's error ends the study
            tracker_of(self.job.output).flush()

    def tell_end(self) -> None:
        """Ends the run in MLflow with what Optuna has stored, and tells it. Nothing, if Optuna knows of no end."""
        trial = self.study.get_trials(deepcopy=False)[self.trial.number]
        if not trial.state.is_finished():
            return
        if self.track:
            end_run(self.track, trial, self.details)
        result = trial.user_attrs.get("result", {})
        metrics = result.get("metrics", {})
        self.on_event(
            TrialEnded(
                number=trial.number,
                state=trial.state.name,
                reason=failure_reason(trial),
                score=metrics.get(self.spec.metric),
                metrics=metrics,
                share=self.steps / self.total_steps if self.total_steps else 0.0,
                seconds=time.perf_counter() - self.started,
                is_default=self.is_default,
                micro_batch_size=result.get("micro_batch_size"),
            )
        )


@contextmanager
def _own_faults() -> Iterator[None]:
    """What breaks in here is the trial's own fault: it fails with its traceback, and the study goes on.

    A mistake of the user's, or a full disk, would break every other trial too: they pass, and end the study.
    """
    try:
        yield
    except HpoError:
        raise
    except Exception as error:
        if disk_error(error):
            raise
        if is_out_of_memory(error):  # without its frames, for they hold the tensors
            raise TrialFailed("out_of_memory", str(error), traceback.format_exc()) from None
        raise TrialFailed("crashed", f"{type(error).__name__}: {error}", traceback.format_exc()) from error


def end_run(run: TrialRun, trial: FrozenTrial, details: str | None = None) -> None:
    """Ends a trial's run as Optuna has stored its end, with what it took and, if it crashed, its traceback."""
    result = trial.user_attrs.get("result", {})
    known = {"trial.pruned_step": result.get("step"), "trial.micro_batch_size": result.get("micro_batch_size")}
    tags = {name: str(value) for name, value in known.items() if value is not None}
    costs = {name: result[name] for name in COSTS if name in result}
    run.end(trial.state.name, reason=failure_reason(trial), tags=tags, metrics=costs, traceback=details)


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
