from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_page import section, table

from hpo.report.answers import NO_EVIDENCE, answer, verdict
from hpo.report.charts.finals import differences, finalists
from hpo.report.compare import by_trials, compare, on_test
from hpo.report.contents import contents
from hpo.report.html_page import page
from hpo.report.page import render
from hpo.report.tables import View, view_of
from hpo.results import Difference, Finals
from hpo.score_estimates import score_differences
from hpo.tasks.class_scores import class_scores
from synthetic import synthetic_finals, synthetic_loss_study, synthetic_study

BEST = 10  # of 30 synthetic trials


def view(finals: Finals | None, n: int = 30) -> View:
    return view_of(synthetic_study(n, finals=finals))


def changed(finals: Finals, **values: object) -> Finals:
    return finals.model_copy(update=values)


def of_one_seed(finals: Finals) -> Finals:
    """The same finalists, the test split read with one seed."""
    seeds = finals.test_seeds[:1]
    reading = finals.readings[0].model_copy(update={"seeds": seeds})
    finalists = [
        each.model_copy(update={"test_scores": each.test_scores[:1], "test_runs": each.test_runs[:1]})
        for each in finals.finalists
    ]
    return changed(finals, test_seeds=seeds, asked_test_seeds=1, readings=[reading], finalists=finalists)


def test_two_sentences_with_intervals_where_tuning_helped() -> None:
    told = answer(view(synthetic_finals(winner=BEST)))
    assert told.headline == [
        "The winner, trial 10, has test accuracy 0.823 (0.802 to 0.845), the untuned default 0.802 (0.780 to 0.825), "
        "each with a 95 % interval.",
        "Tuning helped: the difference of +0.021 (+0.007 to +0.035) is more than chance would give (p = 0.004).",
    ]
    beside = " ".join(told.beside)
    assert "Means over 5 fresh seeds and 1,066 test rows, by none of which anything was chosen." in beside
    assert "the best of 10 complete trials and therefore optimistic; trained again on 5 fresh seeds, 0.8296" in beside


def test_no_evidence_is_said_in_those_words() -> None:
    first, second = answer(view(synthetic_finals(winner=BEST, difference=0.006))).headline
    assert "trial 10" in first
    assert second == (
        "There is no evidence that tuning helped: the difference of +0.006 (−0.008 to +0.020) could as well be none "
        "(p = 0.34)."
    )
    itself = answer(view(synthetic_finals(winner=0)))
    assert "the best of 10 complete trials and therefore optimistic" in " ".join(itself.beside)
    assert itself.headline[0].startswith("The untuned default itself came out best: test accuracy 0.823")
    assert NO_EVIDENCE in itself.headline[1]


@pytest.mark.parametrize(
    ("metric", "low", "value", "high", "p", "said"),
    [
        ("accuracy", 0.01, 0.02, 0.03, 0.001, "Tuning helped"),
        ("accuracy", -0.01, 0.02, 0.05, 0.2, NO_EVIDENCE),
        ("accuracy", 0.001, 0.02, 0.03, 0.05, NO_EVIDENCE),  # the two methods may differ at the edge
        ("accuracy", -0.001, 0.02, 0.03, 0.04, NO_EVIDENCE),
        ("accuracy", -0.03, -0.02, -0.01, 0.001, "it did harm"),
        ("loss", -0.03, -0.02, -0.01, 0.001, "Tuning helped"),
        ("loss", 0.01, 0.02, 0.03, 0.001, "it did harm"),
        ("calibration_error", 0.01, 0.02, 0.03, 0.0001, "p < 0.001"),
    ],
)
def test_the_verdict(metric: str, low: float, value: float, high: float, p: float, said: str) -> None:
    found = Difference(value=value, low=low, high=high, p_value=p)
    assert said in verdict(metric, found, 5)
    assert "Tuning helped" not in verdict(metric, found, 1)


