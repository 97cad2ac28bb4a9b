"""The tree of errors and the grammar of what a user is told."""

import inspect

import pytest

from hpo import errors
from hpo.errors import Diverged, HpoError, Problem, SpecError, TrialFailed


def test_every_error_of_the_user_is_one_tree() -> None:
    classes = [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, Exception)]
    assert {found.__name__ for found in classes} == {
        *("HpoError", "SpecError", "DataError", "StorageError", "DeviceFailed", "TrialFailed", "Diverged"),
    }
    assert all(issubclass(found, HpoError) for found in classes)
    assert all(found.__name__ in str(errors.__doc__) for found in classes)


def test_a_problem_says_rule_place_and_way_out() -> None:
    problem = Problem("training.dropout", "dropout must be below 1, but got dropout=2", "Lower it.")
    assert (
        problem.render("a.yaml") == "dropout must be below 1, but got dropout=2 (a.yaml, training.dropout). Lower it."
    )


def test_a_mistake_as_long_as_a_file_is_told_without_its_middle() -> None:
    told = Problem("a" * 10**6, f"it must be short, but got {'b' * 10**6}", "Take it out.").render("a.yaml")
    assert len(told) < 2000
    assert told.startswith("it must be short, but got bbb") and told.endswith(" Take it out.")


@pytest.mark.parametrize(("n", "heading"), [(1, "a.yaml: 1 mistake"), (2, "a.yaml: 2 mistakes")])
def test_a_spec_error_lists_every_problem(n: int, heading: str) -> None:
    problems = [Problem(f"place{index}", f"rule {index}", "Mend it.") for index in range(n)]
    error = SpecError("a.yaml", problems)
    assert str(error).splitlines() == [
        heading,
        *(f"  - rule {index} (a.yaml, place{index}). Mend it." for index in range(n)),
    ]
    assert error.problems == tuple(problems)


def test_a_failed_trial_carries_its_reason() -> None:
    assert TrialFailed("out_of_memory", "too big").reason == "out_of_memory"
    assert Diverged("loss is nan").reason == "diverged"
    assert str(Diverged("loss is nan")) == "loss is nan"
