"""One trial from suggest to tell: the place where search, training and tracking meet."""

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from hpo import space
from hpo.attempts import (
    DEVICE_FAILED,
    DISK_FULL,
    FINALIST,
    INTERRUPTED,
    RESUMED_STEP,
    TIMED_OUT,
    earlier_attempts,
    first_attempt,
    is_default,
    is_refit,
    may_retry,
    position_of,
)
from hpo.errors import DeviceFailed, Diverged, HpoError, TrialFailed
from hpo.events import Evaluated, OnEvent, StepDone, TrialStarted, Waits
from hpo.lease import OWNER, Heartbeat, host, owner
from hpo.memory import MEMORY, expected_mib, fits, reserved, taken
from hpo.output import disk_error, study_folder
from hpo.provenance import git_commit, versions
from hpo.search import build_pruner, build_sampler, derive_seed
from hpo.settings import Value
from hpo.spec import StudySpec, TrialConfig
from hpo.storage import exclusive, storage_of
from hpo.study import (
    claimable_trials,
    is_best,
    load_study,
    require_unchanged,
    rivals,
    running_trials,
    settled_position,
)
from hpo.tracking import TrialRun, tracker_of
from hpo.training.checkpoint import Checkpoints
from hpo.training.device import Device, choose_device, device_failed, is_out_of_memory, return_unused_memory
from hpo.training.finetune import Evaluation, Progress, finetune
from hpo.training.predictions import PREDICTIONS, predictions
from hpo.training.setup import Setup, keep_best, set_up
from hpo.trial_end import end_run, finalist_label, start_tags, started_at, trial_ended, trial_name
from hpo.trial_logging import curve_points, datasets, flat_params, setup_tags, training_points

FELL_BEHIND = "fell behind"
STOPPED_EARLY = "stopped early"
# Seconds between two looks at the memory of a device that has none for a trial.
LOOK_EVERY = 1.0
# Folders of a study.
WEIGHTS, CHECKPOINTS = "weights", "checkpoints"


@dataclass(frozen=True)
class Job:
    """Where the trials of a study run: picklable, so that an executor can send it anywhere."""

    output: Path
    parent_run_id: str
    storage: str | None = field(default=None, repr=False)
    """The address of the database, that may hold a password; None is `optuna.db` in `output`."""


