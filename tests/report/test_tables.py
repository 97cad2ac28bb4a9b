import math
from pathlib import Path
from typing import Any, Literal

import optuna
import pandas as pd
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from hpo.report import best_trial, html_page, leaderboard, pruning_savings, trials_table
from hpo.report.contents import contents
from hpo.report.tables import METRICS, view_of, write_csv
from hpo.spec import METRICS as ALL_METRICS
from hpo.spec import StudySpec
from synthetic import add_finalists, synthetic_finals, synthetic_study

Direction = Literal["minimize", "maximize"]
SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
    "max_grad_norm": CategoricalDistribution([1.0, None]),
    "optimizer": CategoricalDistribution(["adamw", "sgd"]),
    "momentum": FloatDistribution(0.0, 0.99),
}
SPEC = StudySpec.model_validate(
    {
        "name": "films",
        "n_trials": 8,
        "data": {"train": "films.csv"},
        "model": {"name": "tiny"},
        "training": {"num_evaluations": 4},
        "search_space": {
            "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
            "max_grad_norm": {"choices": [1.0, None]},
            "optimizer": {"choices": ["adamw", "sgd"]},
            "momentum": {"low": 0.0, "high": 0.99, "when": {"optimizer": ["sgd"]}},
        },
    }
)


def new_study(direction: Direction = "maximize", spec: StudySpec | None = SPEC) -> optuna.Study:
    study = optuna.create_study(study_name="films", direction=direction)
    if spec is not None:
        study.set_user_attr("spec", spec.model_dump(mode="json"))
    return study


def add(
    study: optuna.Study,
    state: str,
    scores: list[float],
    *,
    params: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    retry_of: int | None = None,
) -> None:
    params = {"learning_rate": 1e-4} if params is None else params
    stored: dict[str, Any] = {"metrics": {}, "reason": None, "state": state}
    attributes: dict[str, Any] = {} if result is None else {"result": stored | result}
    if retry_of is not None:
        attributes["retry_of"] = retry_of
    study.add_trial(
        create_trial(
            state=TrialState[state],
            value=scores[-1] if state == "COMPLETE" else None,
            params=params,
            distributions={name: SPACE[name] for name in params},
            intermediate_values=dict(enumerate(scores, start=1)),
            user_attrs=attributes,
        )
    )


def budget(done: int, total: int, seconds: float) -> dict[str, Any]:
    return {"optimizer_steps": done, "total_steps": total, "seconds": seconds}


def test_every_metric_of_a_study_has_a_column() -> None:
    assert {f"eval/{name}" for name in METRICS} == set(ALL_METRICS)


def test_a_row_holds_score_metrics_and_cost() -> None:
    study = new_study()
    metrics = {"eval/loss": 0.5, "eval/accuracy": 0.8, "eval/f1_macro": 0.79, "eval/f1": 0.81, "eval/mcc": 0.6}
    result = budget(40, 40, 12.5) | {"metrics": metrics, "examples_per_second": 150.0, "peak_memory_mib": 700.0}
    add(study, "COMPLETE", [0.6, 0.9, 0.7, 0.8], result=result)
    row = trials_table(study).iloc[0]
    expected = {"number": 0, "state": "COMPLETE", "score": 0.8, "accuracy": 0.8, "f1_macro": 0.79, "f1": 0.81}
    expected |= {"mcc": 0.6, "loss": 0.5, "evaluations": 4, "num_evaluations": 4, "optimizer_steps": 40}
    expected |= {"total_steps": 40, "seconds": 12.5, "examples_per_second": 150.0, "peak_memory_mib": 700.0}
    assert {name: row[name] for name in expected} == expected
    assert pd.isna(row["reason"])
    assert math.isnan(row["recall_macro"])


def test_the_score_of_a_pruned_trial_is_its_last_evaluation_not_its_best() -> None:
    study = new_study()
    add(study, "PRUNED", [0.7, 0.6], result={"reason": "fell behind"})
    row = trials_table(study).iloc[0]
    assert (row["score"], row["accuracy"], row["evaluations"], row["reason"]) == (0.6, 0.6, 2, "fell behind")


def test_off_is_told_from_not_searched() -> None:
    study = new_study()
    add(study, "COMPLETE", [0.5], params={"learning_rate": 1e-4, "max_grad_norm": None, "optimizer": "adamw"})
    add(study, "COMPLETE", [0.6], params={"max_grad_norm": 1.0, "optimizer": "sgd", "momentum": 0.5})
    table = trials_table(study)
    assert [name for name in table.columns if name.startswith("params.")] == [f"params.{name}" for name in SPACE]
    assert table["params.max_grad_norm"].tolist() == ["none", 1.0]
    assert pd.isna(table["params.momentum"][0])
    assert table["params.momentum"][1] == 0.5
    assert pd.isna(table["params.learning_rate"][1])


def test_a_study_without_trials_has_the_columns_of_one_with_them() -> None:
    study = new_study()
    empty = trials_table(study)
    add(study, "COMPLETE", [0.5])
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == trials_table(study).dtypes.to_dict()


def test_waiting_trials_are_left_out_and_results_may_be_missing() -> None:
    study = new_study(spec=None)
    study.enqueue_trial({"learning_rate": 1e-4})
    add(study, "RUNNING", [0.4])
    add(study, "FAIL", [])
    table = trials_table(study)
    assert table["number"].tolist() == [1, 2]
    assert table["score"].tolist()[0] == 0.4
    assert table["num_evaluations"].isna().all()
    assert table["seconds"].isna().all()


