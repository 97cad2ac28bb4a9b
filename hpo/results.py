"""What a study claims in the end, as data: its finalists, their scores with their uncertainty, and their errors.

Kept with the study in Optuna's storage, so that a report is made from storage alone.
"""

from pydantic import Field

from hpo.settings import Settings


class Estimate(Settings):
    """A score of a configuration: the mean over its seeds, and a 95 % interval over seeds and examples."""

    value: float
    low: float
    high: float


class Difference(Estimate):
    """The winner's score less the default's, on the same examples."""

    p_value: float
    """Of the hypothesis that they are equally good; two-sided."""


class Finalist(Settings):
    """A configuration that was trained again over fresh seeds."""

    trial: int
    """Its number in the search."""
    is_default: bool
    searched: float | None
    """Its score in the search: of a winner, an optimistic number. None: the default did not come to its end there."""
    scores: list[float]
    """By seed, of the study's metric on validation."""
    mean: float
    """Of the scores: the winner's is the best."""
    runs: list[int]
    """By seed, its trials' numbers in the study of finalists."""


class Reading(Settings):
    """One reading of the test split, by the winner and the default."""

    at: str
    """When, as ISO 8601 has it."""
    winner: int
    """Its number in the search."""
    default: int | None
    """Its number in the search; None: it could not be trained again."""
    seeds: list[int]
    """On which both were trained."""
    rows: int
    """Of the test split."""
    method: str
    """How intervals and p-values were computed, and who described it."""
    winner_scores: dict[str, Estimate]
    """By metric: `accuracy`, `f1_macro`, `f1/<class>`, ..., `loss`, `calibration_error`."""
    default_scores: dict[str, Estimate]
    """Empty where there is no default."""
    differences: dict[str, Difference]
    """The winner's less the default's, by metric; empty where there is no default, or where it is the winner."""
    confusion: list[list[float]]
    """[label][prediction] The winner's rows, as a mean over its seeds."""


class Mistake(Settings):
    """A validation example that the winner is sure of, and wrong about: perhaps its label is."""

    row: int
    text: str
    label: str
    predicted: str
    probability: float
    """Of the prediction, as a mean over the seeds."""
    wrong: int
    """The seeds that are wrong about it."""


class Disagreement(Settings):
    """A validation example that one of winner and default gets right more often than the other."""

    row: int
    text: str
    label: str
    winner: float
    """The probability of the label, as a mean over the seeds."""
    default: float


class Group(Settings):
    """The accuracy of validation examples that have something in common."""

    name: str
    rows: int
    winner: float
    default: float


class Errors(Settings):
    """What winner and default get wrong on the validation split, over all seeds of both."""

    labels: list[str]
    confusion: list[list[float]]
    """[label][prediction] The winner's rows, as a mean over its seeds."""
    mistakes: list[Mistake]
    """The most confident first."""
    by_class: list[Group]
    by_length: list[Group]
    """Of about as many rows each, by words."""
    disagreements: list[Disagreement]
    """The largest first."""
    winner_only: int
    """Rows that the winner gets right and the default wrong, each by the mean of its seeds."""
    default_only: int


class Finals(Settings):
    """How the finalists came out."""

    ended_trials: int
    """Of the search, when they were chosen from it."""
    asked_trials: int
    asked_seeds: int
    seeds: list[int]
    """On which every finalist was trained: fewer than were asked for where the time was over."""
    finalists: list[Finalist]
    """The best on validation first."""
    winner: int
    """Its number in the search."""
    exported: int
    """The training whose model is kept and registered, by its number in the study of finalists: the winner's best one
    on validation, or that on train and validation together."""
    readings: list[Reading] = Field(default=[])
    """Of the test split, the first first: one, unless a second was asked for."""
    refused: str | None = None
    """Why the test split was not read for this winner."""
    errors: Errors | None = None
    notes: list[str] = Field(default=[])
    """What is worth saying: fewer seeds than asked for, a finalist that failed."""

    @property
    def chosen(self) -> Finalist:
        """The winner."""
        return next(finalist for finalist in self.finalists if finalist.trial == self.winner)

    @property
    def default(self) -> Finalist | None:
        """The untuned default; None if it could not be trained again."""
        return next((finalist for finalist in self.finalists if finalist.is_default), None)

    @property
    def reading(self) -> Reading | None:
        """That of the test split by this winner."""
        return self.readings[-1] if self.readings and self.refused is None else None


class Claim(Settings):
    """What is claimed of an exported configuration."""

    validation_mean: float
    """Of `metric`, over the fresh seeds."""
    validation_maximum: float | None
    """What the search saw of it: an optimistic number, for it was chosen by it."""
    seeds: list[int]
    test_read_at: str | None
    """None: the test split was not read for it."""
    test: dict[str, Estimate]
    """By metric, with a 95 % interval over seeds and examples."""
    default: dict[str, Estimate]
    """The same of the untuned default."""
    difference: dict[str, Difference]
    """The winner's less the default's, paired by seed and example."""


def claim(finals: Finals) -> Claim:
    """What finals say of their winner."""
    reading = finals.reading
    return Claim(
        validation_mean=finals.chosen.mean,
        validation_maximum=finals.chosen.searched,
        seeds=finals.seeds,
        test_read_at=reading.at if reading else None,
        test=reading.winner_scores if reading else {},
        default=reading.default_scores if reading else {},
        difference=reading.differences if reading else {},
    )
