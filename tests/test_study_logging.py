"""The description of a study's run in MLflow: the answer, and the winner beside the default."""

from pathlib import Path

from hpo.report.tables import view_of
from hpo.results import Finals
from hpo.study_logging import study_note
from synthetic import synthetic_finals, synthetic_study


def note(finals: Finals) -> list[str]:
    return study_note(view_of(synthetic_study(30, finals=finals)), Path("films/report.html")).splitlines()


def test_winner_default_and_their_difference_stand_side_by_side() -> None:
    lines = note(synthetic_finals(winner=10))
    assert lines[0].endswith("Model: nreimers/MiniLM-L6-H384-uncased.")
    assert "| on 1,066 test rows | winner, trial 10 | untuned default | difference |" in lines
    (accuracy,) = [line for line in lines if line.startswith("| accuracy ")]
    assert accuracy.startswith("| accuracy | 0.8234 (") and "| +0.0210 (" in accuracy and "p = 0.004" in accuracy
    assert any("Tuning helped" in line for line in lines)


def test_a_default_that_could_not_be_trained_again_leaves_its_column_empty() -> None:
    finals = synthetic_finals(winner=10)
    alone = finals.readings[0].model_copy(update={"default": None, "default_scores": {}, "differences": {}})
    others = [each for each in finals.finalists if not each.is_default]
    lines = note(finals.model_copy(update={"readings": [alone], "finalists": others}))
    (accuracy,) = [line for line in lines if line.startswith("| accuracy ")]
    assert accuracy.startswith("| accuracy | 0.8234 (") and accuracy.endswith(") |  |  |")
