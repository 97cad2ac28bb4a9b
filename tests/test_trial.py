"""One trial for real: what it leaves in Optuna and in MLflow, however it ends."""

import dataclasses
import errno
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, Engine, event

from conftest import StudyMaker
from hpo import trial as trial_module
from hpo.attempts import end_dead_trials, failure_reason, is_retried, requeue
from hpo.errors import DataError, DeviceFailed
from hpo.events import Event, StepDone, TrialEnded, TrialStarted
from hpo.executors.worker import Failed, work
from hpo.report import pruning_savings, trials_table
from hpo.report.answers import state_of
from hpo.spec import StudySpec
from hpo.storage import open_storage
from hpo.study import COSTS, next_position, open_study, remaining_trials
from hpo.study_file import parse_study
from hpo.tracking import Tracker, tracker_of, tracking_uri
from hpo.training.finetune import Evaluation, Progress, finetune
from hpo.training.setup import Setup, set_up
from hpo.trial import Job, run_trial
from hpo.trial_end import end_run
from hpo.trial_logging import flat_params


def start(spec: StudySpec, output: Path) -> tuple[optuna.Study, str]:
    study = open_study(spec, open_storage(output))
    return study, Tracker(output).start_study(spec.name, None, "", {})


def run_one(spec: StudySpec, output: Path) -> tuple[FrozenTrial, Run, list[Event]]:
    """Runs one trial of a new study; returns it from both sides, and what it told."""
    study, parent = start(spec, output)
    events: list[Event] = []
    run_trial(spec, Job(output, parent), events.append)
    return study.trials[0], only_child(output, parent), events


def only_child(output: Path, parent: str) -> Run:
    tracker_of(output).flush()
    client = MlflowClient(tracking_uri(output))
    experiment = client.get_run(parent).info.experiment_id
    (child,) = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    return child


def test_complete_trial_is_finished_with_all_it_knows(spec: StudySpec, output: Path) -> None:
    trial, run, events = run_one(spec, output)
    assert trial.state.name == "COMPLETE"
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "trial-0000"
    tags, params, metrics = run.data.tags, run.data.params, run.data.metrics
    assert tags["trial.state"] == "COMPLETE"
    assert tags["trial.default"] == "true"
    assert tags["data.fingerprint"] and tags["model.fingerprint"].startswith("sha256:")
    assert tags["version.torch"] == torch.__version__
    assert tags["device"] and tags["precision"] == "fp32"
    assert params["learning_rate"] == "0.001"
    assert params["max_grad_norm"] == "1.0"
    assert params["data.train.source"] == spec.data.train.source
    assert metrics["eval/accuracy"] == trial.value == trial.user_attrs["result"]["metrics"]["eval/accuracy"]
    assert {"seconds", "examples_per_second", "peak_memory_mib", "eval/f1", "eval/mcc"} <= set(metrics)
    # 240 rows in batches of 16, twice: 30 steps, evaluated at 8, 15, 23 and 30, told at each.
    assert trial.user_attrs["result"]["total_steps"] == 30
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4]
    assert [event.step for event in events if isinstance(event, StepDone)] == list(range(1, 31))
    assert isinstance(events[0], TrialStarted)
    assert isinstance(events[-1], TrialEnded)


def test_curves_are_in_mlflow_by_step(spec: StudySpec, output: Path) -> None:
    _, run, _ = run_one(spec, output)
    client = MlflowClient(tracking_uri(output))
    loss = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in loss] == list(range(1, 31))
    rates = client.get_metric_history(run.info.run_id, "train/learning_rate")
    assert rates[0].value == 0.0  # one step of warm-up: 6 % of 30
    assert rates[1].value == pytest.approx(1e-3)
    assert rates[-1].value == pytest.approx(1e-3 / 29)
    assert len(client.get_metric_history(run.info.run_id, "train/grad_norm")) == 30
    assert [point.step for point in client.get_metric_history(run.info.run_id, "eval/accuracy")] == [1, 2, 3, 4]


def test_the_same_trial_scores_the_same_to_the_bit(spec: StudySpec, output: Path, tmp_path: Path) -> None:
    first, _, _ = run_one(spec, output)
    other = parse_study(spec.model_dump() | {"name": "again"}, "again.yaml")
    second, _, _ = run_one(other, output)
    assert first.user_attrs["result"]["metrics"] == second.user_attrs["result"]["metrics"]
    assert first.intermediate_values == second.intermediate_values


