import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from hpo.errors import StorageError
from hpo.report import ReportFiles, html_page, write_report
from hpo.report.contents import contents
from hpo.report.figures import FIGURES
from hpo.report.page import MOST_TRIALS, render
from hpo.report.tables import view_of
from hpo.spec import StudySpec

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
    "max_grad_norm": CategoricalDistribution([1.0, None]),
    "model.name": CategoricalDistribution(["tiny", "a|b<i>c"]),
}
SETTINGS: dict[str, Any] = {
    "name": "films",
    "description": "Does <b>it</b> work?",
    "n_trials": 6,
    "data": {"train": {"source": "films.csv", "where": {"year": 2001}}},
    "model": {"name": "tiny"},
    "training": {"num_evaluations": 4},
    "search_space": {
        "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "max_grad_norm": {"choices": [1.0, None]},
        "model.name": {"choices": ["tiny", "a|b<i>c"]},
    },
}
FACTS: dict[str, Any] = {
    "data": {
        "rows": {"train": 1000, "validation": 400, "test": 300},
        "labels": ["bad", "good"],
        "fingerprint": "f" * 64,
        "notes": ["7 duplicates were removed."],
    },
    "model": {"name": "tiny", "num_parameters": 1234567, "new_weights": ["head"], "fingerprint": "e" * 64},
    "machine": {"device": "cpu", "precision": "fp32", "versions": {"torch": "2.13.0"}},
}
IMAGES = re.compile(r"!\[[^\]]+\]\((figures/\w+\.png)\)")


def new_study(
    direction: Literal["minimize", "maximize"] = "maximize", storage: str | None = None, **changes: Any
) -> optuna.Study:
    spec = StudySpec.model_validate(SETTINGS | changes)
    study = optuna.create_study(study_name=spec.name, storage=storage, direction=direction)
    study.set_user_attr("spec", spec.model_dump(mode="json"))
    return study


def add(
    study: optuna.Study,
    state: str,
    score: float | None,
    made: int = 4,
    reason: str | None = None,
    params: dict[str, Any] | None = None,
    retry_of: int | None = None,
) -> None:
    params = {"learning_rate": 2.34567e-05, "max_grad_norm": None} if params is None else params
    metrics = {"eval/accuracy": score, "eval/f1_macro": score and score - 0.01}
    costs = {"seconds": 40.0 * made, "optimizer_steps": 10 * made, "total_steps": 40, "reason": reason, "state": state}
    attributes: dict[str, Any] = {"result": {"metrics": metrics if score else {}} | costs}
    if retry_of is not None:
        attributes["retry_of"] = retry_of
    study.add_trial(
        create_trial(
            state=TrialState[state],
            value=score if state == "COMPLETE" else None,
            params=params,
            distributions={name: SPACE[name] for name in params},
            intermediate_values={made: score} if score else {},
            user_attrs=attributes,
        )
    )


def finished_study(storage: str | None = None, **changes: Any) -> optuna.Study:
    study = new_study(storage=storage, **changes)
    for name, facts in FACTS.items():
        study.set_user_attr(name, facts)
    add(study, "COMPLETE", 0.8)
    add(study, "COMPLETE", 0.9, params={"learning_rate": 0.0001, "model.name": "a|b<i>c"})
    add(study, "COMPLETE", 0.85)
    add(study, "PRUNED", 0.6, made=1, reason="fell behind")
    add(study, "PRUNED", None, made=0, reason="diverged")
    add(study, "FAIL", 0.7, made=2, reason="out_of_memory")
    return study


def section(page: str, title: str) -> str:
    """What stands under a heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section `{title}`"
    return found[1]


def table(text: str) -> list[list[str]]:
    """The cells of the Markdown table in a section, the rule below the header left out."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert len({len(row) for row in cells}) == 1, "a table's rows must be of equal length"
    assert all(re.fullmatch(r"---:?", cell) for cell in cells[1])
    return [cells[0], *cells[2:]]


