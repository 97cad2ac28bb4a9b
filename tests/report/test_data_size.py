"""The learning curve over data size: sizes, the power law through them, and what is said of twice the rows."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState, create_trial

from hpo.report.charts.data_size import data_size
from hpo.report.charts.search import running_best
from hpo.report.contents import contents
from hpo.report.data_size import Size, gain_of_twice, more_data, power_law, sizes
from hpo.report.expected import drawn
from hpo.report.page import markdown_page
from hpo.report.tables import View, view_of
from hpo.spec import StudySpec
from hpo.study import best_first, is_best

SHARES = [0.125, 0.25, 0.5, 1.0]
Direction = Literal["minimize", "maximize"]


def view(scores: Mapping[float, Sequence[float]], direction: Direction = "maximize", searched: bool = True) -> View:
    return view_of(study_of(scores, direction, searched))


def study_of(
    scores: Mapping[float, Sequence[float]], direction: Direction = "maximize", searched: bool = True
) -> optuna.Study:
    space: dict[str, Any] = {"train_fraction": {"choices": SHARES}} if searched else {"dropout": {"low": 0, "high": 1}}
    metric = "eval/accuracy" if direction == "maximize" else "eval/loss"
    given = {"name": "films", "data": {"train": "a.csv"}, "model": {"name": "tiny"}, "metric": metric}
    spec = StudySpec.model_validate(given | {"search_space": space, "finalists": None})
    study = optuna.create_study(direction=direction)
    study.set_user_attr("spec", spec.model_dump(mode="json"))
    rows = {"train": 1600, "validation": 500, "test": 500}
    study.set_user_attr("data", {"rows": rows, "labels": ["a", "b"], "notes": [], "fingerprint": "f" * 64})
    among: dict[str, BaseDistribution] = {"train_fraction": CategoricalDistribution(SHARES)}
    for share, of_share in scores.items():
        for score in of_share:
            params = {"train_fraction": share} if searched else {}
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    value=score,
                    params=params,
                    distributions=among if searched else {},
                    intermediate_values={1: score},
                )
            )
    return study


# The error is 2 / sqrt(rows): 200, 400, 800 and 1,600 of them.
EXACT = {share: [1 - 2 / math.sqrt(1600 * share)] for share in SHARES}


def test_sizes_in_rows_with_their_means_and_intervals() -> None:
    found = sizes(view({1.0: [0.9, 0.8], 0.125: [0.7]}))
    assert [(size.rows, size.mean) for size in found] == [(200, 0.7), (1600, pytest.approx(0.85))]
    assert found[0].interval is None
    assert found[1].interval is not None
    # t(0.975, 1) = 12.706, and 0.0707 / sqrt(2) = 0.05.
    assert found[1].interval.high == pytest.approx(0.85 + 12.706 * 0.05, abs=1e-3)


def test_trials_that_drew_no_share_learned_from_all() -> None:
    study = study_of({0.25: [0.7], 1.0: [0.8]})
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.9, params={}, distributions={}))
    assert [(size.rows, size.scores) for size in sizes(view_of(study))] == [(400, [0.7]), (1600, [0.8, 0.9])]


def test_trials_with_fewer_rows_compete_nowhere() -> None:
    """The best of two, though a trial with a quarter of the rows has a higher score."""
    seen = view({0.25: [0.95], 1.0: [0.7, 0.8]})
    assert seen.rivals["number"].tolist() == [1, 2] and seen.best == 2
    assert running_best(seen)["y"] == [0.7, 0.8, 0.8]
    assert drawn(seen).scores.tolist() == [0.7, 0.8]
    said = contents(seen, Path("films"))
    assert "the best of 2 complete trials" in " ".join([*said.answer.headline, *said.answer.beside])


def test_a_power_law_that_is_one() -> None:
    seen = view(EXACT)
    law = power_law(seen, sizes(seen))
    assert law is not None
    assert (law.exponent, law.low, law.high) == pytest.approx((0.5, 0.5, 0.5))
    gain = gain_of_twice(seen, sizes(seen), law)
    assert gain.value == pytest.approx(2 / math.sqrt(1600) - 2 / math.sqrt(3200))


def test_a_size_with_which_little_is_learned_bends_no_curve() -> None:
    """Errors of rotten_tomatoes with 400 to 6,398 rows: the first is that of a model that hardly learns."""
    rows, error = [400, 800, 1600, 3199, 6398], [0.3949, 0.2263, 0.1825, 0.1604, 0.1454]
    found = [Size(rows=count, scores=[1 - each]) for count, each in zip(rows, error, strict=True)]
    law = power_law(seen := view(EXACT), found)
    assert law is not None and law == power_law(seen, found[2:])
    # From 1,600 to 6,398 rows, two doublings, it falls to 0.1454 / 0.1825; the line has the ends' slope.
    assert 2**-law.exponent == pytest.approx(math.sqrt(0.1454 / 0.1825), abs=1e-4)
    assert gain_of_twice(seen, found, law).value == pytest.approx(0.0156, abs=1e-4)


def test_of_a_loss_it_is_the_same_curve() -> None:
    seen = view({share: [1 - score for score in scores] for share, scores in EXACT.items()}, "minimize")
    law = power_law(seen, sizes(seen))
    assert law is not None and law.exponent == pytest.approx(0.5)
    assert "would fall by 0.015" in more_data(seen).sentences[0]


def test_the_interval_holds_the_true_exponent_in_95_of_100_studies() -> None:
    draw, seen, held = np.random.default_rng(0), view(EXACT), []
    rows = [1600 * share for share in SHARES]
    for _ in range(1000):
        error = [2 / math.sqrt(count) * math.exp(draw.normal(0, 0.03)) for count in rows]
        found = [Size(rows=round(count), scores=[1 - each]) for count, each in zip(rows, error, strict=True)]
        law = power_law(seen, found)
        assert law is not None
        held.append(law.low <= 0.5 <= law.high)
    assert 0.93 <= np.mean(held) <= 0.97


def test_what_is_said() -> None:
    first, how, means = more_data(view(EXACT)).sentences
    assert first.startswith(
        "With 3,200 rows, twice the most that were learned from, the validation accuracy would rise"
    )
    assert "by 0.015" in first and "multiplied it by 0.71" in first and "nothing" not in first
    assert "a line through the 3 largest sizes" in how and "all complete trials of a size. Those" in means


def test_it_may_bring_nothing() -> None:
    seen = view({0.25: [0.8], 0.5: [0.82], 1.0: [0.81]})
    assert "It may as well bring nothing." in more_data(seen).sentences[0]


@pytest.mark.parametrize("shares", [[1.0], [0.5, 1.0]])
def test_of_fewer_than_three_sizes_nothing_can_be_told(shares: list[float]) -> None:
    said = more_data(view({share: EXACT[share] for share in shares})).sentences[0]
    assert f"cannot be told: the score is known for {len(shares)} size" in said and "from 3 on" in said


def test_without_errors_nothing_can_be_told() -> None:
    assert "nothing can fall below" in more_data(view({share: [1.0] for share in SHARES})).sentences[0]


def test_a_study_of_something_else_says_nothing() -> None:
    seen = view({1.0: [0.8, 0.9]}, searched=False)
    assert not more_data(seen).sentences and data_size(seen) is None


def test_the_best_trial_has_all_rows() -> None:
    study = study_of({0.25: [0.99], 1.0: [0.8, 0.9]})
    assert [trial.value for trial in best_first(study.direction, study.trials)] == [0.9, 0.8]
    assert view_of(study).best == 2
    assert not is_best(study, study.trials[0], 0.99) and is_best(study, study.trials[2], 0.95)


def test_the_figure_and_the_page(tmp_path: Any) -> None:
    seen = view(EXACT)
    chart = data_size(seen)
    assert chart is not None
    points, law = json.loads(chart.json())["data"]
    assert points["x"] == [200, 400, 800, 1600] and (law["x"][0], law["x"][-1]) == (400, 3200)
    page = markdown_page(contents(seen, tmp_path), set(), seen.metric)
    assert "\n\n\n" not in page
    assert "### What twice the data would bring" in page and "| 1,600 | 1 |" in page
