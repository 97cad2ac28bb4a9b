"""When which worker was at which trial, as far as storage tells: the time line, and what of it was no training."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from optuna.trial import FrozenTrial

from hpo.lease import OWNER
from hpo.report.tables import View


@dataclass(frozen=True, kw_only=True)
class Work:
    """A trial's time at a worker."""

    trial: FrozenTrial
    worker: int
    """Counted from 0 in the order of their first trials."""
    place: str
    """The worker's machine and process, or nothing where it is not known."""
    start: float
    """Seconds after the first trial's start."""
    end: float
    """Of one that still runs: the last moment that storage knows of."""


def work(view: View) -> list[Work]:
    """Every trial's time, by its start."""
    return list(_work(view))


def _work(view: View) -> Iterator[Work]:
    begun = sorted(
        ((trial.datetime_start, trial) for trial in view.trials if trial.datetime_start),
        key=lambda each: (each[0], each[1].number),
    )
    if not begun:
        return
    first, last = begun[0][0], _last(view)
    workers: dict[tuple[str, object], int] = {}
    free: list[datetime] = []  # of workers that are not known: when each lane ends
    for start, trial in begun:
        end = max(start, trial.datetime_complete or last)
        owner = trial.user_attrs.get(OWNER) if view.spec else None
        if owner:
            place = f"{str(owner['host']).partition(' ')[0]}, process {owner['pid']}"
            key: tuple[str, object] = (str(owner["host"]), owner["pid"])
        else:
            place = ""
            lane = next((at for at, until in enumerate(free) if until <= start), len(free))
            free[lane : lane + 1] = [end]
            key = ("", lane)
        worker = workers.setdefault(key, len(workers))
        since = (start - first).total_seconds()
        yield Work(trial=trial, worker=worker, place=place, start=since, end=(end - first).total_seconds())


def _last(view: View) -> datetime:
    """The last moment of which storage tells."""
    return max(_moments(view.trials))


def _moments(trials: Iterable[FrozenTrial]) -> list[datetime]:
    return [each for trial in trials for each in (trial.datetime_start, trial.datetime_complete) if each]


def span(view: View) -> float:
    """Seconds from the first start to the last end, of the search alone."""
    return max((each.end for each in work(view)), default=0.0)


def span_with_finalists(view: View) -> float:
    """The same to the last end of the finalists' trainings."""
    moments = [*_moments(view.trials), *_moments(view.finalist_trials)]
    return (max(moments) - min(moments)).total_seconds() if moments else 0.0


def seconds_by_device(view: View) -> dict[str, float]:
    """What trials took, by the device that they ran on."""
    device = {trial.number: trial.user_attrs.get("machine", {}).get("device") for trial in view.trials if view.spec}
    seconds: dict[str, float] = {}
    known = view.table[view.table["seconds"].notna()]
    for number, took in zip(known["number"], known["seconds"], strict=True):
        name = device.get(number) or "a device that is not known"
        seconds[name] = seconds.get(name, 0.0) + float(took)
    return seconds


def overhead(view: View) -> tuple[float, float] | None:
    """Seconds between the trials of a worker and at their ends, and all from its first start to its last end.

    None where no worker is known. What a worker does before its first trial and after its last one is in neither.
    """
    spans: dict[int, tuple[float, float]] = {}
    took = dict(zip(view.table["number"], view.table["seconds"], strict=True))
    busy = 0.0
    for each in work(view):
        if each.place and each.trial.datetime_complete and took[each.trial.number] > 0:
            start, end = spans.get(each.worker, (each.start, each.end))
            spans[each.worker] = (min(start, each.start), max(end, each.end))
            busy += float(took[each.trial.number])
    total = sum(end - start for start, end in spans.values())
    return (max(0.0, total - busy), total) if total > 0 else None