def run_trial(
    spec: StudySpec,
    job: Job,
    on_event: OnEvent = lambda event: None,
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Runs the study's next trial. What the trial itself breaks is recorded and the study goes on.

    Args:
        check: asked between steps; raises KeyboardInterrupt when the trial has to stop. It leaves a checkpoint then.

    Returns:
        Whether there was one to run.

    Raises:
        HpoError: a mistake of the user's, that would break every trial alike. This one counts as interrupted.
        DeviceFailed: the trial's GPU broke, and with it every trial that this process would run.
    """
    study = load_study(storage_of(job.output, job.storage), spec.name)
    # An exception holds its frames, they hold the model, and it holds them until the next collection. That one has to
    # look at what this trial made, not at all libraries and stored trials again, which takes longer with each of them.
    gc.freeze()
    try:
        with ExitStack() as claim:
            # Or two would draw the same point, or one too many.
            claim.enter_context(exclusive(job.output, spec.name, job.storage))
            if not claimable_trials(study, spec):
                return False
            study.sampler, study.pruner = build_sampler(spec, settled_position(study)), build_pruner(spec)
            attempt = _Attempt(spec, job, study, study.ask(), on_event, check)
            try:
                with Heartbeat(attempt.trial, spec.grace_period):
                    attempt.run(claim.close)
            finally:
                attempt.tell_end()
        if attempt.device_failed:
            told = attempt.device_failed.partition("\n")[0].rstrip(".")
            raise DeviceFailed(
                f"a trial needs a GPU that answers, but in {trial_name(attempt.trial)} it reported: {told}. The same "
                "command goes on, in a new process."
            )
        return True
    finally:
        gc.collect()
        gc.unfreeze()
        return_unused_memory()


@dataclass(frozen=True)
class _End:
    """How a trial ends, in Optuna's words for the state and ours for the reason."""

    state: Literal["COMPLETE", "PRUNED", "FAIL"]
    reason: str | None = None
    step: int | None = None
    """The evaluation at which it was stopped."""
    score: float | None = None
    message: str | None = None
    """Of the error."""


class _Attempt:
    """What is known of a running trial, so that its end can be told whatever ends it."""

    def __init__(
        self,
        spec: StudySpec,
        job: Job,
        study: optuna.Study,
        trial: optuna.Trial,
        on_event: OnEvent,
        check: Callable[[], None],
    ) -> None:
        self.spec, self.job, self.study, self.trial = spec, job, study, trial
        self.on_event, self.check = on_event, check
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        self.before = Progress()
        """How far the attempts before this one came, as it goes on from there."""
        self.is_default = is_default(study, trial)
        self.folder = study_folder(job.output, spec.name)
        self.checkpoints = Checkpoints(checkpoint_path(self.folder, first_attempt(study, trial)), spec.checkpoint_every)
        self.setup: Setup | None = None
        self.progress = Progress()
        self.track: TrialRun | None = None
        self.details: str | None = None
        self.device_failed: str | None = None
        """What the GPU reported, if it cannot be used any more."""

    def run(self, claimed: Callable[[], None]) -> None:
        """Trains, and tells Optuna how that ended; `claimed` is called when the trial has its point."""
        try:
            self._end(self._run(claimed))
        except UpdateFinishedTrialError:
            return  # it was silent for so long that it was taken for dead, and is tried again
        except (Exception, KeyboardInterrupt) as error:
            with suppress(UpdateFinishedTrialError):  # the same
                self._end(_End("FAIL", DISK_FULL if disk_error(error) else INTERRUPTED, message=str(error)))
            raise
        finally:
            self.setup = None

    def _run(self, claimed: Callable[[], None]) -> _End:
        try:
            self.trial.set_user_attr(OWNER, owner())
            params = space.suggest(self.trial, self.spec)
            self.on_event(TrialStarted(self.trial.number, dict(params), finalist_label(self.trial)))
            claimed()
            score = self._train(self._start(params))
            if FINALIST in self.trial.user_attrs and not is_refit(self.trial):
                self._predict()
        except optuna.TrialPruned:
            return _End("PRUNED", FELL_BEHIND, self.progress.step)
        except Diverged as error:
            if self.track:
                self.track.log_points(training_points(error.curve))
            self.details = error.details
            return _End("PRUNED", error.reason, error.step)
        except TrialFailed as error:
            self.details = error.details
            self.device_failed = str(error) if error.reason == DEVICE_FAILED else None
            return _End("FAIL", error.reason, message=str(error))
        last = self.progress.evaluations[-1]
        if last.global_step < self._total_steps:
            return _End("COMPLETE", STOPPED_EARLY, last.step, score)
        return _End("COMPLETE", score=score)

    def _start(self, params: Mapping[str, Value]) -> TrialConfig:
        """Settles the configuration and opens the run."""
        spec, trial, number = self.spec, self.trial, self.trial.number
        config = space.trial_config(spec, dict(params), self._seed())
        if is_refit(trial):
            config = config.model_copy(update={"train_on_validation": True})
        trial.set_user_attr("config", config.model_dump(mode="json"))
        trial.set_user_attr("versions", versions())
        trial.set_user_attr("git_commit", git_commit())
        parent, tracker = self.job.parent_run_id, tracker_of(self.job.output)
        tags, name = start_tags(self.study, spec, trial), finalist_label(trial)
        self.track = tracker.start_trial(parent, number, tags, started_at(trial), name)
        trial.set_user_attr("mlflow_run_id", self.track.run_id)
        self.track.log_params(flat_params(config))
        return config

    def _seed(self) -> int:
        """The trial's own; that of the attempt before, if it came so far as to have one; a finalist's is given."""
        if finalist := self.trial.user_attrs.get(FINALIST):
            return int(finalist["seed"])
        for before in earlier_attempts(self.study, self.trial)[:1]:
            if config := before.user_attrs.get("config"):
                return int(config["seed"])
        return derive_seed(self.spec.seed, "trial", position_of(self.study, self.trial))

    def _train(self, config: TrialConfig) -> float:
        number, spec, trial, track = self.trial.number, self.spec, self.trial, self.track
        assert track is not None
        with _own_faults():
            device = choose_device(config.training.precision)
        self._reserve(config, device)
        with _own_faults():
            self.setup = setup = set_up(config, self.job.output / "cache")
            self.progress = self.checkpoints.restore(setup) or self.progress
            self.before = replace(self.progress)
        stands_at = self.progress.step  # evaluations before it are told again, and were passed
        fingerprint = setup.pretrained.fingerprint
        require_unchanged(self.study, setup.splits.fingerprint, {config.model.reference: fingerprint, **setup.teachers})
        track.set_tags(setup_tags(setup))
        track.log_inputs(datasets(config.data, setup.splits))
        if resumed := self.progress.global_step:
            trial.set_user_attr(RESUMED_STEP, resumed)
            track.set_tags({"trial.resumed_step": str(resumed)})
        trial.set_user_attr("model_fingerprint", fingerprint)
        trial.set_user_attr("machine", {"device": device.name, "precision": device.precision})
        done = len(self.progress.evaluations)  # by the attempt before: they take no memory now
        for index, evaluation in enumerate(self._evaluations(setup)):
            score = evaluation.metrics[spec.metric]
            track.log_points(curve_points(evaluation, spec.metric))
            trial.report(score, evaluation.step)
            if index == done:
                trial.set_user_attr(MEMORY, taken(place_of(device), device.held_mib()))
            self.on_event(Evaluated(number, evaluation.step, score))
            # The default is what everything is compared with, and at the end there is nothing left to save.
            # It is asked for all the same: by that it enters the rungs of successive halving.
            if trial.should_prune() and not evaluation.is_last and not self.is_default and evaluation.step >= stands_at:
                raise optuna.TrialPruned
        return score

    def _predict(self) -> None:
        assert self.setup is not None
        with _own_faults():
            # Without a checkpoint when it is stopped: the model has got back words here that it does not train with.
            kept = predictions(self.setup, self.job.output / "cache", self._ask)
        self.trial.set_user_attr(PREDICTIONS, kept)

    def _reserve(self, config: TrialConfig, device: Device) -> None:
        """Waits until the device has the memory that the trial will take, or nobody else has any of it."""
        place = place_of(device)
        while not self._admitted(config, place, device):
            pause = time.monotonic() + LOOK_EVERY
            while time.monotonic() < pause:
                self.check()
                time.sleep(0.1)
        # Its time is its own, not that of those before it.
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def _admitted(self, config: TrialConfig, place: str, device: Device) -> bool:
        with exclusive(self.job.output, self.spec.name, self.job.storage):  # or two would count on the same memory
            with _own_faults():
                available = device.available_mib()
            trials = self.study.get_trials(deepcopy=False)
            need = expected_mib(trials, config)
            others = [t for t in trials if t.state == TrialState.RUNNING and t.number != self.trial.number]
            if fits(others, place, need, available):
                self.trial.set_user_attr(MEMORY, reserved(place, need))
                return True
        self.on_event(Waits(self.trial.number, need, available))
        return False

    def _evaluations(self, setup: Setup) -> Iterator[Evaluation]:
        evaluations = finetune(setup, self._on_step, progress=self.progress, between_batches=self._look)
        while True:
            with _own_faults():
                evaluation = next(evaluations, None)
            if evaluation is None:
                return
            yield evaluation

    def _on_step(self, step: int) -> None:
        with self._saved_if_stopped():
            self.on_event(StepDone(self.trial.number, step, self._total_steps))
        self._look()
        if self.checkpoints.due:
            self._save()

    def _look(self) -> None:
        """Between two steps, or two batches of an evaluation: whether it has to stop, or has had its time."""
        with self._saved_if_stopped():
            self._ask()

    def _ask(self) -> None:
        self.check()
        limit = self.spec.trial_timeout
        if limit is not None and time.perf_counter() - self.started > limit:
            raise TrialFailed(TIMED_OUT, f"the trial did not end within trial_timeout={limit:g} s")

    @contextmanager
    def _saved_if_stopped(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self._save()
            self.checkpoints.wait()
            raise

    def _save(self) -> None:
        assert self.setup is not None
        self.checkpoints.save(self.setup, self.progress)

    @property
    def _total_steps(self) -> int:
        return self.setup.num_training_steps if self.setup else 0

    def _end(self, end: _End) -> None:
        """Stores the result with the trial before Optuna is told of its end: afterwards it takes no attributes."""
        last = self.progress.evaluations[-1] if self.progress.evaluations else None
        retried = end.state == "FAIL" and may_retry(self.study, self.trial, end.reason)
        result = {
            "state": end.state,
            "reason": end.reason,
            "message": end.message,
            "step": end.step,
            "retried": retried,
            "metrics": dict(last.metrics) if last else {},
            "seconds": (seconds := time.perf_counter() - self.started),
            "training_seconds": self.progress.seconds - self.before.seconds,
            "evaluation_seconds": self.progress.evaluating - self.before.evaluating,
            "cpu_seconds": time.process_time() - self.cpu_started,
            "gpu_seconds": seconds if self.setup and self.setup.device.type == "cuda" else 0.0,
            "optimizer_steps": self.progress.global_step,
            "total_steps": self._total_steps,
            "examples_per_second": last.examples_per_second if last else 0.0,
            "peak_memory_mib": last.memory_mib if last else 0.0,
            "trained_parameters": self.setup.pretrained.num_trained_parameters if self.setup else 0,
            "micro_batch_size": last.micro_batch_size if last else None,
        }
        self.trial.set_user_attr("result", result)
        if self.track:  # a trial that Optuna knows as ended has all its curves, or MLflow's error ends the study
            tracker_of(self.job.output).flush()
        if end.score is None:
            self.study.tell(self.trial, state=TrialState[end.state], skip_if_finished=True)
        else:
            self._tell_score(end.score)
        self.checkpoints.close(keep=retried)

    def _tell_score(self, score: float) -> None:
        """Keeps the weights if they are the study's best, which no other trial may become meanwhile."""
        assert self.setup is not None
        with exclusive(self.job.output, self.spec.name, self.job.storage):
            # One that was taken for dead may have been done again meanwhile.
            running = self.trial.number in {trial.number for trial in running_trials(self.study)}
            if running and is_best(self.study, self.trial, score):
                others = [weights_path(self.folder, other.number) for other in rivals(self.study, self.trial)]
                keep_best(self.setup, weights_path(self.folder, self.trial.number), instead_of=others)
            self.study.tell(self.trial, score, skip_if_finished=True)

    def tell_end(self) -> None:
        """Ends the run in MLflow with what Optuna has stored, and tells it. Nothing, if Optuna knows of no end."""
        trial = self.study.get_trials(deepcopy=False)[self.trial.number]
        if not trial.state.is_finished():
            return
        if self.track:
            end_run(self.track, trial, self.details)
        self.on_event(trial_ended(self.study, self.spec, trial))


def place_of(device: Device) -> str:
    """What shares its memory, among all machines."""
    return device.gpu or host()


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
        if device_failed(error):
            raise TrialFailed(DEVICE_FAILED, str(error), traceback.format_exc()) from None
        if is_out_of_memory(error):  # without its frames, for they hold the tensors
            raise TrialFailed("out_of_memory", str(error), traceback.format_exc()) from None
        raise TrialFailed("crashed", f"{type(error).__name__}: {error}", traceback.format_exc()) from error


def checkpoint_path(folder: Path, first_attempt: int) -> Path:
    """One for all attempts of a trial, in the study's folder."""
    return folder / CHECKPOINTS / f"trial-{first_attempt:04d}.pt"


def weights_path(folder: Path, number: int) -> Path:
    """The model folder of a trial while it is the study's best, in the study's folder."""
    return folder / WEIGHTS / f"trial-{number:04d}"