def test_one_seed_does_not_show_that_tuning_helped() -> None:
    seen = view(of_one_seed(synthetic_finals(winner=BEST)))
    told = answer(seen)
    assert told.headline == [
        "The winner, trial 10, has test accuracy 0.823 (0.802 to 0.845), the untuned default 0.802 (0.780 to 0.825), "
        "each with a 95 % interval over the examples.",
        "It is not shown that tuning helped: on this one seed the difference of +0.021 (+0.007 to +0.035) is more than "
        "the examples would give (p = 0.004), but another seed may turn it round.",
    ]
    beside = " ".join(told.beside)
    assert (
        "On 1 fresh seed and 1,066 test rows, by none of which anything was chosen. The intervals and the p-value"
        in beside
    )
    assert "trained again on 1 fresh seed, 0.8302." in beside and "average" not in beside
    said, turn = contents(seen, Path("mlruns/films")), "another seed may turn any of them round"
    chart, markdown = (
        differences(seen),
        " ".join(section(render(seen, Path("x"), set()), "Winner against default").split()),
    )
    assert chart and turn in chart.caption
    assert turn in markdown and turn in page(seen, said)
    many = view(synthetic_finals(winner=BEST))
    assert turn not in page(many, contents(many, Path("mlruns/films")))
    unread = view(changed(of_one_seed(synthetic_finals(winner=BEST)), readings=[]))
    assert answer(unread).headline[0].endswith("the untuned default 0.8105, on 1 fresh seed.")


def test_of_one_seed_the_p_value_alone_would_find_too_much() -> None:
    """Two configurations that are equally good on average over seeds, of which each moves accuracy by a point."""
    generator, found = np.random.default_rng(0), []
    labels = np.zeros(1_000, np.int64)
    for _ in range(200):
        easy = 0.9 + generator.normal(0, 0.75**0.5, 1_000)
        margins = [easy + generator.normal(0, 0.037) + generator.normal(0, 0.5, 1_000) for _ in range(2)]
        winner, default = (np.stack([each, 0 * each], axis=1)[None].astype(np.float32) for each in margins)
        found.append(score_differences(class_scores, winner, default, labels, ["right", "wrong"])["accuracy"])
    assert np.mean([each.p_value < 0.05 for each in found]) > 0.1
    assert not [each for each in found if "Tuning helped" in verdict("accuracy", each, 1)]


def test_nothing_is_a_maximum_where_the_least_is_the_best() -> None:
    seen = view_of(synthetic_loss_study(30, finals=synthetic_finals(winner=BEST)))
    assert seen.best == BEST
    told = answer(seen)
    assert told.headline[1].startswith("Tuning helped: the difference of −0.021")
    assert "validation loss 0.3772, the best of 10 complete trials and therefore optimistic" in " ".join(told.beside)
    said, chart, curve = contents(seen, Path("mlruns/films")), finalists(seen), by_trials([seen])
    assert chart and curve
    texts = [render(seen, Path("mlruns/films"), set()), page(seen, said).partition("<script")[0]]
    for text in (*texts, *told.beside, chart.caption, curve.caption):
        assert "maxim" not in text and "too high" not in text


def test_the_only_complete_trial_was_not_chosen_from_others() -> None:
    study = synthetic_study(2)
    study.set_user_attr("finals", synthetic_finals(winner=1).model_dump(mode="json"))
    alone = view_of(study)
    seen = replace(alone, table=alone.table.assign(state=["FAIL", "COMPLETE"]), best=1)
    assert "optimistic" not in " ".join(answer(seen).beside)


def scored(finals: Finals, **scores: str) -> Finals:
    """With scores of the reading that have the values of others."""
    reading = finals.readings[0]
    names = ("winner_scores", "default_scores", "differences")
    more = {of: getattr(reading, of) | {n: getattr(reading, of)[like] for n, like in scores.items()} for of in names}
    return changed(finals, readings=[reading.model_copy(update=more)])


