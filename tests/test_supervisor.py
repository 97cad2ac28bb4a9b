"""Who dies, and what happens: each row of the table for real, with trials that train and processes that are killed."""

import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from mlflow import MlflowClient
from optuna.trial import FrozenTrial

from conftest import StudyMaker
from hpo import supervisor
from hpo import trial as trial_module
from hpo.attempts import end_dead_trials, requeue
from hpo.errors import HpoError
from hpo.events import Event, Note, StepDone
from hpo.executors import Lost, processes, worker
from hpo.lease import OWNER
from hpo.space import suggest, trial_config
from hpo.storage import open_storage
from hpo.study import open_study, running_trials
from hpo.study_file import parse_study
from hpo.supervisor import leftover_checkpoints, trial_runs
from hpo.tracking import tracker_of, tracking_uri
from hpo.training.setup import Setup, set_up
from hpo.trial import checkpoint_path
from hpo.trial_end import start_tags, started_at
from hpo.tune import tune
from test_tune import Recorder
from workers import (
    long,
    pid_of,
    runs_of,
    start_run,
    trials_of,
    wait_until,
    work_and_die_once_with_the_end_untold,
    work_on_a_gpu_that_fails_once,
)

ROOT = Path(__file__).parent.parent


def told(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    """What a trial learned: the same whoever interrupted it."""
    return [
        (trial.params, trial.intermediate_values, trial.value, trial.user_attrs["result"]["metrics"])
        for trial in sorted(trials, key=lambda trial: str(trial.params))
        if trial.state.name == "COMPLETE"
    ]


class Killer(Recorder):
    """A display that does something to a trial at one of its steps."""

    def __init__(self, at: Callable[[Event], bool], do: Callable[[int], object], times: int = 1) -> None:
        super().__init__()
        self.at, self.do, self.left = at, do, times

    def take(self, event: Event) -> None:
        super().take(event)
        if self.left and self.at(event):
            self.left -= 1
            self.do(event.number)  # type: ignore[union-attr]


def step_of(number: int, step: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, StepDone) and event.number == number and event.step >= step


_undisturbed: list[FrozenTrial] = []


def undisturbed(raw_study: StudyMaker, output: Path, n_trials: int = 2) -> list[tuple[Any, ...]]:
    """What the first trials of `long` learn when nobody interrupts them: trained once for all tests."""
    if not _undisturbed:
        spec = parse_study(long(raw_study, "undisturbed", n_trials=4), "x")
        _undisturbed.extend(tune(spec, output, Recorder()).study.trials)
    return told(_undisturbed[:n_trials])


@pytest.mark.timeout(180)
def test_two_workers_share_the_trials(raw_study: StudyMaker, output: Path) -> None:
    recorder = Recorder()
    outcome = tune(parse_study(long(raw_study, n_trials=4), "x"), output, recorder, workers=2)
    trials = outcome.study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    owners = {trial.user_attrs[OWNER]["pid"] for trial in trials}
    assert len(owners) == 2 and os.getpid() not in owners
    assert {trial.user_attrs["machine"]["device"].rpartition(", ")[2] for trial in trials} == {"1 threads"}
    assert sorted(event.number for event in recorder.ended) == [0, 1, 2, 3]
    runs = runs_of(output)
    assert {name: run.info.status for name, run in runs.items()} == {
        "long": "FINISHED",
        **{f"trial-{number:04d}": "FINISHED" for number in range(4)},
    }
    for trial in trials:
        history = MlflowClient(tracking_uri(output)).get_metric_history(
            runs[f"trial-{trial.number:04d}"].info.run_id, "eval/accuracy"
        )
        assert {point.step: point.value for point in history} == trial.intermediate_values
    # Nobody is left behind, and nothing but the best weights.
    assert not [pid for pid in owners if psutil.pid_exists(pid)]
    assert not list((output / "long" / "checkpoints").glob("*"))
    assert outcome.best_yaml is not None
    best = yaml.safe_load(outcome.best_yaml.read_text())["trial"]
    assert [path.name for path in (output / "long" / "weights").iterdir()] == [f"trial-{best:04d}"]


@pytest.mark.timeout(180)
def test_a_killed_worker_costs_no_trial(raw_study: StudyMaker, output: Path) -> None:
    """SIGKILL in mid-trial: it fails at once, and its configuration goes on from its last checkpoint."""
    expected = undisturbed(raw_study, output)
    killer = Killer(step_of(1, 200), kill_worker(output))
    outcome = tune(parse_study(long(raw_study), "x"), output, killer, workers=2)
    trials = outcome.study.trials
    assert sorted(trial.state.name for trial in trials) == ["COMPLETE"] * 2 + ["FAIL"]
    assert trials[1].user_attrs["result"]["reason"] == "killed" and trials[1].user_attrs["result"]["retried"]
    (again,) = (trial for trial in trials if trial.user_attrs.get("retry_of") == 1)
    assert told(trials) == expected  # to the bit
    runs = runs_of(output)
    assert runs["trial-0001"].info.status == "FAILED"
    assert runs["trial-0001"].data.tags["trial.reason"] == "killed"
    tags = runs[f"trial-{again.number:04d}"].data.tags
    assert tags["trial.retry_of"] == "1"
    resumed = int(tags["trial.resumed_step"])
    assert resumed > 0
    steps = [event.step for event in killer.events if isinstance(event, StepDone) and event.number == again.number]
    assert min(steps) > resumed and max(steps) == 600
    history = MlflowClient(tracking_uri(output)).get_metric_history(
        runs[f"trial-{again.number:04d}"].info.run_id, "eval/accuracy"
    )
    assert [point.step for point in history] == list(range(1, 11))  # also those of the attempt before
    (event,) = (event for event in killer.ended if event.number == 1)
    assert event.retried and event.reason == "killed"
    report = outcome.report.markdown.read_text()
    assert "1 tried again" in report and re.search(r"\| 1 +\| killed", report)


def test_a_death_that_is_seen_twice_is_told_once(
    raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor's own look at its trials may come before the executor notices that a worker is lost."""
    held: list[Lost] = []
    wait = processes.Processes.wait

    def wait_a_look_longer(self: processes.Processes, seconds: float) -> list[Lost]:
        before = held.copy()
        held[:] = wait(self, seconds)
        return before

    monkeypatch.setattr(processes.Processes, "wait", wait_a_look_longer)
    monkeypatch.setattr(supervisor, "LOOK_ELSEWHERE", 0.0)
    killer = Killer(step_of(1, 200), kill_worker(output))
    tune(parse_study(long(raw_study), "x"), output, killer, workers=2)
    assert sorted(event.number for event in killer.ended) == [0, 1, 2]


def write(raw: dict[str, Any], folder: Path) -> Path:
    path = folder / f"{raw['name']}.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_driver_costs_no_trial(raw_study: StudyMaker, output: Path, tmp_path: Path, workers: int) -> None:
    """SIGKILL to the driver in the second trial of four: the same command goes on from where it was."""
    raw = long(raw_study, n_trials=4)
    path, count = write(raw, tmp_path), ["--workers", str(workers)]
    process = start_run(output, path, *count)
    wait_until(lambda: any(t.number > 0 and len(t.intermediate_values) >= 3 for t in trials_of(output)), "second trial")
    process.kill()
    process.communicate()
    before = trials_of(output)
    # Its workers see that it is gone, and end what they do: nobody trains on for a study that nobody drives.
    owners = {trial.user_attrs[OWNER]["pid"] for trial in before if OWNER in trial.user_attrs}
    outcome = tune(parse_study(raw, "x"), output, Recorder(), workers=workers)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in owners), "end of the workers")
    trials = outcome.study.trials
    for trial in before:
        if trial.state.is_finished():
            assert trials[trial.number] == trial  # none is lost, none is run twice
    states = [trial.state.name for trial in trials]
    assert states.count("COMPLETE") == 4 and set(states) == {"COMPLETE", "FAIL"}
    assert {trial.user_attrs["result"]["reason"] for trial in trials} <= {None, "killed", "interrupted"}
    expected = undisturbed(raw_study, output, n_trials=4)
    assert told(trials) == expected if workers == 1 else len(told(trials)) == 4
    status = {run.info.run_name: run.info.status for run in runs_of(output).values()}
    assert status["long"] == "FINISHED" and set(status.values()) <= {"FINISHED", "FAILED"}
    assert [status[f"trial-{t.number:04d}"] for t in trials if t.state.name == "COMPLETE"] == ["FINISHED"] * 4
    assert not list((output / "long" / "checkpoints").glob("*"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_leaves_a_checkpoint_and_true_states(
    raw_study: StudyMaker, output: Path, tmp_path: Path, workers: int
) -> None:
    """As a scheduler sends it that wants the machine back. What is resumed is what was never stopped, to the bit."""
    raw = long(raw_study, checkpoint_every=3600)
    expected = undisturbed(raw_study, output)
    process = start_run(output, write(raw, tmp_path), "--workers", str(workers))
    wait_until(lambda: any(len(trial.intermediate_values) >= 3 for trial in trials_of(output)), "evaluation")
    asked = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=120)
    took = time.monotonic() - asked
    assert process.returncode == 130 and "Traceback" not in err, err
    stopped = [trial for trial in trials_of(output) if trial.state.name == "FAIL"]
    assert 1 <= len(stopped) <= workers
    assert {trial.user_attrs["result"]["reason"] for trial in stopped} == {"interrupted"}
    assert "RUNNING" not in {trial.state.name for trial in trials_of(output)}
    folder = output / "long"
    begun = [trial for trial in stopped if trial.user_attrs["result"]["optimizer_steps"]]  # the other may wait for it
    assert {path.name for path in folder.glob("checkpoints/*")} == {
        checkpoint_path(folder, trial.number).name for trial in begun
    }
    status = {run.info.run_name: run.info.status for run in runs_of(output).values()}
    assert status.pop("long") == "KILLED"
    assert all(status[f"trial-{trial.number:04d}"] == "FAILED" for trial in stopped)
    # Ten seconds are what a scheduler gives. The states above are told before the report is written.
    assert took < 60
    outcome = tune(parse_study(raw, "x"), output, Recorder(), workers=workers)
    assert told(outcome.study.trials) == expected
    resumed = [run for run in runs_of(output).values() if "trial.resumed_step" in run.data.tags]
    assert len(resumed) == len(begun) >= 1


@pytest.mark.timeout(240)
def test_a_trial_that_hangs_is_ended(raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped answers nothing and steps no further, as one in a deadlock."""
    monkeypatch.setattr(worker, "TO_TIME_OUT", 2.0)
    killer = Killer(step_of(0, 50), lambda number: os.kill(pid_of(output, number), signal.SIGSTOP))
    outcome = tune(parse_study(long(raw_study, trial_timeout=25), "x"), output, killer)
    hung, other = outcome.study.trials
    assert (hung.state.name, hung.user_attrs["result"]["reason"]) == ("FAIL", "timed_out")
    assert not hung.user_attrs["result"]["retried"]
    assert other.state.name == "COMPLETE"
    runs = runs_of(output)
    assert runs["trial-0000"].info.status == "FAILED" and runs["trial-0000"].data.tags["trial.reason"] == "timed_out"


@pytest.mark.timeout(180)
def test_a_worker_whose_gpu_failed_is_replaced(
    raw_study: StudyMaker, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILED", str(tmp_path / "failed"))
    monkeypatch.setattr(processes, "_work", work_on_a_gpu_that_fails_once)
    expected = undisturbed(raw_study, output)
    trials = tune(parse_study(long(raw_study), "x"), output, Recorder(), executor="processes").study.trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert (trials[0].user_attrs["result"]["reason"], trials[0].user_attrs["result"]["retried"]) == (
        "device_failed",
        True,
    )
    assert trials[0].user_attrs[OWNER]["pid"] != trials[1].user_attrs[OWNER]["pid"]
    assert told(trials) == expected
    run = runs_of(output)["trial-0000"]
    assert (run.info.status, run.data.tags["trial.reason"]) == ("FAILED", "device_failed")


def test_a_trial_that_only_takes_too_long_ends_itself(raw_study: StudyMaker, output: Path) -> None:
    spec = parse_study(raw_study(name="long", n_trials=1, trial_timeout=0.001, max_failures=1), "x")
    with pytest.raises(HpoError, match=r"as timed_out: the trial did not end within trial_timeout=0\.001 s"):
        tune(spec, output, Recorder(), executor="serial")
    (trial,) = trials_of(output)
    assert trial.user_attrs["result"]["reason"] == "timed_out"


def refusing(monkeypatch: pytest.MonkeyPatch, trials: set[int], error: type[Exception]) -> None:
    """Lets the models of these trials, in the order in which they are set up, take no example at all."""
    count = iter(range(1000))

    def refuse(*args: Any) -> None:
        raise error("no more")

    def small(*args: Any, **kwargs: Any) -> Setup:
        setup = set_up(*args, **kwargs)
        if next(count) in trials:
            setup.pretrained.model.register_forward_pre_hook(refuse)
        return setup

    monkeypatch.setattr(trial_module, "set_up", small)


def test_out_of_memory_with_one_example_is_not_tried_again(
    raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = raw_study(sampler={"name": "random"}, pruner={"name": "none"})
    expected = told(tune(parse_study(raw | {"name": "undisturbed"}, "x"), output, Recorder()).study.trials)
    refusing(monkeypatch, {1}, torch.OutOfMemoryError)
    outcome = tune(parse_study(raw, "x"), output, Recorder())
    trials = outcome.study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[1].user_attrs["result"]["reason"] == "out_of_memory"
    assert not trials[1].user_attrs["result"]["retried"]
    assert [row for row in told(trials) if row not in expected] == []  # the next one is as it would have been
    assert runs_of(output, "tiny")["trial-0001"].info.status == "FAILED"


def test_a_study_in_which_everything_fails_stops(
    raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, set(range(2, 1000)), ZeroDivisionError)
    spec = parse_study(raw_study(n_trials=50, max_failures=3), "tiny.yaml")
    with pytest.raises(HpoError) as raised:
        tune(spec, output, Recorder())
    assert "3 in a row have failed (max_failures: 3), the last, trial 4, as crashed: ZeroDivisionError: no more" in str(
        raised.value
    )
    assert [trial.state.name for trial in trials_of(output, "tiny")] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL", "FAIL"]
    assert (output / "tiny" / "best.yaml").exists()
    assert runs_of(output, "tiny")["tiny"].info.status == "FAILED"
    with pytest.raises(HpoError, match="trial 7"):  # asked again it tries again
        tune(spec, output, Recorder())


def test_failures_that_are_not_in_a_row_stop_nothing(
    raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, {0, 1, 3, 4}, ZeroDivisionError)
    outcome = tune(parse_study(raw_study(n_trials=6, max_failures=3), "tiny.yaml"), output, Recorder())
    assert [trial.state.name for trial in outcome.study.trials].count("FAIL") == 4


def test_when_half_of_the_trials_diverge_the_range_that_does_it_is_told(raw_study: StudyMaker, output: Path) -> None:
    training = raw_study()["training"] | {"optimizer": "sgd", "max_grad_norm": None, "num_evaluations": 2}
    space = {"learning_rate": {"low": 1e-4, "high": 1e30, "log": True}, "weight_decay": {"low": 0.0, "high": 0.1}}
    raw = raw_study(training=training, search_space=space, sampler={"name": "random"}, n_trials=8)
    recorder = Recorder()
    trials = tune(parse_study(raw | {"pruner": {"name": "none"}}, "x"), output, recorder).study.trials
    diverged = [trial for trial in trials if trial.user_attrs["result"]["reason"] == "diverged"]
    assert len(diverged) >= 4 and all(trial.state.name == "PRUNED" for trial in diverged)
    (note,) = (event.text for event in recorder.events if isinstance(event, Note))
    assert re.match(r"\d of \d trials diverged: \d of the \d with learning_rate from [\d.e+]+ up, and no other\.", note)
    assert note.endswith("Set search_space.learning_rate.high below it.")


def test_what_another_driver_of_a_common_folder_is_writing_is_no_leftover(raw_study: StudyMaker, output: Path) -> None:
    study = open_study(parse_study(raw_study(), "x"), open_storage(output))
    folder = output / "tiny"
    whole = checkpoint_path(folder, 0)
    half = whole.with_name(f".{whole.name}.77.tmp")
    whole.parent.mkdir(parents=True)
    for path in (whole, half):
        path.touch()
    assert leftover_checkpoints(study, folder) == [half]  # of an attempt that was killed: the default waits
    study.ask()
    assert leftover_checkpoints(study, folder) == []
    end_dead_trials(study, running_trials(study))  # and no driver has queued it again yet
    assert leftover_checkpoints(study, folder) == [half]
    requeue(study)
    assert leftover_checkpoints(study, folder) == [half]
    study.tell(study.ask(), 1.0)
    assert set(leftover_checkpoints(study, folder)) == {whole, half}


@pytest.mark.parametrize("created", [False, True], ids=["before", "between"])
def test_a_trial_that_died_in_its_first_moments_has_a_run(raw_study: StudyMaker, output: Path, created: bool) -> None:
    """Before MLflow has its run, or between that and Optuna being told which it is."""
    spec = parse_study(raw_study(n_trials=1), "x")
    study, tracker = open_study(spec, open_storage(output)), tracker_of(output)
    parent = tracker.start_study("tiny", None, "", {})
    study.set_user_attr("mlflow_parent_run_id", parent)
    trial = study.ask()
    params = suggest(trial, spec)
    trial.set_user_attr("config", trial_config(spec, params, seed=7).model_dump(mode="json"))
    if created:
        tracker.start_trial(parent, 0, start_tags(study, spec, trial), started_at(trial))
    tune(spec, output, Recorder())
    client = MlflowClient(tracking_uri(output))
    runs = client.search_runs([client.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    told = {run.info.run_name: (run.info.status, run.data.tags.get("trial.retry_of")) for run in runs}
    assert len(runs) == 2
    assert told == {"trial-0000": ("FAILED", None), "trial-0001": ("FINISHED", "0")}
    (dead,) = (run for run in runs if run.info.run_name == "trial-0000")
    assert dead.data.tags["trial.reason"] == "killed" and dead.data.params["seed"] == "7"
    assert dead.info.start_time == started_at(trials_of(output, "tiny")[0])
    assert trial_runs(study, tracker)[0] == dead.info.run_id


def test_weights_that_a_kill_left_are_removed(raw_study: StudyMaker, output: Path) -> None:
    """Half written, or of a trial that was killed before it could be told as the best."""
    spec = parse_study(raw_study(n_trials=1), "x")
    tune(spec, output, Recorder())
    best = output / "tiny" / "weights" / "trial-0000"
    for name in (".trial-0007", "trial-0008"):
        shutil.copytree(best, best.with_name(name))
    tune(spec, output, Recorder())
    assert list(best.parent.iterdir()) == [best]


@pytest.mark.timeout(180)
def test_a_trial_that_is_given_up_leaves_nothing(raw_study: StudyMaker, output: Path) -> None:
    killed: set[int] = set()

    def at(event: Event) -> bool:
        """Once a trial: what a killed worker has told is still heard."""
        due = isinstance(event, StepDone) and event.step >= 20 and event.number not in killed
        killed.update({event.number} if isinstance(event, StepDone) and due else ())
        return due

    killer = Killer(at, kill_worker(output), times=4)
    raw = long(raw_study, n_trials=1, checkpoint_every=3600)  # none comes further than the one before
    checkpoint = checkpoint_path(output / "long", 0)
    checkpoint.parent.mkdir(parents=True)
    for path in (checkpoint, checkpoint.with_name(f".{checkpoint.name}.77.tmp")):
        path.write_bytes(b"of an attempt before these")
    outcome = tune(parse_study(raw, "x"), output, killer, executor="processes")
    assert [trial.user_attrs["result"]["retried"] for trial in outcome.study.trials] == [True, True, True, False]
    assert list((output / "long" / "checkpoints").iterdir()) == []


def kill_worker(output: Path) -> Callable[[int], object]:
    return lambda number: os.kill(pid_of(output, number), signal.SIGKILL)


def test_a_full_disk_at_a_checkpoint_fails_the_trial_and_damages_nothing(raw_study: StudyMaker, output: Path) -> None:
    """A limit on the size of files is the full disk that every user may make."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    raw = long(raw_study, checkpoint_every=0.001)
    spec = parse_study(raw, "x")
    folder = output / "long" / "checkpoints"

    def fill(number: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**10, hard))

    killer = Killer(step_of(0, 20), fill)
    try:
        with pytest.raises(Exception) as raised:
            tune(spec, output, killer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in str(raised.value) or "disk" in str(raised.value)
    assert not list(folder.glob(".*"))
    outcome = tune(spec, output, Recorder())
    assert [trial.state.name for trial in outcome.study.trials].count("COMPLETE") == 2
    assert set(run.info.status for run in runs_of(output).values()) <= {"FINISHED", "FAILED"}


@pytest.mark.timeout(180)
def test_a_disk_that_is_full_for_a_worker_ends_the_study_in_words(raw_study: StudyMaker, output: Path) -> None:
    """The other workers' trials are stopped, not killed."""

    def fill(number: int) -> None:
        resource.prlimit(pid_of(output, number), resource.RLIMIT_FSIZE, (2**10, 2**10))

    spec = parse_study(long(raw_study, checkpoint_every=0.001), "x")
    with pytest.raises(HpoError, match=r"the disk refused to go on: .*(File too large|disk)"):
        tune(spec, output, Killer(step_of(0, 20), fill), workers=2)
    assert [trial.user_attrs["result"]["reason"] for trial in trials_of(output)[1:2]] == ["interrupted"]
    assert {trial.state.name for trial in trials_of(output)} == {"FAIL", "WAITING"}
    trials = tune(spec, output, Recorder()).study.trials
    assert [trial.state.name for trial in trials].count("COMPLETE") == 2


@pytest.mark.timeout(180)
def test_a_trial_whose_worker_died_before_it_could_tell_its_end(
    raw_study: StudyMaker, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIED", str(tmp_path / "died"))
    monkeypatch.setattr(processes, "_work", work_and_die_once_with_the_end_untold)
    recorder = Recorder()
    tune(parse_study(raw_study(pruner={"name": "none"}), "x"), output, recorder, executor="processes")
    assert [(event.number, event.state) for event in recorder.ended] == [(n, "COMPLETE") for n in range(3)]
    assert {run.info.status for run in runs_of(output, "tiny").values()} == {"FINISHED"}


@pytest.mark.timeout(180)
def test_a_trial_that_does_not_stop_in_time_is_interrupted_all_the_same(
    raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or who is stopped often would be given up, as one that kills its worker."""
    monkeypatch.setattr(processes, "TO_STOP", 1.0)

    def hang(number: int) -> None:
        os.kill(pid_of(output, number), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGINT)

    outcome = tune(parse_study(long(raw_study), "x"), output, Killer(step_of(0, 50), hang), executor="processes")
    assert outcome.interrupted
    assert [trial.state.name for trial in outcome.study.trials] == ["FAIL", "WAITING"]
    assert outcome.study.trials[0].user_attrs["result"]["reason"] == "interrupted"
