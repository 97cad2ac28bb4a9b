"""How far the trials of a study are: each against the median, the best, and the time left. `search_view.py` draws it.

Known from the events of this driver, and once, at its start, from storage: other drivers' later trials are not seen.
"""

import math
import statistics
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.events import Evaluated, Event, StepDone, TrialEnded, TrialStarted, Waits, name_of
from hpo.search import first_pruning
from hpo.search_spec import MedianPruner, PatientPruner, PercentilePruner
from hpo.spec import StudySpec
from hpo.study import ended_trials, learns_from_all

# A trial's own pace counts as if it had done this share of its training at the pace of those before it: a new one has
# loaded its model and little more.
PRIOR_SHARE = 0.1
# What pruned trials do is only seen once the startup trials are through, which may be most of the time. Until then, and
# less and less as they end, of four trials three are taken to be pruned at the first look. Of the trials recorded in
# benchmarks/pruners.csv, replayed, that comes closest; of as many in halves the time left is twice as far off.
PRIOR_PRUNED, PRIOR_WHOLE = 3, 1
# The bar that a trial has to pass rises with those that pass it: the latest half says more of those to come.
MIN_LATEST = 4


@dataclass(frozen=True)
class Pruning:
    """When trials may be pruned at all."""

    first: float = 1.0
    """The share of the training after which a pruner first looks; 1 if it never prunes."""
    startup: int = 0
    """Complete trials before which it prunes none."""


def pruning_of(spec: StudySpec) -> Pruning:
    """Of a study's pruner."""
    pruner = spec.pruner.wrapped if isinstance(spec.pruner, PatientPruner) else spec.pruner
    startup = 0
    if isinstance(pruner, MedianPruner | PercentilePruner):
        startup = max(1, pruner.n_startup_trials)  # it compares with complete trials, of which there has to be one
    return Pruning(min(1.0, first_pruning(spec.pruner) / spec.training.num_evaluations), startup)


@dataclass(frozen=True)
class Cost:
    """What a trial that ended took."""

    share: float
    """Of its training, that it did: 1 if it was complete."""
    seconds: float


@dataclass
class Running:
    """What is known of a running trial."""

    name: str
    started: float
    step: int = 0
    num_training_steps: int = 0
    """0: it has not trained yet."""
    resumed_step: int = 0
    """From which it went on, where the attempt before had left a checkpoint."""
    curve: dict[int, float] = field(default_factory=dict)
    """Its scores by evaluation."""
    waits: bool = False
    """For memory."""

    @property
    def share(self) -> float:
        return self.step / self.num_training_steps if self.num_training_steps else 0.0

    @property
    def score(self) -> float | None:
        """The last evaluation's."""
        return self.curve[max(self.curve)] if self.curve else None


@dataclass(frozen=True)
class Standing:
    """A running trial's last score, and the median that a pruner holds it against."""

    score: float
    median: float | None
    """Of the complete trials' scores at the same evaluation, as Optuna's median pruner has it."""
    place: str
    """`above`, `below` or `equal`. `was above` (of a loss: `was below`) is worse than the median now, but was not
    always: the pruner asks for the best of a trial's scores so far, and lets this one go on."""
    better: bool
    """Than the median, or as good; also where there is none."""


