"""What a running study tells whoever shows it: plain, picklable facts, so that trials can run elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class TrialStarted:
    number: int
    params: dict[str, object]
    label: str | None = None
    """What it is called where it is not a trial of the search, such as `finalist 12, seed 3`."""


@dataclass(frozen=True)
class Waits:
    """A trial waits for memory of its device. Told again and again, until it trains."""

    number: int
    need_mib: float | None
    """None: nobody knows."""
    available_mib: float
    """Trials that have just started may still take a part of it."""


@dataclass(frozen=True)
class StepDone:
    number: int
    step: int
    num_training_steps: int


@dataclass(frozen=True)
class Evaluated:
    number: int
    step: int
    score: float


@dataclass(frozen=True)
class TrialEnded:
    number: int
    state: str
    """As Optuna spells it: COMPLETE, PRUNED or FAIL."""
    reason: str | None
    score: float | None
    """The last evaluation's."""
    metrics: dict[str, float]
    share: float
    """Of the training budget, that was spent."""
    seconds: float
    is_default: bool
    micro_batch_size: int | None
    """Examples that went through the model at once, where memory did not hold the whole batch."""
    message: str | None = None
    """Of the error that it failed with."""
    retried: bool = False
    """It failed, and is tried again."""
    label: str | None = None
    """As it started."""
    competes: bool = True
    """With the others for the best: it learned from all rows."""


def name_of(event: TrialStarted | TrialEnded) -> str:
    """`trial 3`, or what the event is told under."""
    return event.label or f"trial {event.number}"


@dataclass(frozen=True)
class Note:
    """What is worth saying while the study runs."""

    text: str


Event = TrialStarted | Waits | StepDone | Evaluated | TrialEnded | Note
OnEvent = Callable[[Event], None]