@pytest.mark.parametrize(
    ("metric", "more", "said"),
    [
        ("f1", {"f1": "f1/positive"}, "test F1 0.826 ("),
        ("precision", {"precision": "precision_macro"}, "test precision 0.824 ("),
        ("recall", {"recall": "recall_macro"}, "test recall 0.823 ("),
        ("f1", {}, "test F1 of positive 0.826 ("),  # readings from before they were there
        ("f1_macro", {"f1": "f1/positive"}, "test macro F1 0.823 ("),
    ],
)
def test_the_answer_is_in_the_metric_of_the_study(metric: str, more: dict[str, str], said: str) -> None:
    study = synthetic_study(30, metric=f"eval/{metric}", finals=scored(synthetic_finals(winner=BEST), **more))
    seen = view_of(study)
    told = answer(seen)
    assert said in told.headline[0]
    assert "stands in" not in " ".join(told.beside)
    rows = [row[0].strip("*") for row in contents(seen, Path("mlruns/films")).scores.rows]
    assert rows.count("F1 of positive") == 1 and "F1" not in rows
    assert ("Precision of positive" in rows) == ("precision" in more)
    assert said.split(" 0.")[0] in " ".join(compare([seen]).headline)


def test_a_metric_that_stands_in_is_told() -> None:
    seen = view_of(synthetic_study(30, metric="eval/precision", finals=synthetic_finals(winner=BEST)))
    told, instead = answer(seen), "the reading has no precision, and accuracy stands in"
    assert "has test accuracy 0.823" in told.headline[0]
    assert f"This study chose by its validation precision; {instead}." in told.beside
    assert instead in " ".join(compare([seen]).headline)
    assert "what stands in for the study's own, accuracy, is" in contents(seen, Path("mlruns/films")).scores_note


def test_without_a_reading_validation_is_told_with_what_it_is() -> None:
    finals = changed(synthetic_finals(winner=BEST), readings=[])
    first, second = answer(view(finals)).headline
    assert first == (
        "The winner, trial 10, has validation accuracy 0.8296, the untuned default 0.8094, as means over 5 fresh seeds."
    )
    assert second == "The test split has not been read."
    refused = changed(synthetic_finals(winner=BEST), refused="it was read for trial 3.")
    assert answer(view(refused)).headline[1] == "The test split was not read for it: it was read for trial 3."
    assert "Readings of the test split" in render(view(refused), Path("mlruns/films"), set())


def test_a_default_that_could_not_be_trained_again_is_no_gap() -> None:
    """Its scores are not known: nothing is claimed against it, and nothing breaks."""
    finals = synthetic_finals(winner=BEST)
    alone = finals.readings[0].model_copy(update={"default": None, "default_scores": {}, "differences": {}})
    others = [each for each in finals.finalists if not each.is_default]
    assert finals.errors
    groups = [each.model_copy(update={"default": None}) for each in finals.errors.by_class]
    errors = finals.errors.model_copy(update={"by_class": groups, "by_length": groups, "disagreements": []})
    seen = view(changed(finals, readings=[alone, alone], finalists=others, errors=errors))
    assert answer(seen).headline == [
        "The winner, trial 10, has test accuracy 0.823 (0.802 to 0.845), with a 95 % interval.",
        "The untuned default could not be trained again, so nothing says whether tuning helped.",
    ]
    said, why = contents(seen, Path("mlruns/films")), "alone: the untuned default could not be trained again"
    assert said.errors and said.errors.by_class.header == ["Class", "Rows", "Winner"]
    for text in (page(seen, said), render(seen, Path("mlruns/films"), set())):
        assert why in " ".join(text.replace("\\", "").split()).replace("&#39;", "'")
        assert "when the finalists have been trained" not in text
    assert [row[1] for row in said.scores.rows][:1] == ["0.823 (0.802 to 0.845)"]
    assert "one in twenty" not in said.scores_note
    assert on_test([seen]) is not None
    assert "Test accuracy, winner" in [row[0] for row in compare([seen]).scores.rows]


def test_repeated_readings_and_fewer_seeds_are_said() -> None:
    finals = synthetic_finals(winner=BEST)
    note = "5 of the 9 seeds that were asked for: the time was over."  # the conclusion's, which is always there then
    beside = " ".join(answer(view(changed(finals, readings=finals.readings * 3, asked_seeds=9, notes=[note]))).beside)
    assert "has been read 3 times" in beside
    assert beside.count("asked for") == 1 and note in beside


