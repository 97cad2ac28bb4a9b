"""What every section of a study file shares: frozen, strict, its docstrings in the schema that editors read."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError

Value = bool | int | float | str | None
NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class Settings(BaseModel):
    """The base of every section: frozen, unknown keys refused, types strict, docstrings in the schema."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def rule_broken(rule: str, way_out: str) -> PydanticCustomError:
    """A broken rule across fields of one section; `study_file.py` shows its two parts to the user."""
    return PydanticCustomError("rule_broken", "{rule}", {"rule": rule, "way_out": way_out})