def test_diverged_trial_is_pruned_with_its_reason(raw_study: StudyMaker, output: Path) -> None:
    training = raw_study()["training"] | {"optimizer": "sgd", "learning_rate": 1e20, "max_grad_norm": None}
    space = {"weight_decay": {"low": 0.0, "high": 0.1}}
    trial, run, events = run_one(parse_study(raw_study(training=training, search_space=space), "x"), output)
    assert trial.state.name == "PRUNED"
    assert trial.user_attrs["result"]["reason"] == "diverged"
    assert run.info.status == "KILLED"
    assert run.data.tags["trial.state"] == "PRUNED"
    assert run.data.tags["trial.reason"] == "diverged"
    assert isinstance(events[-1], TrialEnded) and events[-1].state == "PRUNED"
    # Seen at the first of 4 evaluations, after 8 of 30 steps, whose losses are told.
    assert run.data.tags["trial.pruned_step"] == "1"
    assert trial.user_attrs["result"]["optimizer_steps"] == 8
    losses = MlflowClient(tracking_uri(output)).get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in losses] == list(range(1, 9))


def test_trial_that_falls_behind_is_pruned_at_its_step(spec: StudySpec, output: Path) -> None:
    study, parent = start(spec, output)
    run_trial(spec, Job(output, parent))
    distributions = study.trials[0].distributions
    # One finished trial that nobody can reach, at every step.
    perfect = optuna.trial.create_trial(
        params=study.trials[0].params,
        distributions=distributions,
        value=1.1,
        intermediate_values=dict.fromkeys(range(1, 5), 1.1),
    )
    study.add_trial(perfect)
    run_trial(spec, Job(output, parent))
    trial = study.trials[2]
    tracker_of(output).flush()
    client = MlflowClient(tracking_uri(output))
    experiment = client.get_run(parent).info.experiment_id
    run = client.search_runs([experiment], "tags.`trial.number` = '2'")[0]
    assert trial.state.name == "PRUNED"
    assert max(trial.intermediate_values) == 1
    assert run.info.status == "KILLED"
    assert run.data.tags["trial.pruned_step"] == "1"
    assert trial.user_attrs["result"]["optimizer_steps"] == 8
    assert trial.user_attrs["result"]["reason"] == "fell behind"


def test_the_default_is_never_pruned(raw_study: StudyMaker, output: Path) -> None:
    """Of two trials with one configuration, whose loss soon gets worse, only the second is pruned."""
    training = raw_study()["training"] | {"learning_rate": 1.0, "num_evaluations": 10}
    pruner = {"name": "patient", "patience": 0, "wrapped": {"name": "none"}}
    space = {"dropout": {"choices": [0.1, 0.2]}}
    spec = parse_study(raw_study(training=training, pruner=pruner, metric="eval/loss", search_space=space), "x")
    study, parent = start(spec, output)
    study.enqueue_trial({"dropout": 0.1})
    for _ in range(2):
        run_trial(spec, Job(output, parent))
    default, other = study.trials
    losses = [default.intermediate_values[step] for step in range(1, 11)]
    assert losses != sorted(losses, reverse=True)
    assert (default.state.name, other.state.name) == ("COMPLETE", "PRUNED")


def test_nobody_is_pruned_at_the_last_evaluation(raw_study: StudyMaker, output: Path) -> None:
    """The rung of this pruner is the second of two evaluations, where the worse trial would be stopped."""
    training = raw_study()["training"] | {"learning_rate": 0.01, "num_train_epochs": 4, "num_evaluations": 2}
    pruner = {"name": "successive_halving", "min_resource": 2, "reduction_factor": 2}
    space = {"learning_rate": {"choices": [0.01, 1e-7]}}
    spec = parse_study(raw_study(training=training, pruner=pruner, search_space=space), "x")
    study, parent = start(spec, output)
    study.enqueue_trial({"learning_rate": 1e-7})
    for _ in range(2):
        run_trial(spec, Job(output, parent))
    better, worse = study.trials
    assert better.value is not None and worse.value is not None and better.value > worse.value
    assert worse.state.name == "COMPLETE"