def test_the_markdown_has_the_answer_the_table_and_the_errors() -> None:
    text = render(view(synthetic_finals(winner=BEST)), Path("mlruns/films"), set())
    assert "\n\n\n" not in text
    answered = section(text, "Answer")
    assert (
        "**The winner, trial 10, has test accuracy 0.823 (0.802 to 0.845)" in answered and "Tuning helped" in answered
    )
    scores, finalists = section(text, "Winner against default").split("The finalists on validation")
    rows = {row[0]: row[1:] for row in table(scores)[1:]}
    assert rows["**Accuracy**"] == [
        "0.823 (0.802 to 0.845)",
        "0.802 (0.780 to 0.825)",
        "+0.021 (+0.007 to +0.035)",
        "0.004",
    ]
    assert rows["Loss"][2] == "−0.021 (−0.035 to −0.007)"
    assert "F1 of positive" in rows and "Calibration error" in rows
    assert "bootstrap" in scores
    assert [row[0] for row in table(finalists)[1:]] == ["**10 (winner)**", "3", "9", "0 (default)"]
    errors = section(text, "Errors")
    assert "the winner alone is right about 71 rows, the default alone about 48 rows" in errors
    for told in ("| negative | 436.4 | 96.6 |", "### By class", "13 to 20 words", "you'll probably love it.", "Row |"):
        assert told in errors


@pytest.mark.parametrize(
    ("metric", "own"), [("accuracy", "Accuracy"), ("f1_macro", "Macro F1"), ("f1", "F1 of positive"), ("mcc", "MCC")]
)
def test_of_many_scores_the_one_to_go_by_stands_first_and_out(metric: str, own: str) -> None:
    seen = view_of(synthetic_study(30, metric=f"eval/{metric}", finals=synthetic_finals(winner=BEST, difference=0.006)))
    said, chart = contents(seen, Path("mlruns/films")), differences(seen)
    words = own if own in ("MCC", "F1 of positive") else own[0].lower() + own[1:]
    note = (
        f"Of 9 scores about one in twenty excludes zero by chance, where nothing differs: the study's own, {words}, is"
    )
    assert note in said.scores_note and note in render(seen, Path("mlruns/films"), set())
    assert said.scores.rows[0][0] == own and said.scores.strong == {0}
    assert chart and note in chart.caption
    assert chart.layout["yaxis"]["ticktext"][-1] == f"<b>{own}</b>"  # the last is on top
    assert not [text for text in chart.layout["yaxis"]["ticktext"][:-1] if "<b>" in text]
    assert {trace["name"] for trace in chart.data} == {"its interval includes zero"}
    certain = differences(view(synthetic_finals(winner=BEST)))
    assert certain and {trace["name"] for trace in certain.data} == {"its interval excludes zero"}


def test_a_loss_that_is_the_one_to_go_by_is_in_the_table_alone() -> None:
    seen = view_of(synthetic_loss_study(30, finals=synthetic_finals(winner=BEST)))
    said, chart = contents(seen, Path("mlruns/films")), differences(seen)
    assert said.scores.rows[0][0] == "Loss"
    assert chart and "the study's own, loss, is the one to go by" in chart.caption
    assert "Loss" not in "".join(chart.layout["yaxis"]["ticktext"])


def test_many_labels_are_told_by_their_largest_confusions() -> None:
    finals = synthetic_finals(winner=BEST)
    assert finals.errors
    labels = [f"label {at}" for at in range(40)]
    confusion = [[100.0 if row == at else 9.0 if (row, at) == (3, 4) else 0.0 for at in range(40)] for row in range(40)]
    many = finals.errors.model_copy(update={"labels": labels, "confusion": confusion})
    said = contents(view(changed(finals, errors=many)), Path("mlruns/films"))
    assert said.errors and said.errors.matrix is None
    assert list(said.errors.confused.rows) == [["label 3", "label 4", "9.0"]]