def page_of(study: optuna.Study, folder: Path = Path("mlruns/films")) -> str:
    """The page without its figures, checked to have no values shown as Python has them."""
    page = render(view_of(study), folder, set())
    assert not re.search(r"\b(None|nan|NaN|<NA>)\b", page)
    assert "\n\n\n" not in page
    return page


def linked(files: ReportFiles) -> set[Path]:
    """The figures that a written page shows, checked to be those that are there."""
    images = IMAGES.findall(files.markdown.read_text(encoding="utf-8"))
    shown = {files.markdown.parent / image for image in images}
    assert shown == set(files.figures) == set((files.markdown.parent / "figures").iterdir())
    return shown


def test_the_answer_says_best_default_error_and_caveat() -> None:
    answer = section(page_of(finished_study()), "Answer")
    # With 2 right and 2 wrong added: 362/404 = 0.89604, sqrt(0.89604 * 0.10396 / 404) = 0.01518; 322/404: 0.02001
    assert "trial 1: validation accuracy 0.9000 ± 0.0152" in answer
    assert "0.8000 ± 0.0200" in answer
    assert "0.1000 higher" in answer
    # Blom: the largest of 3 normal draws, at (3 - 0.375) / (3 + 0.25) = 0.8077, is 0.869 standard errors up.
    assert "would still look up to about 0.0132 better than it is" in answer
    assert "400 validation rows" in answer
    assert "test split has not been read" in answer
    assert "3 complete, 2 pruned (1 fell behind, 1 diverged), 1 failed" in answer
    assert "Time in trials: 10 min 0 s" in answer


def test_the_table_lists_every_trial_best_first() -> None:
    page = page_of(finished_study())
    header, *rows = table(section(page, "Trials"))
    assert header == [
        *("Trial", "State", "Accuracy", "Macro F1"),
        *("learning_rate", "max_grad_norm", "model.name", "Time"),
    ]
    assert [re.search(r"\d+", row[0])[0] for row in rows] == ["1", "2", "0", "3", "4", "5"]  # type: ignore[index]
    assert [row[1] for row in rows] == [
        *("complete", "complete", "complete"),
        *("pruned at 1 of 4", "diverged at 0 of 4", "failed: out of memory"),
    ]
    assert rows[0][2:] == ["0.9000", "0.8900", "0.0001", "", r"a\|b\<i>c", "2 min 40 s"]
    assert rows[2][2:] == ["0.8000", "0.7900", "2.35e-05", "none", "", "2 min 40 s"]
    assert rows[4][2:4] == ["", ""]


def test_a_table_that_nobody_would_read_shows_the_best_and_the_default() -> None:
    study = new_study()
    for number in range(MOST_TRIALS + 50):
        add(study, "COMPLETE", 0.5 + number / 1000)
    text = section(page_of(study), "Trials")
    rows = table(text)[1:]
    assert len(rows) == MOST_TRIALS + 1
    assert rows[0][0] == f"**{MOST_TRIALS + 49} (best)**"
    assert rows[-1][0] == "0 (default)"
    assert f"the first {MOST_TRIALS}, and the default; the file has all 250." in text


def test_savings_and_failures() -> None:
    page = page_of(finished_study())
    # Steps: 3 * 40 + 10 + 0 of 5 * 40. Time: 0.75 and 1 of a complete trial's 160 s.
    savings = " ".join(section(page, "Cost").split())
    for told in ("2 trials", "130 of 200", "70 (35%)", "4 min 40 s"):
        assert told in savings
    assert table(section(page, "How the search went"))[1:] == [["5", "out of memory", "20 of 40", ""]]


def test_a_failure_names_the_trial_that_repeats_it() -> None:
    study = new_study()
    add(study, "FAIL", None, made=0, reason="interrupted")
    add(study, "COMPLETE", 0.8, retry_of=0)
    page = page_of(study)
    assert table(section(page, "How the search went"))[1:] == [["0", "interrupted", "0 of 40", "trial 1"]]
    assert "untuned default is itself the best" in section(page, "Answer")


