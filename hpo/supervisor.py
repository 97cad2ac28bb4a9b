"""Keeps the workers of a study busy until its trials have ended, and buries those that died."""

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from hpo.attempts import (
    INTERRUPTED,
    KILLED,
    MAX_RETRIES,
    contest_of,
    end_dead_trials,
    first_attempt,
    is_retried,
    requeue,
    unqueued_trials,
)
from hpo.divergence import what_diverges
from hpo.errors import HpoError
from hpo.events import Event, Note, OnEvent, TrialEnded, TrialStarted, name_of
from hpo.executors import Executor, Lost
from hpo.interrupt import CtrlC
from hpo.lease import OWNER, Watch, is_alive
from hpo.output import is_temporary, study_folder
from hpo.spec import StudySpec
from hpo.storage import exclusive
from hpo.study import best_first, claimable_trials, remaining_trials, running_trials, stored_config, stored_spec
from hpo.tracking import Tracker, tracker_of
from hpo.trial import WEIGHTS, Job, checkpoint_path, weights_path
from hpo.trial_end import end_run, finalist_label, start_tags, started_at, trial_ended, trial_name
from hpo.trial_logging import flat_params

# Seconds that workers of a driver that was killed have to notice it: they look between two steps.
TO_NOTICE = 10.0
# Seconds between two looks at Ctrl-C and the workers, and at trials that run elsewhere.
LOOK_EVERY, LOOK_ELSEWHERE = 0.5, 5.0


class Supervisor:
    """Gives trials to an executor, and looks after all that the study has running, here and elsewhere."""

    def __init__(self, study: optuna.Study, spec: StudySpec, job: Job, executor: Executor) -> None:
        self.study, self.spec, self.job, self.executor = study, spec, job, executor
        self.timed_out = False
        self._watch = Watch(spec.grace_period)
        self._looked = -math.inf
        self._started: set[int] = set()
        self._failures: list[TrialEnded] = []
        self._warned = False
        self._tell: OnEvent = lambda event: None
        executor.on_event = self._heard

    def repair(self) -> list[str]:
        """Ends what dead workers left, before anything is started. Returns what there is to say of it."""
        alone = self.job.storage is None
        if alone:
            self._outlive_workers()
        ended = self._bury([], alone=alone)
        self._end_runs()
        self._remove_leftovers()
        return list(_told(ended))

    def run(self, on_event: OnEvent, ctrl_c: CtrlC) -> None:
        """Until the wanted trials have ended, or no further one may start and none runs any more.

        Raises:
            HpoError: what would break every trial alike, or `max_failures` trials have failed in a row.
            KeyboardInterrupt: the study was stopped, and its trials with it.
        """
        self._tell = on_event
        deadline = time.monotonic() + (self.spec.timeout or math.inf)
        try:
            while True:
                ctrl_c.check()
                self.timed_out = time.monotonic() >= deadline
                if not self.timed_out:
                    self._submit()
                if not self.executor.busy and (self.timed_out or not remaining_trials(self.study, self.spec)):
                    self._remove_leftovers()
                    return
                lost = self.executor.wait(LOOK_EVERY)
                due = time.monotonic() - self._looked >= LOOK_ELSEWHERE
                if (lost or due) and self._bury(lost):
                    self._end_runs()
        except (HpoError, KeyboardInterrupt):
            self._bury(self.executor.stop())
            raise

    def _submit(self) -> None:
        asked = self.executor.busy - len(self._started)  # for a trial that they have not claimed yet
        for _ in range(min(self.executor.free, claimable_trials(self.study, self.spec) - asked)):
            self.executor.submit(self.spec, self.job)

    def _heard(self, event: Event) -> None:
        if isinstance(event, TrialStarted):
            self._started.add(event.number)
        self._tell(event)
        if isinstance(event, TrialEnded):
            self._ended(event)

    def _ended(self, event: TrialEnded) -> None:
        self._started.discard(event.number)
        if event.state == "PRUNED" and not self._warned and (told := what_diverges(self._trials())):
            self._warned = True
            self._tell(Note(told))
        if event.state == "FAIL":
            self._failures += [] if event.retried else [event]
        else:
            self._failures.clear()
        if len(self._failures) >= self.spec.max_failures:
            raise HpoError(
                f"the study goes on while trials succeed, but {len(self._failures)} in a row have failed "
                f"(max_failures: {self.spec.max_failures}), the last, {name_of(event)}, as {event.reason}: "
                f"{event.message}. Mend the cause, or raise max_failures; the same command goes on."
            )

    def _bury(self, lost: list[Lost], *, alone: bool = False) -> list[FrozenTrial]:
        """Ends the trials of dead workers, and queues what is to be tried again."""
        self._looked = time.monotonic()
        # Not those whose end was told: by the worker before it died, or by a look at it before its loss was noticed.
        reasons = {each.number: each.reason for each in lost if each.number in self._started}
        with exclusive(self.job.output, self.spec.name, self.job.storage):
            running = running_trials(self.study)
            for trial in running:
                if trial.number in reasons:
                    self._end([trial], reasons[trial.number])
            silent = self._watch.dead([trial for trial in running if trial.number not in reasons], alone=alone)
            numbers = {*reasons, *self._end(silent)}
            requeue(self.study)
        # Also what had come to an end of its own: its worker died before it could tell.
        ended = [self._trials()[number] for number in sorted(numbers)]
        for trial in ended:
            self._heard(trial_ended(self.study, self.spec, trial))
        return ended

    def _end(self, dead: list[FrozenTrial], reason: str = KILLED) -> list[int]:
        return end_dead(self.study, tracker_of(self.job.output), self.job.parent_run_id, dead, reason)

    def _outlive_workers(self) -> None:
        """Workers of a driver that was killed end their trials by themselves; one that hangs is killed."""
        deadline = time.monotonic() + TO_NOTICE
        while alive := [trial for trial in running_trials(self.study) if is_alive(trial)]:
            if time.monotonic() > deadline:
                for trial in alive:
                    with suppress(psutil.NoSuchProcess):
                        psutil.Process(trial.user_attrs[OWNER]["pid"]).kill()
            time.sleep(0.1)

    def _end_runs(self) -> None:
        end_runs(self.study, tracker_of(self.job.output), self.job.parent_run_id)

    def _remove_leftovers(self) -> None:
        """Of trials that were killed: too often, or while they wrote."""
        folder = study_folder(self.job.output, self.spec.name)
        for path in leftover_checkpoints(self.study, folder):
            path.unlink(missing_ok=True)  # another driver may have
        with exclusive(self.job.output, self.spec.name, self.job.storage):  # or a worker may be writing them
            for path in leftover_weights(self.study, folder):
                shutil.rmtree(path)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)