@pytest.mark.parametrize("pruner", [{"name": "none"}, {"name": "patient", "patience": 0, "wrapped": {"name": "none"}}])
def test_a_trial_that_stops_early_is_complete(raw_study: StudyMaker, output: Path, pruner: dict[str, Any]) -> None:
    """Also where the pruner would have had it: it has stopped by itself, and its last score is the trial's."""
    training = raw_study()["training"] | {"learning_rate": 1e-9, "num_evaluations": 5, "early_stopping_patience": 1}
    space = {"dropout": {"choices": [0.1, 0.2]}}
    spec = parse_study(raw_study(training=training, pruner=pruner, search_space=space), "x")
    study, parent = start(spec, output)
    for _ in range(2):
        run_trial(spec, Job(output, parent))
    for trial in study.trials:
        assert trial.state.name == "COMPLETE" and list(trial.intermediate_values) == [1, 2]
        assert trial.value == trial.intermediate_values[2]
        result = trial.user_attrs["result"]
        assert (result["reason"], result["step"]) == ("stopped early", 2)
        assert (result["optimizer_steps"], result["total_steps"]) == (12, 30)
        tracker_of(output).flush()
        run = MlflowClient(tracking_uri(output)).get_run(trial.user_attrs["mlflow_run_id"])
        assert run.info.status == "FINISHED"
        assert run.data.tags["trial.stopped_step"] == "2" and "trial.pruned_step" not in run.data.tags
    table = trials_table(study)
    assert {state_of(row) for _, row in table.iterrows()} == {"complete, stopped early at 2 of 5"}
    assert pruning_savings(table).share_saved == 0.0