def test_the_default_is_trial_0_and_what_repeats_it() -> None:
    study = new_study()
    add(study, "FAIL", [], result={"reason": "interrupted"})
    add(study, "FAIL", [0.4], result={"reason": "interrupted"}, retry_of=0)
    add(study, "COMPLETE", [0.6], retry_of=1)
    add(study, "FAIL", [], result={"reason": "crashed"})
    add(study, "COMPLETE", [0.5], retry_of=3)
    table = trials_table(study)
    assert table["is_default"].tolist() == [True, True, True, False, False]
    assert view_of(study).default == 2


def test_leaderboard_ranks_complete_then_pruned_by_how_far_they_came_then_failed() -> None:
    study = new_study()
    for state, scores in [
        ("FAIL", [0.9]),
        ("PRUNED", [0.8]),
        ("PRUNED", [0.1, 0.2]),
        ("COMPLETE", [0.7]),
        ("COMPLETE", [0.75]),
        ("PRUNED", [0.1, 0.3]),
        ("COMPLETE", [0.75]),
        ("RUNNING", [0.95]),
        ("PRUNED", []),
    ]:
        add(study, state, scores)
    table = trials_table(study)
    assert leaderboard(table, "eval/accuracy", "maximize")["number"].tolist() == [4, 6, 3, 5, 2, 1, 8, 0, 7]
    assert leaderboard(table, "score", "minimize", 4)["number"].tolist() == [3, 4, 6, 2]


def test_leaderboard_of_nothing_is_empty() -> None:
    assert leaderboard(trials_table(new_study()), "eval/accuracy", "maximize", 5).empty


@pytest.mark.parametrize(("direction", "expected"), [("maximize", 1), ("minimize", 0)])
def test_best_trial_goes_to_the_lower_number_of_equals(direction: Direction, expected: int) -> None:
    study = new_study(direction)
    for state, score in [("COMPLETE", 0.5), ("COMPLETE", 0.9), ("COMPLETE", 0.9), ("COMPLETE", 0.5)]:
        add(study, state, [score])
    add(study, "PRUNED", [0.99])
    add(study, "PRUNED", [0.01])
    best = best_trial(study)
    assert best is not None
    assert best.number == expected


def test_there_is_no_best_trial_while_none_is_complete() -> None:
    study = new_study()
    add(study, "PRUNED", [0.9])
    assert best_trial(study) is None


def test_savings_by_hand() -> None:
    """Pruned at 25 of 100 and 50 of 200 steps: 225 of 500 saved; 0.75 of 40 s twice; failures do not count."""
    study = new_study()
    add(study, "COMPLETE", [0.5], result=budget(100, 100, 30.0))
    add(study, "COMPLETE", [0.5], result=budget(100, 100, 50.0))
    add(study, "PRUNED", [0.5], result=budget(25, 100, 12.0))
    add(study, "PRUNED", [0.5], result=budget(50, 200, 12.0))
    add(study, "FAIL", [0.5], result=budget(10, 100, 3.0))
    add(study, "FAIL", [])
    savings = pruning_savings(trials_table(study))
    assert (savings.steps_done, savings.steps_planned, savings.steps_saved) == (275, 500, 225)
    assert savings.share_saved == 0.45
    assert savings.seconds_saved == pytest.approx(60.0)


def test_savings_before_any_trial_is_complete() -> None:
    study = new_study()
    assert pruning_savings(trials_table(study)).share_saved == 0.0
    add(study, "PRUNED", [], result=budget(0, 100, 1.0))
    savings = pruning_savings(trials_table(study))
    assert (savings.share_saved, savings.seconds_saved) == (1.0, None)


def test_the_csv_keeps_every_digit(tmp_path: Path) -> None:
    study = new_study()
    add(study, "COMPLETE", [1 / 3], params={"learning_rate": 2.345678901e-05, "max_grad_norm": None})
    write_csv(trials_table(study), tmp_path / "trials.csv")
    read = pd.read_csv(tmp_path / "trials.csv", keep_default_na=False)
    assert float(read["score"][0]) == 1 / 3
    assert float(read["params.learning_rate"][0]) == 2.345678901e-05
    assert (read["params.max_grad_norm"][0], read["params.momentum"][0]) == ("none", "")
    assert [path.name for path in tmp_path.iterdir()] == ["trials.csv"]


def test_a_view_stays_as_it_was_read_while_the_study_goes_on(tmp_path: Path) -> None:
    """All that a report says: or it would tell of a trial that runs, and that all have ended."""
    study = synthetic_study(20, storage=f"sqlite:///{tmp_path / 'optuna.db'}", n_trials=21)
    running = study.ask()
    folder, seen = tmp_path / "films", view_of(study)
    expected = contents(view_of(study), folder)
    assert "1 running" in expected.states and "1 of 21 still to end" in expected.states
    study.tell(running, 0.99)
    study.set_user_attr("finals", synthetic_finals().model_dump(mode="json"))
    study.set_user_attr("machine", {"device": "cpu", "precision": "fp32", "versions": {}})
    add_finalists(study, "COMPLETE", "FAIL")
    told = contents(seen, folder)
    assert told == expected
    assert html_page.page(seen, told) == html_page.page(seen, expected)
    assert "All 21 wanted have ended" in contents(view_of(study), folder).states
    optuna.delete_study(study_name="films", storage=study._storage)  # as when it is set aside
    assert contents(seen, folder) == expected


def test_another_tools_study_may_have_a_spec_of_its_own() -> None:
    study = optuna.create_study()
    study.set_user_attr("spec", "v1")
    assert view_of(study).spec is None
