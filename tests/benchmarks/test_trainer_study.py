"""The peer's search is ours: the same space, the same points, the same rows; and what is read of both afterwards."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import optuna
import pytest
from transformers import PreTrainedTokenizerFast

from benchmarks import peer
from benchmarks.study import STUDY, Searched, Tracked, searched, tracked
from benchmarks.trainer_study import SamplerByPosition, hp_space, pruner, suggest_dropout
from benchmarks.trainer_study import searched as searched_by_trainer
from hpo import space
from hpo.data.splits import Split
from hpo.data.tokens import tokenize_split
from hpo.search import build_pruner
from hpo.search_spec import MedianPruner
from hpo.spec import StudySpec
from hpo.study_file import read_study
from searching import in_memory, points, run


@pytest.fixture(scope="module")
def spec() -> StudySpec:
    return read_study(STUDY)


def search_like_the_trainer(spec: StudySpec, n_trials: int) -> optuna.Study:
    study = in_memory(spec)
    study.sampler = SamplerByPosition(spec)

    def objective(trial: optuna.Trial) -> float:
        drawn = {"dropout": suggest_dropout(trial), **hp_space(trial)}  # the model is built first
        clip = drawn["max_grad_norm"]
        return float(drawn["learning_rate"] - drawn["weight_decay"] + drawn["dropout"] - clip * drawn["warmup_steps"])

    study.optimize(objective, n_trials=n_trials)
    return study


def test_both_draw_from_one_space_and_the_same_points(spec: StudySpec) -> None:
    """Past the sampler's startup too, where it learns from the scores."""
    n_trials = 13
    ours, theirs = in_memory(spec), search_like_the_trainer(spec, n_trials)
    run(ours, spec, n_trials)
    declared = {name: space.distribution(name, parameter) for name, parameter in spec.search_space.items()}
    for trial in theirs.trials:
        assert trial.distributions == declared
    assert points(theirs) == points(ours)
    assert [trial.value for trial in theirs.trials] == [trial.value for trial in ours.trials]


@pytest.mark.parametrize(("evaluations", "steps"), [(0, 1), (1, 14)])
def test_the_pruner_waits_for_as_much_training(spec: StudySpec, evaluations: int, steps: int) -> None:
    """1,000 rows, 2 epochs of 32 in 5 shares: 64 steps, 13 a share, at whose end ours judges the first time."""
    waiting = spec.model_copy(update={"pruner": MedianPruner(n_warmup_steps=evaluations)})
    theirs, ours = pruner(waiting, num_rows=1000), build_pruner(waiting)
    assert isinstance(theirs, optuna.pruners.MedianPruner) and isinstance(ours, optuna.pruners.PercentilePruner)
    assert theirs._n_startup_trials == ours._n_startup_trials == 5
    assert theirs._n_warmup_steps == steps


def test_the_rows_are_ours_token_by_token(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    texts = ["the film was good", "a very bad plot of the story", "good " * 20]
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"text": texts, "label": [1, 0, 1]}), encoding="utf-8")
    rows = peer.read_rows(path, tokenizer, max_length=12)
    split = Split(inputs=tuple(texts), labels=np.array([1, 0, 1]))
    tokens = tokenize_split(split, tokenizer, 12, fingerprint="", name="train", cache_dir=None)
    assert np.concatenate(rows["input_ids"][:]).tolist() == tokens.input_ids.tolist()
    assert rows["length"][:] == tokens.lengths.tolist()
    assert rows["label"][:] == tokens.labels.tolist()


def test_work_is_counted_alike_on_both_sides() -> None:
    study = optuna.create_study(direction="maximize")
    for size, steps, state in ((32, 10, "COMPLETE"), (16, 4, "PRUNED")):
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState[state],
            value=0.8,
            params={"train_batch_size": size},
            distributions={"train_batch_size": optuna.distributions.CategoricalDistribution([16, 32])},
            intermediate_values={steps // 2: 0.7, steps: 0.8},
        )
        study.add_trial(trial)
    table = [
        {"state": "COMPLETE", "score": "0.8", "optimizer_steps": "10", "params.train_batch_size": "32"},
        {"state": "PRUNED", "score": "0.9", "optimizer_steps": "4", "params.train_batch_size": "16"},
    ]
    expected = Searched(states={"COMPLETE": 1, "PRUNED": 1}, examples=384, best=0.8)
    assert searched(table) == searched_by_trainer(study) == expected


@pytest.mark.parametrize(
    ("nested", "expected"),
    [
        (True, Tracked(runs={"FINISHED": 1, "KILLED": 1}, with_params=1)),
        (False, Tracked(runs={"FINISHED": 2, "KILLED": 1}, with_params=1)),
    ],
)
def test_the_runs_of_trials_are_told_from_the_study_s(tmp_path: Path, nested: bool, expected: Tracked) -> None:
    database = tmp_path / "mlflow.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE runs (run_uuid, status)")
        connection.execute("CREATE TABLE tags (run_uuid, key)")
        connection.execute("CREATE TABLE params (run_uuid, key)")
        runs = [("study", "FINISHED"), ("one", "FINISHED"), ("two", "KILLED")]
        connection.executemany("INSERT INTO runs VALUES (?, ?)", runs)
        connection.execute("INSERT INTO params VALUES ('one', 'learning_rate')")
        if nested:
            connection.executemany("INSERT INTO tags VALUES (?, 'mlflow.parentRunId')", [("one",), ("two",)])
    connection.close()
    assert tracked(database) == expected