class StudyProgress:
    """One search, or another series of trials after it. Events come from one thread, and are read from another."""

    def __init__(
        self,
        total: int,
        direction: str,
        *,
        title: str = "search",
        workers: int = 1,
        done: int = 0,
        timeout: float | None = None,
        pruning: Pruning = Pruning(),
        earlier: Iterable[Cost] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            total: the trials wanted, `done` of which have ended before.
            timeout: seconds, from now on, after which no further trial starts.
            earlier: what trials like these have taken, which counts until one of them has ended.
        """
        self.total, self.title, self.workers, self.done, self.timeout = total, title, workers, done, timeout
        self.running: dict[int, Running] = {}
        self.best: tuple[str, float] | None = None
        self.last: TrialEnded | None = None
        self.costs: list[Cost] = []
        self._maximize = direction == "maximize"
        self._pruning, self._earlier = pruning, list(earlier)
        self._prunable: list[float] = []
        """What trials did of their training that ended when pruning was possible."""
        self._complete = 0
        self._scores: dict[int, list[float]] = {}
        """Of the complete trials, by evaluation, in order."""
        self._clock = clock
        self._began = clock()
        self.lock = threading.Lock()
        """Held while an event is taken; whoever reads more than one thing holds it too."""

    def begin(self) -> None:
        """Its trials start now."""
        self._began = self._clock()

    def know(self, study: optuna.Study) -> None:
        """What the trials in storage took and scored."""
        for trial in ended_trials(study):
            if cost := stored_cost(trial):
                self._add(cost)
            if trial.state == TrialState.COMPLETE:
                self._add_curve(trial.intermediate_values)
                if learns_from_all(trial):
                    self._compare(f"trial {trial.number}", trial.value)

    def take(self, event: Event) -> bool:
        """Takes an event in. Returns whether it is the end of the best trial so far."""
        with self.lock:
            match event:
                case TrialStarted():
                    self.running[event.number] = Running(name_of(event), self._clock())
                case TrialEnded():
                    return self._ended(event)
                case Waits() | StepDone() | Evaluated() if trial := self.running.get(event.number):
                    self._took(event, trial)
        return False

    def _took(self, event: Waits | StepDone | Evaluated, trial: Running) -> None:
        match event:
            case Waits():
                trial.waits, trial.started = True, self._clock()  # its time is its own, not that of those before it
            case StepDone(step=step, num_training_steps=steps):
                if not trial.num_training_steps:
                    trial.resumed_step = step - 1
                trial.waits, trial.step, trial.num_training_steps = False, step, steps
            case Evaluated(step=step, score=score):
                trial.curve[step] = score

    def _ended(self, event: TrialEnded) -> bool:
        trial = self.running.pop(event.number, None)
        self.last = event
        if event.retried:
            return False
        self.done += 1
        self._add(Cost(event.share, event.seconds))
        if event.state != "COMPLETE":
            return False
        self._add_curve(trial.curve if trial else {})
        # Of several trainings of one configuration none is the best: their mean counts.
        return event.label is None and event.competes and self._compare(name_of(event), event.score)

    def _add(self, cost: Cost) -> None:
        self.costs.append(cost)
        if self._complete >= self._pruning.startup:
            self._prunable.append(cost.share)

    def _add_curve(self, curve: dict[int, float]) -> None:
        self._complete += 1
        for step, score in curve.items():
            if not math.isnan(score):
                insort(self._scores.setdefault(step, []), score)

    def _compare(self, name: str, score: float | None) -> bool:
        if score is None or not math.isfinite(score):
            return False
        if self.best and not self._is_better(score, self.best[1]):
            return False
        self.best = (name, score)
        return True

    def _is_better(self, score: float, than: float) -> bool:
        return score > than if self._maximize else score < than

    def standing(self, trial: Running) -> Standing | None:
        """The trial's last score against the median; None before its first evaluation."""
        if not trial.curve:
            return None
        step = max(trial.curve)
        score, scores = trial.curve[step], self._scores.get(step)
        if not scores or math.isnan(score):
            return Standing(score, None, "", True)
        median = statistics.median(scores)
        best = (max if self._maximize else min)(trial.curve.values())
        place = "equal" if score == median else "above" if score > median else "below"
        better = not self._is_better(median, score)
        if not better and not self._is_better(median, best):
            place = "was above" if self._maximize else "was below"
        return Standing(score, median, place, better)

    @property
    def elapsed(self) -> float:
        return self._clock() - self._began

    @property
    def share(self) -> float:
        """Of the trials wanted: those that ended, a pruned one as a whole, and their shares of those that run."""
        running = sum(trial.share for trial in self.running.values())
        return min(1.0, (self.done + running) / self.total) if self.total else 1.0

    def seconds_left(self) -> float | None:
        """Estimated, for the workers that have memory; None while nothing is known of what a trial takes.

        What is still to start does on average what trials did that could be pruned, at the pace of all. What runs does,
        at its own pace, what those that came so far did from there on: some of them were pruned, some were not.
        """
        pace = self._pace()
        if pace is None:
            return None
        shares = self._shares()
        to_come = [self._to_come(trial, pace, shares) for trial in self.running.values()]
        starting = max(0, self.total - self.done - len(self.running))
        whole = min(starting, max(0, self._pruning.startup - self._complete - len(self.running)))
        mean = pace * statistics.fmean(shares)
        work = sum(to_come) + whole * pace + (starting - whole) * mean
        waiting = sum(trial.waits for trial in self.running.values())
        longest = max([*to_come, *([pace if whole else mean] if starting else [])], default=0.0)
        left = max(work / max(1, self.workers - waiting), longest)
        if self.timeout is None:
            return left
        until = self.timeout - self.elapsed
        # Whatever runs when no further trial starts comes to its end.
        return min(left, until + mean) if until > 0 else max(to_come, default=0.0)

    def _shares(self) -> list[float]:
        """What trials that may be pruned do of their training: as has been seen, and as was to be expected before."""
        latest = self._prunable[-max(MIN_LATEST, (len(self._prunable) + 1) // 2) :]
        return [*latest, *[self._pruning.first] * PRIOR_PRUNED, *[1.0] * PRIOR_WHOLE]

    def _pace(self) -> float | None:
        """Seconds of a whole training: of the trials that ended, or else of those that run."""
        known = [cost for cost in self.costs or self._earlier if cost.share > 0]
        if not known:
            now = self._clock()
            known = [Cost(_own_share(trial), now - trial.started) for trial in self.running.values() if trial.step]
        share = sum(cost.share for cost in known)
        return sum(cost.seconds for cost in known) / share if share else None

    def _to_come(self, trial: Running, pace: float, shares: list[float]) -> float:
        """Seconds that a running trial still takes, if it is pruned as the others were."""
        others = len(self.running) - 1
        further = [share - trial.share for share in shares if share > trial.share]
        whole = self._complete + others < self._pruning.startup or not further
        share = 1.0 - trial.share if whole else statistics.fmean(further)
        own = _own_share(trial)
        seconds = self._clock() - trial.started if own else 0.0
        return share * (seconds + PRIOR_SHARE * pace) / (own + PRIOR_SHARE)


def _own_share(trial: Running) -> float:
    """What this attempt has done of its training."""
    return (trial.step - trial.resumed_step) / trial.num_training_steps if trial.num_training_steps else 0.0


def stored_cost(trial: FrozenTrial) -> Cost | None:
    """What a trial in storage took; None where that is not known."""
    result = trial.user_attrs.get("result", {})
    steps, total, seconds = (result.get(name) for name in ("optimizer_steps", "total_steps", "seconds"))
    return Cost(steps / total, seconds) if total and seconds is not None else None
