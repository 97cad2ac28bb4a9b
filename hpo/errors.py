"""What can go wrong for a user, as one shallow tree. Anything else is a bug and keeps its traceback.

HpoError                 shown without a traceback
├── SpecError            the study file, or what was set over it
├── DataError            a data set or a model that cannot be used as asked
├── StorageError         a place on disk, or a database, that cannot be used
├── DeviceFailed         a GPU that answers nothing any more, or not in this process
└── TrialFailed          one trial crashed; the study goes on
    └── Diverged         its loss became infinite or NaN; the trial is pruned
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DIVERGED = "diverged"


class HpoError(Exception):
    """The base: its message is written for the user, and says the rule, what was given and the way out."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a study file: the rule and what was given, the dotted path, and the way out."""

    path: str
    rule: str
    way_out: str

    def render(self, file: str) -> str:
        rule, path, way_out = map(_shortened, (self.rule, self.path, self.way_out))
        return f"{rule} ({file}, {path}). {way_out}"


def _shortened(text: str) -> str:
    """Without the middle of what nobody would read: a mistake may be as long as a file."""
    return text if len(text) <= 1000 else f"{text[:700]} ... {text[-200:]}"


class SpecError(HpoError):
    """Every mistake of one study file, at once."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        lines = [f"{file}: {count}", *(f"  - {problem.render(file)}" for problem in problems)]
        super().__init__("\n".join(lines))


class DataError(HpoError):
    """A data set, a split, a column, a label or a model that is missing or cannot be used."""


class StorageError(HpoError):
    """A folder that cannot be written, a full disk, a damaged database, a study that does not match."""


class DeviceFailed(HpoError):
    """A GPU reported an error after which a process cannot use it any more; another one may."""


class TrialFailed(HpoError):
    """One trial ended by a crash of its own; `reason` is a short tag such as `out_of_memory`."""

    def __init__(self, reason: str, message: str, details: str | None = None) -> None:
        self.reason = reason
        self.details = details or message
        """The traceback, where there is one."""
        super().__init__(message)


class Diverged(TrialFailed):
    """The loss is not a finite number any more. The search learns from it: the trial ends PRUNED."""

    def __init__(self, message: str, step: int = 0, curve: Sequence[Any] = ()) -> None:
        self.step = step
        """The evaluation at which it was seen."""
        self.curve = tuple(curve)
        """The training since the evaluation before, as an `Evaluation` would have told it."""
        super().__init__(DIVERGED, message)
