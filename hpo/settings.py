"""What every section of a study file shares: frozen, strict, its docstrings in the schema that editors read."""

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError, PydanticKnownError

Value = bool | int | float | str | None
NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class Settings(BaseModel):
    """The base of every section: frozen, unknown keys refused, types strict, docstrings in the schema."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def one_of(names: Collection[str]) -> BeforeValidator:
    """A name of a registry, refused as pydantic refuses what is none of a `Literal`."""

    def check(name: Any) -> Any:
        if not isinstance(name, str) or name not in names:
            raise PydanticKnownError("literal_error", {"expected": " or ".join(map(repr, names))})
        return name

    return BeforeValidator(check)


def rule_broken(rule: str, way_out: str) -> PydanticCustomError:
    """A broken rule across fields of one section; `study_file.py` shows its two parts to the user."""
    return PydanticCustomError("rule_broken", "{rule}", {"rule": rule, "way_out": way_out})
