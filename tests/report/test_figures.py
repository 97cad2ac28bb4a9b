import io
import math
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from hpo.report.figures import FIGURES, MOST_BARS, MOST_CURVES, learning_curves, parameters, png, pruning
from hpo.report.tables import View, pruning_savings, view_of
from hpo.spec import StudySpec

Direction = Literal["minimize", "maximize"]
CHOICES: list[CategoricalChoiceType] = [None, "linear", "a_very_long_name_of_a_schedule_with_$signs$_in_it", 3]
SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
    "freeze_layers": IntDistribution(0, 4),
    "lr_scheduler_type": CategoricalDistribution(CHOICES),
    "momentum": FloatDistribution(0.0, 0.99),
}


def view(n: int, *, states: str = "CCPCF", spec: bool = True) -> View:
    return view_of(study_of(n, states=states, spec=spec))


def study_of(n: int, *, states: str = "CCPCF", direction: Direction = "maximize", spec: bool = True) -> optuna.Study:
    """A study of `n` trials whose states follow the letters: complete, pruned, failed, running."""
    study = optuna.create_study(direction=direction)
    if spec:
        settings: dict[str, Any] = {
            "name": "films",
            "data": {"train": "films.csv"},
            "model": {"name": "tiny"},
            "training": {"num_evaluations": 4},
            "search_space": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}},
        }
        study.set_user_attr("spec", StudySpec.model_validate(settings).model_dump(mode="json"))
    letters = {state.name[0]: state for state in TrialState}
    for number in range(n):
        add(study, number, letters[states[number % len(states)]])
    return study


def add(study: optuna.Study, number: int, state: TrialState) -> None:
    params: dict[str, Any] = {"learning_rate": 1e-5 * 1.04 ** (number % 100), "lr_scheduler_type": CHOICES[number % 4]}
    params |= {"freeze_layers": number % 5} | ({"momentum": 0.9} if number % 3 == 1 else {})
    made = 4 if state == TrialState.COMPLETE else 1 + number % 3
    scores = {step: 0.5 + 0.05 * step + 0.001 * (number * 7 % 13) for step in range(1, made + 1)}
    metrics = {"eval/accuracy": scores[made], "eval/f1_macro": scores[made] - 0.01}
    result = {"metrics": metrics, "seconds": 3.0, "optimizer_steps": 10 * made, "total_steps": 40, "state": state.name}
    study.add_trial(
        create_trial(
            state=state,
            value=scores[made] if state == TrialState.COMPLETE else None,
            params=params,
            distributions={name: SPACE[name] for name in params},
            intermediate_values=scores,
            user_attrs={} if state == TrialState.RUNNING else {"result": result},
        )
    )


def drawn(figure: Figure | None) -> Any:
    """The pixels of the figure's PNG, checked to be more than a blank page."""
    assert figure is not None
    content = png(figure)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(io.BytesIO(content))[..., :3]
    assert pixels.shape[0] > 150
    assert pixels.shape[1] > 500
    assert np.mean(pixels.min(axis=2) < 0.9) > 0.003
    assert np.any(np.ptp(pixels, axis=2) > 0.3), "nothing but axes and text"
    return pixels


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_of_a_mixed_study(name: str) -> None:
    drawn(FIGURES[name](view(16, states="CCPCFR")))


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_of_a_study_without_trials(name: str) -> None:
    assert FIGURES[name](view(0)) is None
    assert FIGURES[name](view(0, spec=False)) is None


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("C", {"history", "learning_curves", "parameters", "two_scores", "pruning"}),
        ("P", {"history", "learning_curves", "parameters", "pruning"}),
        ("R", {"learning_curves"}),
        ("F", {"learning_curves"}),
    ],
)
def test_what_one_trial_is_enough_for(states: str, expected: set[str]) -> None:
    seen = view(1, states=states)
    figures = {name: draw(seen) for name, draw in FIGURES.items()}
    assert {name for name, figure in figures.items() if figure is not None} == expected
    assert all(png(figure) for figure in figures.values() if figure is not None)


def test_a_hundred_trials_do_not_make_the_comparison_endless() -> None:
    seen = view(100, states="CCCP")
    assert max(drawn(FIGURES["two_scores"](seen)).shape[:2]) < 1500
    drawn(FIGURES["history"](seen))


def test_thousands_of_trials_do_not_make_a_figure_endless() -> None:
    """One curve in so many, with the best and the default; bars of several trials, of which nothing is lost."""
    seen = view(2001, states="CCP")
    curves, bars = learning_curves(seen), pruning(seen)
    assert curves is not None and bars is not None
    labels = {str(line.get_label()) for line in curves.axes[0].lines}
    assert len([line for line in curves.axes[0].lines if line.get_marker() == "."]) <= MOST_CURVES + 2
    assert {f"best (trial {seen.best})", f"default (trial {seen.default})", "complete", "pruned"} <= labels
    assert "one trial in 11" in curves.axes[0].get_title(loc="left")
    groups = [[bar.get_height() for bar in group] for group in bars.axes[0].containers]
    assert all(len(heights) <= MOST_BARS for heights in groups)
    savings = pruning_savings(seen.table)
    assert [sum(heights) for heights in groups] == [savings.steps_done, savings.steps_saved]
    assert "6 a bar" in bars.axes[0].get_xlabel()


def test_a_parameter_has_a_panel_with_its_scale() -> None:
    figure = parameters(view(12))
    assert figure is not None
    panels = {axes.get_xlabel(): axes for axes in figure.axes}
    assert set(panels) == set(SPACE)
    assert panels["learning_rate"].get_xscale() == "log"
    assert panels["momentum"].get_xscale() == "linear"
    categories = [label.get_text() for label in panels["lr_scheduler_type"].get_xticklabels()]
    assert categories[:2] == ["none", "linear"]
    assert categories[3] == "3"
    assert max(map(len, categories)) <= 20


def test_a_pruned_curve_ends_with_a_cross_at_its_share_of_the_budget() -> None:
    figure = learning_curves(view(3, states="CCP"))
    assert figure is not None
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [np.asarray(line.get_xdata()).tolist() for line in crosses] == [[3 / 4]]


def test_bars_stack_what_was_made_and_what_was_saved() -> None:
    figure = pruning(view(5, states="CCPCF"))
    assert figure is not None
    bars = [[round(bar.get_height()) for bar in group] for group in figure.axes[0].containers]
    assert bars == [[40, 40, 30, 40], [20], [0, 0, 10, 0]]  # what the failed one missed is not saved


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_trials_that_diverged_do_not_stop_a_figure(direction: Direction) -> None:
    study = study_of(6, direction=direction)
    for scores in ({}, {1: math.nan}, {1: 0.5, 2: math.inf}):
        study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values=scores))
    again = view_of(study)
    for name in ("history", "learning_curves", "parameters"):
        drawn(FIGURES[name](again))


def test_the_same_trials_give_the_same_bytes() -> None:
    first, second = (parameters(view(8)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert png(first) == png(second)
