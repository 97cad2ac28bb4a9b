"""Whether drivers and workers keep memory from trial to trial: what their resident memory grows by with each."""

import bisect
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from optuna.trial import FrozenTrial

from benchmarks.soak_fleet import Sample
from benchmarks.table import Check
from hpo.lease import OWNER

# Trials of a life that are left out: libraries, caches and the allocator's arenas fill up with them.
WARM_UP = {"driver": 20, "worker": 5}
# Trials after that, over all lives, below which a slope is noise and nothing is claimed.
ENOUGH = {"driver": 60, "worker": 40}
# MiB a trial. The tiny model has 21,410 parameters, which with gradients and AdamW's two moments are 0.33 MiB: whoever
# kept one of these a trial is found out. What grows rightly is less: Optuna keeps each trial that has ended, in some
# 20 KiB, and while a worker runs one, three others end.
BOUND = 0.16


@dataclass(frozen=True)
class Growth:
    """Of one kind of process."""

    what: str
    mib_a_trial: float
    n_trials: int
    """That it was measured over, warm-up left out."""
    n_lives: int
    first: float
    """MiB of the life with the most trials, after its warm-up."""
    last: float
    """The same at its end."""
    longest: int
    """Trials of that life."""
    peak: float
    """MiB, of all of its kind."""

    @property
    def is_enough(self) -> bool:
        return self.n_trials >= ENOUGH[self.what]

    def __str__(self) -> str:
        slope = (
            f"{1024 * self.mib_a_trial:+.0f} KiB a trial (n = {self.n_trials})" if self.is_enough else "too few trials"
        )
        return f"{slope}; {self.first:.0f} to {self.last:.0f} MiB in {self.longest} trials, at most {self.peak:.0f}"


def growth(what: str, samples: Sequence[Sample], trials: Sequence[FrozenTrial]) -> Growth:
    """Of the lives of one kind: the least-squares slope of their memory over the trials, each with a level of its own.

    A worker's trials are its own, a driver's those that ended anywhere while it lived.
    """
    lives: dict[tuple[int, float], list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.what == what:
            lives[sample.process].append(sample)
    points = [list(_points(what, process, life, trials)) for process, life in lives.items()]
    warm = [[(n, mib) for n, mib in life if n >= WARM_UP[what]] for life in points]
    warm = sorted((life for life in warm if len(life) > 1), key=lambda life: life[-1][0])
    above = below = 0.0
    for life in warm:
        n_mean, mib_mean = (statistics.mean(values) for values in zip(*life, strict=True))
        above += sum((n - n_mean) * (mib - mib_mean) for n, mib in life)
        below += sum((n - n_mean) ** 2 for n, _ in life)
    (_, first), (last_n, last) = (warm[-1][0], warm[-1][-1]) if warm else ((0, 0.0), (0, 0.0))
    return Growth(
        what,
        mib_a_trial=above / below if below else 0.0,
        n_trials=sum(life[-1][0] - life[0][0] for life in warm),
        n_lives=len(warm),
        first=first,
        last=last,
        longest=last_n,
        peak=max((sample.mib for life in lives.values() for sample in life), default=0.0),
    )


def _points(
    what: str, process: tuple[int, float], life: Sequence[Sample], trials: Sequence[FrozenTrial]
) -> Iterator[tuple[int, float]]:
    """How many trials have ended in a life, and the median of its memory from that one to the next.

    After the last one a driver writes the report, which takes libraries of its own.
    """
    pid, born = process[0], datetime.fromtimestamp(process[1])
    ends = sorted(
        trial.datetime_complete
        for trial in trials
        if trial.datetime_complete and trial.datetime_complete > born
        if what == "driver" or trial.user_attrs.get(OWNER, {}).get("pid") == pid
    )
    mib: dict[int, list[float]] = defaultdict(list)
    for sample in (sample for sample in life if ends and sample.at < ends[-1]):
        mib[bisect.bisect(ends, sample.at)].append(sample.mib)
    yield from ((n, statistics.median(values)) for n, values in sorted(mib.items()))


def check_memory(grown: Sequence[Growth]) -> list[Check]:
    """None of kinds of which there were too few trials to tell."""
    return [
        Check(
            f"flat memory of a {each.what}: under {1024 * BOUND:.0f} KiB a trial",
            each.mib_a_trial < BOUND,
            f"{1024 * each.mib_a_trial:+.0f} KiB a trial, over {each.n_trials} trials of {each.n_lives} lives",
        )
        for each in grown
        if each.is_enough
    ]