def test_attempts_that_were_tried_again_are_told_as_the_answer_does() -> None:
    study = new_study()
    for number in (0, 2):
        add(study, "FAIL", None, made=0, reason="interrupted")
        add(study, "COMPLETE", 0.8, retry_of=number)
    add(study, "FAIL", None, made=0, reason="out_of_memory")
    view = view_of(study)
    assert "2 complete, 1 failed, 2 tried again" in section(page_of(study), "Answer")
    said = contents(view, Path("mlruns/films"))
    assert said.failed == "3 attempts failed, 2 of them tried again"
    for text in (page_of(study), html_page.page(view, said)):
        assert said.failed in text
    assert contents(view_of(finished_study()), Path("mlruns/films")).failed == "1 trial failed"


@pytest.mark.parametrize(
    ("finalists", "errors", "scores"),
    [
        ({"n_trials": 2}, "They are looked at when the finalists have been trained.", "No finalists have been trained"),
        (None, "They are looked at for finalists, and this study trains none.", "This study trains no finalists"),
    ],
)
def test_why_there_are_no_errors_and_no_scores(finalists: Any, errors: str, scores: str) -> None:
    study = finished_study(finalists=finalists)
    text = page_of(study)
    assert errors in section(text, "Errors") and scores in section(text, "Winner against default")
    view = view_of(study)
    web = html_page.page(view, contents(view, Path("mlruns/films")))
    assert errors in web and scores in web


def test_data_model_and_machine() -> None:
    page = page_of(finished_study())
    setting = section(page, "Data")
    for told in ("films.csv (year = 2001)", "train 1,000", "validation 400", "test 300", "bad, good", "7 duplicates"):
        assert told in setting
    for told in ("new weights: head", "1,234,567", "cpu, fp32"):
        assert told in setting
    assert "torch 2.13.0" in section(page, "How to go on, and to reproduce")
    assert r"Does \<b>it\</b> work?" in page


@pytest.mark.parametrize("stored", [True, False])
def test_a_study_in_which_nothing_has_happened(tmp_path: Path, stored: bool) -> None:
    study = new_study() if stored else optuna.create_study(direction="maximize")
    study.enqueue_trial({"learning_rate": 1e-4})
    files = write_report(study, tmp_path / "films")
    page = page_of(study)
    assert linked(files) == set()
    assert "No trial is complete yet" in section(page, "Answer")
    assert "No trial has started yet" in section(page, "Trials")
    assert files.table.read_text().count("\n") == 1


def test_a_running_study_is_reported_as_such() -> None:
    study = new_study()
    add(study, "RUNNING", 0.6, made=2)
    page = page_of(study)
    assert "1 running" in section(page, "Answer")
    assert table(section(page, "Trials"))[1][1] == "running, 2 of 4"
    add(study, "COMPLETE", 0.7)
    answer = section(page_of(study), "Answer")
    assert "so far is trial 1" in answer
    assert "default (trial 0) is not complete" in answer
    assert "5 of 6 still to end" in answer


def test_a_loss_is_lower_not_higher_and_has_no_binomial_error() -> None:
    study = new_study("minimize", metric="eval/loss")
    study.set_user_attr("data", FACTS["data"])
    add(study, "COMPLETE", 0.5)
    add(study, "COMPLETE", 0.4)
    page = page_of(study)
    answer = section(page, "Answer")
    assert "trial 1: validation loss 0.4000" in answer
    assert "0.1000 lower" in answer
    assert "±" not in answer
    assert table(section(page, "Trials"))[0][2:5] == ["Loss", "Accuracy", "Macro F1"]


