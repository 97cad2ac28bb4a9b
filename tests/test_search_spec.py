"""What a study file may declare to be searched."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from hpo.search_spec import ChoiceParameter, Parameter, RangeParameter
from hpo.settings import Settings

PARAMETER: TypeAdapter[Parameter] = TypeAdapter(Parameter)


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ({"low": 1, "high": 2}, RangeParameter),
        ({"low": 0.0, "high": 0.3, "step": 0.1}, RangeParameter),
        ({"low": 0.0, "high": 0.3, "step": 0.05}, RangeParameter),
        ({"low": 1e-5, "high": 1e-2, "log": True}, RangeParameter),
        ({"choices": [None, 1.0]}, ChoiceParameter),
        ({"choices": [1, True]}, ChoiceParameter),
    ],
)
def test_a_parameter_is_a_range_or_choices(declared: dict[str, Any], kind: type[Settings]) -> None:
    assert isinstance(PARAMETER.validate_python(declared), kind)


@pytest.mark.parametrize(
    ("declared", "rule", "way_out"),
    [
        ({"low": 2, "high": 1}, "low must be below high, but got low=2, high=1", "Swap them."),
        ({"low": 1, "high": 1}, "low must be below high, but got low=1, high=1", "Widen the range"),
        ({"low": 0, "high": 1, "log": True}, "must start above 0, but got low=0", "Raise `low`"),
        ({"low": -1.0, "high": 1, "log": True}, "must start above 0, but got low=-1.0", "Raise `low`"),
        ({"low": 1, "high": 5, "log": True, "step": 1}, "exclude each other", "Remove one"),
        ({"low": 0.0, "high": 0.3, "step": 0.2}, "high must be low plus whole steps", "Set high to 0.2,"),
        ({"low": 0.0, "high": 0.3, "step": 0.5}, "high must be low plus whole steps", "Set high to 0.5,"),
        ({"low": 8, "high": 60, "step": 16}, "low=8, high=60, step=16", "Set high to 56,"),
        ({"low": 0.0, "high": 1.0, "step": 1e-20}, "at most 1,000,000,000 steps", "Raise `step`"),
        ({"low": 0, "high": 1.7e308, "step": 1e-308}, "at most 1,000,000,000 steps", "Raise `step`"),
        ({"choices": [1, 2, 1]}, "choices must differ", "Remove the repeated one."),
        ({"choices": [0, 0.0]}, "choices must differ", "Remove the repeated one."),
    ],
)
def test_a_broken_rule_of_a_parameter(declared: dict[str, Any], rule: str, way_out: str) -> None:
    with pytest.raises(ValidationError) as error:
        PARAMETER.validate_python(declared)
    (details,) = error.value.errors()
    assert rule in details["ctx"]["rule"]
    assert details["ctx"]["way_out"].startswith(way_out)
