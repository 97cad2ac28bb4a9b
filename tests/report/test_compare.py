import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hpo.report.__main__ import main
from hpo.report.compare import by_time, by_trials, compare, on_test, write_comparison
from hpo.report.tables import view_of
from hpo.results import Estimate
from synthetic import synthetic_finals, synthetic_loss_study, synthetic_study


def finished(name: str, difference: float = 0.021) -> optuna.Study:
    return synthetic_study(20, name=name, finals=synthetic_finals(winner=3, difference=difference))


def test_studies_on_the_same_data_are_compared_on_test() -> None:
    said = compare([view_of(finished("one")), view_of(finished("two", 0.006))])
    assert said.warnings == []
    assert said.headline == [
        "one has the highest test accuracy of its winner, 0.823 (0.802 to 0.845) with a 95 % interval.",
        "Its interval overlaps with that of two: that may be chance.",
    ]
    rows = {row[0]: row[1:] for row in said.scores.rows}
    assert rows["Difference"] == ["+0.021 (+0.007 to +0.035)", "+0.006 (−0.008 to +0.020)"]
    assert rows["Trials"] == ["20", "20"]
    assert [row[0] for row in said.configurations.rows][:2] == ["learning_rate", "train_batch_size"]


def test_an_interval_of_one_seed_is_told_as_such() -> None:
    study = finished("one")
    finals = study.user_attrs["finals"]
    reading = finals["readings"][0] | {"seeds": [11]}
    study.set_user_attr("finals", finals | {"seeds": [11], "readings": [reading]})
    views = [view_of(study), view_of(finished("two"))]
    said, chart = compare(views), on_test(views)
    assert said.headline[-1] == "Of one the interval is over the examples of one seed: another may turn it round."
    assert next(row[1:] for row in said.scores.rows if row[0] == "Fresh seeds") == ["1", "5"]
    assert chart and chart.caption.endswith("of one the examples of one seed only.")


def test_studies_of_which_not_all_have_read_the_test_split_are_compared_with_the_caveat() -> None:
    first, second = compare([view_of(finished("one")), view_of(synthetic_study(60, name="two"))]).headline
    assert first.startswith("The best trial of all is one of two: validation accuracy 0.83")
    assert "the more optimistic the more trials" in second and "Not all have read the test split" in second


def test_of_losses_the_lowest_is_the_best() -> None:
    worse = synthetic_finals(winner=3)
    reading = worse.readings[0]
    high = {"loss": Estimate(value=0.52, low=0.5, high=0.54)}
    worse = worse.model_copy(update={"readings": [reading.model_copy(update={"winner_scores": high})]})
    studies = [
        synthetic_loss_study(20, finals=worse, name="one"),
        synthetic_loss_study(20, finals=synthetic_finals(winner=3), name="two"),
    ]
    assert compare([view_of(each) for each in studies]).headline == [
        "two has the lowest test loss of its winner, 0.412 (0.391 to 0.434) with a 95 % interval.",
        "Its interval overlaps with no other.",
    ]


def test_readings_of_other_scores_are_not_said_to_be_missing() -> None:
    """Where accuracy stands in for the recall that one of them lacks."""
    old, new = (
        synthetic_study(20, name=name, metric="eval/recall", finals=synthetic_finals(winner=3)) for name in "ab"
    )
    finals = new.user_attrs["finals"]
    reading = finals["readings"][0]
    reading["winner_scores"]["recall"] = reading["winner_scores"]["recall_macro"]
    new.set_user_attr("finals", finals)
    said = " ".join(compare([view_of(old), view_of(new)]).headline)
    assert "Their readings of the test split have not the same scores." in said and "Not all" not in said


def test_a_default_that_failed_has_no_score() -> None:
    study = synthetic_study(20, name="one")
    failed = study.get_trials()[0]
    failed.state, failed.value = TrialState.FAIL, None
    failed.user_attrs["result"] |= {"state": "FAIL", "reason": "out_of_memory"}
    other = optuna.create_study(study_name="one", direction="maximize")
    for name, value in study.user_attrs.items():
        other.set_user_attr(name, value)
    other.add_trials([failed, *study.get_trials()[1:]])
    rows = {row[0]: row[1:] for row in compare([view_of(other), view_of(study)]).scores.rows}
    assert rows["Default's validation accuracy"] == ["failed: out of memory", "0.8158"]


def test_other_data_or_metrics_are_not_compared() -> None:
    other = finished("two")
    other.set_user_attr("data", other.user_attrs["data"] | {"fingerprint": "0" * 64})
    said = compare([view_of(finished("one")), view_of(other)])
    assert "cannot be compared" in said.headline[0] and "data or splits differ" in said.warnings[0]
    loss = synthetic_study(20, name="two", metric="eval/f1_macro")
    assert (
        "different scores: validation accuracy, validation macro F1"
        in compare([view_of(finished("one")), view_of(loss)]).warnings[0]
    )


def test_other_directions_are_not_compared() -> None:
    up, down = (optuna.create_study(study_name=name, direction=name) for name in ("maximize", "minimize"))
    warnings = compare([view_of(up), view_of(down)]).warnings
    assert warnings[0] == "Of one the highest score is the best, of another the lowest."
    assert compare([view_of(up), view_of(up)]).warnings == ["Whether they have the same data is not known."]


def test_curves_only_get_better() -> None:
    views = [view_of(finished("one")), view_of(synthetic_study(60, name="two"))]
    for chart in (by_trials(views), by_time(views)):
        assert chart is not None and chart.json()
        for trace in chart.data:
            assert trace["y"] == sorted(trace["y"]) and trace["x"] == sorted(trace["x"])
    assert by_trials([view_of(synthetic_study(0))]) is None


def test_nothing_yet_and_no_spec_are_compared_too(tmp_path: Path) -> None:
    files = write_comparison([synthetic_study(0), optuna.create_study(study_name="<b>theirs</b>")], tmp_path)
    text = files.page.read_text(encoding="utf-8")
    assert "&lt;b&gt;theirs&lt;/b&gt;" in text and "<b>theirs" not in text
    assert 'href="%3Cb%3Etheirs%3C%2Fb%3E/report.html"' in text
    assert "\\<b>theirs" in files.markdown.read_text(encoding="utf-8")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        synthetic_study(6, name=name, storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    assert main(["--compare", "one", "two", "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert str(tmp_path / "comparison.html") in told and (tmp_path / "comparison.html").is_file()
    assert main(["--compare", "one", "none", "--output", str(tmp_path)]) == 2
    assert "There are: one, two" in capsys.readouterr().err
    assert main(["--study", "one", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "one" / "report.html").is_file()


def test_plotly_is_not_loaded_before_a_figure_is_written() -> None:
    code = "import sys, hpo.report.__main__; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