def test_a_trial_leaves_nothing_in_memory(raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Least of all a pruned one, whose exception holds its frames, and they its model."""
    models: list[weakref.ref[torch.nn.Module]] = []

    def load(*args: Any, **kwargs: Any) -> Setup:
        setup = set_up(*args, **kwargs)
        models.append(weakref.ref(setup.pretrained.model))
        return setup

    pruner = {"name": "patient", "patience": 0, "wrapped": {"name": "none"}}
    training = raw_study()["training"] | {"learning_rate": 1.0, "num_evaluations": 10}
    space = {"dropout": {"choices": [0.1, 0.2]}}
    spec = parse_study(raw_study(training=training, pruner=pruner, metric="eval/loss", search_space=space), "x")
    study, parent = start(spec, output)
    monkeypatch.setattr(trial_module, "set_up", load)
    gc.disable()  # or a chance collection hides it
    try:
        for _ in range(3):
            run_trial(spec, Job(output, parent))
            assert [model for model in models if model() is not None] == []
    finally:
        gc.enable()
    assert "PRUNED" in {trial.state.name for trial in study.trials}


def test_the_collection_after_a_trial_looks_at_nothing_older(
    spec: StudySpec, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it takes longer with every trial that the study has had."""
    frozen: list[int] = []

    def watched(*args: Any, **kwargs: Any) -> Iterator[Evaluation]:
        frozen.append(gc.get_freeze_count())
        return finetune(*args, **kwargs)

    monkeypatch.setattr(trial_module, "finetune", watched)
    _, parent = start(spec, output)
    run_trial(spec, Job(output, parent))
    assert frozen[0] > 10_000  # what pytest, torch and all others have made
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_trial_asks_the_storage_as_much_however_many_there_are(
    raw_study: StudyMaker, output: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """Statements to Optuna's database, and the values bound in them: the numbers of all trials that are read."""
    asked: list[int] = []

    def count(connection: Connection, cursor: object, statement: str, parameters: Any, *others: object) -> None:
        if str(connection.engine.url).endswith("optuna.db"):
            asked.append(1 + len(parameters))

    def played(setup: Setup, *args: Any, progress: Progress, **kwargs: Any) -> Iterator[Evaluation]:
        for step, global_step in enumerate((8, 15, 23, 30), start=1):
            evaluation = Evaluation(step, global_step, 1.0, {"eval/accuracy": 0.9}, (), 1.0, 1.0, None)
            progress.evaluations.append(evaluation)
            yield evaluation

    monkeypatch.setattr(trial_module, "finetune", played)
    spec = parse_study(raw_study(sampler={"name": sampler}, n_trials=300), "x")
    study, parent = start(spec, output)
    run_trial(spec, Job(output, parent))
    first, asked_for = study.trials[0], []
    for wanted in (20, 200):
        for _ in range(wanted - len(study.get_trials(deepcopy=False))):
            study.add_trial(first)
        event.listen(Engine, "before_cursor_execute", count)
        try:
            for position in range(wanted, wanted + 2):
                asked.clear()  # the first trial after others have come reads them, once
                run_trial(spec, Job(output, parent))
                assert remaining_trials(study, spec) == 299 - position and next_position(study) == position + 1
        finally:
            event.remove(Engine, "before_cursor_execute", count)
        asked_for.append((len(asked), sum(asked)))
    assert asked_for[0] == asked_for[1]
    assert asked_for[0][0] > 20


def accelerator_error(code: int, text: str) -> torch.AcceleratorError:
    """As torch makes one: the number comes afterwards."""
    error = torch.AcceleratorError(text)
    error.error_code = code  # type: ignore[attr-defined]
    return error


def test_a_gpu_that_failed_ends_the_process_and_costs_no_trial(
    spec: StudySpec, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After such an error a process can use the GPU for nothing: a worker is replaced, and the trial tried again."""
    illegal = accelerator_error(700, "CUDA error: an illegal memory access\nCUDA kernel errors might be")

    def broken(*args: Any, **kwargs: Any) -> Iterator[Evaluation]:
        raise illegal
        yield

    study, parent = start(spec, output)
    job = Job(output, parent)
    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "finetune", broken)
        with pytest.raises(DeviceFailed, match=r"in trial 0 it reported: CUDA error: an illegal .* access\. The"):
            run_trial(spec, job)
        requeue(study)
        told = work(spec, job, lambda event: None, lambda: None)
        assert isinstance(told, Failed) and told.ends_worker
    reasons = [(trial.state.name, failure_reason(trial), is_retried(trial)) for trial in study.trials[:1]]
    assert reasons == [("FAIL", "device_failed", True)]
    again = study.trials[1]
    assert (again.user_attrs["retry_of"], failure_reason(again), is_retried(again)) == (0, "device_failed", False)
    requeue(study)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]  # once more, and no more


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("no more"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (accelerator_error(2, "CUDA error: out of memory"), "out_of_memory"),
        (ZeroDivisionError("ours"), "crashed"),
    ],
)
def test_crash_is_failed_with_its_traceback_and_the_study_goes_on(
    spec: StudySpec, output: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Iterator[Evaluation]:
        raise error
        yield

    monkeypatch.setattr(trial_module, "finetune", broken)
    trial, run, events = run_one(spec, output)
    assert trial.state.name == "FAIL"
    assert trial.user_attrs["result"]["reason"] == reason
    assert run.info.status == "FAILED"
    assert run.data.tags["trial.reason"] == reason
    artifacts = MlflowClient(tracking_uri(output)).list_artifacts(run.info.run_id)
    assert [artifact.path for artifact in artifacts] == ["traceback.txt"]
    text = next(output.glob(f"artifacts/tiny/{run.info.run_id}/artifacts/traceback.txt")).read_text()
    assert type(error).__name__ in text and "in broken" in text
    assert isinstance(events[-1], TrialEnded) and events[-1].reason == reason


def test_a_batch_that_does_not_fit_is_taken_in_parts_and_the_trial_says_so(
    spec: StudySpec, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: torch.nn.Module, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        if len(kwargs["input_ids"]) > 5:
            raise torch.OutOfMemoryError("no more")

    def small(*args: Any, **kwargs: Any) -> Setup:
        setup = set_up(*args, **kwargs)
        setup.pretrained.model.register_forward_pre_hook(refuse, with_kwargs=True)
        return setup

    monkeypatch.setattr(trial_module, "set_up", small)
    trial, run, events = run_one(spec, output)
    assert trial.state.name == "COMPLETE"
    assert run.data.tags["trial.micro_batch_size"] == "4"  # of 16
    assert trial.user_attrs["result"]["micro_batch_size"] == 4
    assert isinstance(events[-1], TrialEnded) and events[-1].micro_batch_size == 4


def test_ctrl_c_ends_trial_and_run_and_is_passed_on(spec: StudySpec, output: Path) -> None:
    study, parent = start(spec, output)
    with pytest.raises(KeyboardInterrupt):
        run_trial(spec, Job(output, parent), interrupted_at(10))
    assert study.trials[0].state.name == "FAIL"
    assert study.trials[0].user_attrs["result"]["reason"] == "interrupted"
    run = only_child(output, parent)
    assert run.info.status == "FAILED"
    assert run.data.tags["trial.reason"] == "interrupted"


def interrupted_at(step: int) -> Callable[[Event], None]:
    def interrupt(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            raise KeyboardInterrupt

    return interrupt


def test_what_is_to_be_tried_again_comes_before_anything_new(raw_study: StudyMaker, output: Path) -> None:
    """Also before its driver, which is stopping, has queued it: or another one's would end the study without it."""
    spec = parse_study(raw_study(n_trials=1), "x")
    study, parent = start(spec, output)
    with pytest.raises(KeyboardInterrupt):
        run_trial(spec, Job(output, parent), interrupted_at(10))
    assert run_trial(spec, Job(output, parent))
    first, again = study.trials
    assert (again.state.name, again.user_attrs["retry_of"], again.params) == ("COMPLETE", 0, first.params)
    requeue(study)
    assert len(study.trials) == 2


def test_a_trial_that_was_taken_for_dead_is_stopped_as_any_other(spec: StudySpec, output: Path) -> None:
    study, parent = start(spec, output)

    def bury(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 10:
            end_dead_trials(study, study.trials)
        interrupted_at(10)(event)

    with pytest.raises(KeyboardInterrupt):
        run_trial(spec, Job(output, parent), bury)
    assert failure_reason(study.trials[0]) == "killed"
    assert only_child(output, parent).info.status == "FAILED"


def test_a_trial_that_goes_on_is_pruned_where_it_stands(
    spec: StudySpec, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have ended meanwhile: it would fall behind at its first evaluation already, but has come further."""

    def interrupt(event: Event) -> None:
        if isinstance(event, StepDone) and event.number == 1 and event.step == 16:  # evaluated at 8 and 15
            raise KeyboardInterrupt

    study, parent = start(spec, output)
    run_trial(spec, Job(output, parent))
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: False)
    with pytest.raises(KeyboardInterrupt):
        run_trial(spec, Job(output, parent), interrupt)
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: True)
    run_trial(spec, Job(output, parent))
    *_, trial = study.trials
    assert (trial.state.name, trial.user_attrs["result"]["step"]) == ("PRUNED", 2)
    assert sorted(trial.intermediate_values) == [1, 2]
    assert trial.value == trial.user_attrs["result"]["metrics"][spec.metric] == trial.intermediate_values[2]


def test_an_end_that_two_tell_is_in_mlflow_once(spec: StudySpec, output: Path) -> None:
    """The worker, and a driver that has just seen that the trial has ended and its run has not."""
    trial, run, _ = run_one(spec, output)
    end_run(tracker_of(output).trial_run(run.info.run_id), trial)
    tracker_of(output).flush()
    client = MlflowClient(tracking_uri(output))
    for name in COSTS:
        assert len(client.get_metric_history(run.info.run_id, name)) == 1, name


def test_a_trial_whose_curves_cannot_be_stored_is_not_told_as_complete(
    spec: StudySpec, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when it is known only after the last evaluation: it is not to blame, and is tried again."""
    log_batch = MlflowClient.log_batch

    def full(client: MlflowClient, run_id: str, metrics: Sequence[Any] = (), *rest: Any) -> None:
        if any(metric.key == "eval/accuracy" and metric.step == 4 for metric in metrics):
            raise OSError(errno.ENOSPC, "No space left on device")
        log_batch(client, run_id, metrics, *rest)

    monkeypatch.setattr(MlflowClient, "log_batch", full)
    study, parent = start(spec, output)
    with pytest.raises(OSError, match="No space left"):
        run_trial(spec, Job(output, parent))
    assert study.trials[0].state.name == "FAIL"
    assert failure_reason(study.trials[0]) == "disk_full"
    assert only_child(output, parent).info.status == "FAILED"


def test_a_users_mistake_stops_the_study(raw_study: StudyMaker, output: Path, tmp_path: Path) -> None:
    missing = raw_study()["data"] | {"train": str(tmp_path / "missing.csv")}
    spec = parse_study(raw_study(data=missing), "x")
    _, parent = start(spec, output)
    with pytest.raises(DataError, match=r"missing\.csv"):
        run_trial(spec, Job(output, parent))
    assert only_child(output, parent).info.status == "FAILED"


def test_flat_params_hold_every_setting_once(spec: StudySpec) -> None:
    from hpo.space import trial_config

    params = flat_params(trial_config(spec, {"learning_rate": 0.5}, seed=7))
    assert params["learning_rate"] == 0.5
    assert params["seed"] == 7
    assert params["model.name"] == spec.model.name
    assert set(type(spec.training).model_fields) <= set(params)


def test_a_job_can_be_sent_anywhere() -> None:
    import pickle

    job = Job(Path("out"), "run")
    assert pickle.loads(pickle.dumps(job)) == job
    assert dataclasses.asdict(job)["parent_run_id"] == "run"