def leftover_checkpoints(study: optuna.Study, folder: Path) -> list[Path]:
    """Those in a study's folder that no trial will go on from, and what a kill left half written.

    Workers of another driver may be writing to the same folder: what is there is listed first, and theirs is let alone.
    """
    there = sorted(checkpoint_path(folder, 0).parent.glob("*"))
    unfinished = [trial for trial in study.get_trials(deepcopy=False) if not trial.state.is_finished()]
    needed = {checkpoint_path(folder, first_attempt(study, trial)) for trial in (*unfinished, *unqueued_trials(study))}
    running = [trial for trial in unfinished if trial.state == TrialState.RUNNING]
    written = {checkpoint_path(folder, first_attempt(study, trial)) for trial in running}
    return [path for path in there if path not in needed and not any(is_temporary(path, of) for of in written)]


def leftover_weights(study: optuna.Study, folder: Path) -> list[Path]:
    """All but those of the best trials: half written, or of one that was killed before it could be told as the best."""
    wanted = {weights_path(folder, best.number) for best in best_trials(study)}
    return [path for path in sorted((folder / WEIGHTS).glob("*")) if path not in wanted]


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Those whose weights are kept: the best of a search, and the best seed of each finalist."""
    best: dict[tuple[int | None, bool], FrozenTrial] = {}
    for trial in best_first(study.direction, study.get_trials(deepcopy=False)):
        best.setdefault(contest_of(trial), trial)
    return list(best.values())


def _told(ended: list[FrozenTrial]) -> Iterator[str]:
    """What a killed program has left, in words."""
    for retried, text in (
        (True, "Tried again, for the program was killed while it ran: {}."),
        (False, f"Given up, for it was killed {MAX_RETRIES[KILLED] + 1:g} times and came no further: {{}}."),
    ):
        if names := ", ".join(trial_name(trial) for trial in ended if is_retried(trial) == retried):
            yield text.format(names)


def end_dead(
    study: optuna.Study, tracker: Tracker, parent_run_id: str | None, dead: Sequence[FrozenTrial], reason: str = KILLED
) -> list[int]:
    """Fails trials that nobody runs any more, and returns their numbers; `end_runs` then ends their runs.

    One that died in its first moments gets its run here, or MLflow would not show that it was there, and tried again.
    """
    for trial in dead:
        if parent_run_id and "mlflow_run_id" not in trial.user_attrs:
            tags = start_tags(study, stored_spec(study), trial)
            run = tracker.dead_trial(parent_run_id, trial.number, tags, started_at(trial), finalist_label(trial))
            if "config" in trial.user_attrs:
                run.log_params(flat_params(stored_config(trial)))
            with suppress(UpdateFinishedTrialError):  # it has come to its end by itself, just now
                study._storage.set_trial_user_attr(trial._trial_id, "mlflow_run_id", run.run_id)
    return end_dead_trials(study, dead, reason)


def parent_run(study: optuna.Study, tracker: Tracker) -> str | None:
    """The study's run, if MLflow still has it."""
    parent_run_id: str | None = study.user_attrs.get("mlflow_parent_run_id")
    return parent_run_id if parent_run_id and tracker.has(parent_run_id) else None


def end_runs(study: optuna.Study, tracker: Tracker, parent_run_id: str) -> None:
    """Ends the runs that are still open as Optuna knows their trials; those of trials that are gone as interrupted."""
    running = tracker.running_trials(parent_run_id)
    runs, trials = trial_runs(study, tracker), study.get_trials(deepcopy=False)
    for number, run in running:
        trial = trials[number] if number < len(trials) else None
        if trial is None or trial.state == TrialState.WAITING or runs.get(number, run.run_id) != run.run_id:
            run.end("FAIL", reason=INTERRUPTED, tags={}, metrics={})
        elif trial.state.is_finished():
            end_run(run, trial)


def trial_runs(study: optuna.Study, tracker: Tracker) -> dict[int, str]:
    """The trials' runs by number, with the ids of those that could not be created at once, as far as they are now."""
    trials = study.get_trials(deepcopy=False)
    runs = {trial.number: run for trial in trials if (run := trial.user_attrs.get("mlflow_run_id"))}
    known = study.user_attrs.get("mlflow_run_ids", {})
    if new := tracker.created(run for run in runs.values() if run not in known):
        known = known | new
        study.set_user_attr("mlflow_run_ids", known)
    return {number: known.get(run, run) for number, run in runs.items()}
