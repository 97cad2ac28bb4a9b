from datetime import timedelta
from pathlib import Path

import optuna

from hpo.report import formats, html_page
from hpo.report.account import cost
from hpo.report.contents import contents
from hpo.report.page import render
from hpo.report.tables import view_of
from hpo.report.worktime import span
from synthetic import START, add_finalists, synthetic_study

FOLDER = Path("mlruns/films")


def page_of(study: optuna.Study) -> str:
    return render(view_of(study), FOLDER, set())


def without_failures(n: int) -> optuna.Study:
    study = synthetic_study(n)
    assert not (view_of(study).table["state"] == "FAIL").any()
    return study


def test_cpu_and_gpu_time_of_the_search_and_of_the_finalists() -> None:
    study = synthetic_study(30)
    took = float(view_of(study).table["seconds"].sum())
    told = dict(cost(view_of(study)))
    assert told["CPU time"] == f"{formats.duration(1.25 * took)} ({1.25 * took:,.0f} s) in the search"
    assert told["GPU time"] == f"{formats.duration(took)} ({took:,.0f} s) in the search"
    add_finalists(study, "COMPLETE", "COMPLETE", "FAIL")
    view = view_of(study)
    told = dict(cost(view))
    assert told["CPU time"].endswith(" in the search, 6 min 0 s (360 s) in the finalists")
    assert told["GPU time"].endswith(" in the search")  # these took none
    assert told["Time in the finalists"] == "3 min 0 s in 3 trainings"
    assert told["Peak memory of a trial"] == "5,000 MiB"
    for text in (page_of(study), html_page.page(view, contents(view, FOLDER))):
        assert "CPU time" in text and "360 s" in text and "GPU time" in text


def test_nothing_is_told_of_a_device_that_was_not_used() -> None:
    study = optuna.create_study(study_name="films")
    study.set_user_attr("spec", synthetic_study(1).user_attrs["spec"])
    add_finalists(study, "COMPLETE")
    told = dict(cost(view_of(study)))
    assert told["CPU time"] == "2 min 0 s (120 s) in the finalists"
    assert "GPU time" not in told and "Lost to failures" not in told


def test_the_span_says_what_it_covers() -> None:
    study = synthetic_study(30)
    before = dict(cost(view_of(study)))
    of_search = span(view_of(study))
    assert before["Search, from its first start to its last end"] == formats.duration(of_search)
    assert not any("finalists" in name for name in before)
    add_finalists(study, "COMPLETE", "COMPLETE", pause=1800.0, seconds=60.0)
    told = dict(cost(view_of(study)))
    assert told["Search, from its first start to its last end"] == formats.duration(of_search)
    whole = formats.duration(of_search + 1800 + 120)
    assert told["The same to the last end of the finalists"] == f"{whole}, with whatever pause was in between"


def test_a_failed_training_of_a_finalist_is_a_failure_and_lost() -> None:
    study = without_failures(20)
    assert "No trial failed." in page_of(study)
    add_finalists(study, "COMPLETE", "RETRIED", "FAIL", "AGAIN")
    view, page = view_of(study), page_of(study)
    assert "No trial failed." not in page
    assert "No trial of the search failed." in page
    assert "2 trainings of the finalists failed, 1 of them tried again." in page
    assert "| 17 | 12 | interrupted | 80 of 100 | complete |" in page
    assert "| 17 | 13 | out of memory | 80 of 100 |  |" in page
    assert dict(cost(view))["Lost to failures"] == (
        "2 min 0 s in 2 failed or interrupted trainings of a finalist "
        "(1 went on from a checkpoint later, and lost less)"
    )
    web = html_page.page(view, contents(view, FOLDER))
    assert "<summary>2 trainings of the finalists failed, 1 of them tried again</summary>" in web


def test_failures_of_both_are_told_beside_each_other() -> None:
    study = synthetic_study(200)
    failed = view_of(study).table.query("state == 'FAIL'")
    assert len(failed) > 1
    own = f"{formats.duration(failed['seconds'].sum())} in {len(failed)} failed or interrupted trials"
    assert dict(cost(view_of(study)))["Lost to failures"] == own
    add_finalists(study, "FAIL")
    told = dict(cost(view_of(study)))["Lost to failures"]
    assert told == f"{own}; 1 min 0 s in 1 failed or interrupted training of a finalist"
    page = page_of(study)
    assert f"{len(failed)} trials failed." in page and "1 training of the finalists failed." in page
    assert "No trial" not in page


def test_what_a_killed_trial_took_is_not_told_as_nothing() -> None:
    study = synthetic_study(3)
    for attributes in (
        {"result": {"state": "FAIL", "reason": "killed"}},
        {"result": {"state": "FAIL", "seconds": 9.0}},
    ):
        trial = optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs=attributes)
        trial.datetime_start, trial.datetime_complete = START, START + timedelta(seconds=9)
        study.add_trial(trial)
        told = dict(cost(view_of(study)))["Lost to failures"]
        if len(study.trials) == 4:
            assert told == "a time that is not known in 1 failed or interrupted trial"
    assert told == "9 s in 2 failed or interrupted trials (that of 1 is not known)"


def test_overhead_says_what_it_is_of() -> None:
    study = synthetic_study(40, workers=4)
    before = dict(cost(view_of(study)))["Overhead between trials"]
    assert "from their first start to their last end. Not in it: " in before
    add_finalists(study, "FAIL", "COMPLETE")
    assert dict(cost(view_of(study)))["Overhead between trials"] == before