def test_a_perfect_score_is_not_a_certain_one() -> None:
    study = new_study()
    study.set_user_attr("data", FACTS["data"] | {"rows": {"validation": 20}})
    add(study, "COMPLETE", 1.0)
    # 22/24 = 0.9167, sqrt(0.9167 * 0.0833 / 24) = 0.0564
    assert "1.0000 ± 0.0564" in section(page_of(study), "Answer")


def test_an_interrupted_trial_is_no_failure() -> None:
    study = finished_study()
    add(study, "FAIL", 0.7, made=2, reason="interrupted")
    assert "1 failed, 1 tried again" in section(page_of(study), "Answer")


def test_a_fallback_says_so_right_under_the_title(tmp_path: Path) -> None:
    study = finished_study(name="films-fallback", fallback_for="films")
    page = page_of(study, tmp_path / "films-fallback")
    title, notice = page.split("\n\n")[:2]
    assert title == "# films-fallback"
    assert notice.startswith("**")
    assert notice.endswith("**")
    for told in ("`films`", "the Hub", "`tiny`", "films.csv"):
        assert told in notice
    assert "python -m hpo.run --study films --fallback always --output" in page


def test_the_commands_name_this_study_and_its_folder() -> None:
    study = finished_study()
    usual = section(page_of(study), "How to go on, and to reproduce")
    commands = [line for line in usual.splitlines() if line.startswith("python")]
    assert commands == [
        "python -m hpo.run --study films",
        "python -m hpo.train --config mlruns/films/best.yaml",
        "python -m hpo.ui",
    ]
    other = page_of(study, Path("my runs/films"))
    assert "python -m hpo.run --study films --output 'my runs'" in other
    assert "--config 'my runs/films/best.yaml'" in other


def test_the_study_goes_on_as_it_was_called() -> None:
    """By path, and with what was set: the study's name alone would find nothing, or refuse what has changed."""
    study = finished_study()
    study.set_user_attr("call", ["--study", "my studies/films.yaml", "--set", "training.dropout=0.2", "--trials", "9"])
    told = "python -m hpo.run --study 'my studies/films.yaml' --set training.dropout=0.2 --trials 9"
    assert f"{told}\n" in page_of(study)
    study.set_user_attr("spec", study.user_attrs["spec"] | {"fallback_for": "other"})
    assert f"{told} --fallback always\n" in page_of(study)


def test_a_report_replaces_the_last_one_and_leaves_other_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    before = write_report(finished_study(f"sqlite:///{tmp_path / 'optuna.db'}"), folder)
    (folder / "best.yaml").write_text("kept")
    assert {path.stem for path in linked(before)} == set(FIGURES)
    empty = optuna.create_study(study_name="films", direction="maximize")
    after = write_report(empty, folder)
    assert linked(after) == set()
    assert sorted(path.name for path in folder.iterdir()) == [
        *("best.yaml", "figures", "report.html", "report.md", "trials.csv"),
    ]


def test_half_a_surrogate_pair_in_a_parameter_does_not_stop_a_report(tmp_path: Path) -> None:
    """JSON can hold it, UTF-8 cannot: a study of another tool may have one."""
    study, kind = (
        optuna.create_study(study_name="theirs", direction="maximize"),
        CategoricalDistribution(["a\ud800", "b"]),
    )
    for number in range(6):
        choice = kind.choices[number % 2]
        study.add_trial(create_trial(value=number / 6, params={"p": choice}, distributions={"p": kind}))
    files = write_report(study, tmp_path / "theirs")
    assert "a\\ud800" in files.table.read_text(encoding="utf-8")
    assert "parameters" in {path.stem for path in files.figures}
    for page in (files.page, files.markdown):
        assert page.read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "films").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="--output"):
        write_report(new_study(), tmp_path / "films")


def test_a_report_needs_neither_torch_nor_transformers_nor_mlflow() -> None:
    code = "import json, sys, hpo.report; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert not {"torch", "transformers", "mlflow", "matplotlib.pyplot"} & set(modules)
