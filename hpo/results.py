"""What a study claims, as data: its clean data, its finalists, their scores with their uncertainty, and their errors.

Kept with the study in Optuna's storage, so that a report is made from storage alone.
"""

from statistics import fmean

from pydantic import Field

from hpo.settings import Settings


class Estimate(Settings):
    """A score of a configuration: the mean over its seeds, and a 95 % interval over seeds and examples.

    Of a single seed the interval is over the examples only.
    """

    value: float
    low: float
    high: float


class Difference(Estimate):
    """The winner's score less the default's, on the same examples."""

    p_value: float
    """Of the hypothesis that they are equally good; two-sided. Of a single seed it says nothing of others."""


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
    test_scores: list[float] = Field(default=[])
    """By test seed, of the study's metric on validation: nothing was chosen by them. Of winner and default only."""
    test_runs: list[int] = Field(default=[])
    """By test seed, its trials' numbers in the study of finalists."""

    @property
    def fresh_scores(self) -> list[float]:
        """The validation scores that did not choose it, where it has such."""
        return self.test_scores or self.scores

    @property
    def fresh_mean(self) -> float:
        """Of these."""
        return fmean(self.fresh_scores)


class Reading(Settings):
    """One reading of the test split, by the winner and the default."""

    at: str
    """When, as ISO 8601 has it."""
    winner: int
    """Its number in the search."""
    default: int | None
    """Its number in the search; None: it could not be trained again."""
    seeds: list[int]
    """On which both were trained, for this alone."""
    rows: int
    """Of the test split."""
    method: str
    """How intervals and p-values were computed, and who described it."""
    winner_scores: dict[str, Estimate]
    """By metric: `accuracy`, `f1_macro`, `f1/<class>`, ..., `loss`, `calibration_error`; of two classes also `f1`,
    `precision` and `recall` of the second, but for readings that are older than these."""
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
    default: float | None
    """None: it could not be trained again."""


class Errors(Settings):
    """What winner and default get wrong on the validation split, over the seeds that chose nothing.

    Without a default all that it would be held against is empty or 0.
    """

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
    unit: str = "row"
    """What is right or wrong: a row, a word of it, or a label."""
    winner_only: int
    """Rows that the winner gets right and the default wrong, each by the mean of its seeds."""
    default_only: int


class Finals(Settings):
    """How the finalists came out."""

    ended_trials: int
    """Of the search, when they were chosen from it."""
    asked_trials: int
    asked_seeds: int
    asked_test_seeds: int = 0
    asked_timeout: float | None = None
    """In seconds."""
    search_best: float | None = None
    """The best score of the search, of whichever trial: the most optimistic of all. Of a loss it is the least."""
    seeds: list[int]
    """On which every finalist was trained: fewer than were asked for where the time was over."""
    test_seeds: list[int] = Field(default=[])
    """On which winner and default were trained to read the test split: of the models that chose the winner those of its
    lucky seeds would be read."""
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
    """Of `metric`, over the seeds."""
    validation_maximum: float | None
    """The best score of the search, of whichever trial: an optimistic number, for it is the best of many. Of a loss it
    is the least, not the largest."""
    seeds: list[int]
    """Fresh ones, which chose nothing."""
    test_read_at: str | None
    """None: the test split was not read for it."""
    test: dict[str, Estimate]
    """By metric, with a 95 % interval over seeds and examples; of a single seed, over examples only."""
    default: dict[str, Estimate]
    """The same of the untuned default."""
    difference: dict[str, Difference]
    """The winner's less the default's, paired by seed and example."""


def claim(finals: Finals) -> Claim:
    """What finals say of their winner."""
    reading = finals.reading
    return Claim(
        validation_mean=finals.chosen.fresh_mean,
        validation_maximum=finals.search_best,
        seeds=finals.test_seeds or finals.seeds,
        test_read_at=reading.at if reading else None,
        test=reading.winner_scores if reading else {},
        default=reading.default_scores if reading else {},
        difference=reading.differences if reading else {},
    )


class Lengths(Settings):
    """How long a split's texts are, in tokens of the default's tokenizer, special ones included."""

    percentiles: dict[str, int]
    """`min`, `5`, `25`, `50`, `75`, `95`, `99`, `max`: lengths that texts have."""
    truncated: int
    """Rows that are longer than the default's `max_length`."""
    tokens_cut: float
    """The share of all tokens that truncation cuts."""


class SplitQuality(Settings):
    """One split as the study uses it."""

    rows: int
    removed: dict[str, int]
    """Rows that are not used, by rule, in the order of the rules."""
    class_counts: dict[str, int]
    class_shares: dict[str, float]
    repeated: int
    """Rows whose text, up to white space, an earlier row of the same split has."""
    lengths: Lengths


class Relatives(Settings):
    """Two texts of different splits that are nearly the same, or of which one contains the other."""

    kind: str
    """As a key of `Overlap.kinds`."""
    similarity: float
    """Jaccard's, of their sets of words."""
    text: str
    """Of the earlier split; long ones are cut."""
    label: str
    other: str
    """Of the later split: the most similar one."""
    other_label: str


class Overlap(Settings):
    """What a split shares with one that is looked at later, after exact repetitions were removed from it."""

    earlier: str
    later: str
    kinds: dict[str, int]
    """Rows of the earlier split by their closest kind of relative; each row counts once."""
    rows: int
    """Of the earlier split, with a relative of any kind."""
    other_label: int
    """Of these rows, whose relative has another label."""
    later_rows: int
    """Of the later split, with a relative of any kind: those whose scores may be too good."""
    examples: list[Relatives]


class Conflict(Settings):
    """A text that stands in one split with several labels."""

    text: str
    labels: dict[str, int]
    """How many rows have which."""


class Conflicts(Settings):
    """The contradictions within one split."""

    texts: int
    rows: int
    """Of these texts, all together."""
    examples: list[Conflict]


class LabelOrder(Settings):
    """How the classes got their ids."""

    labels: list[str]
    """In the order of their ids."""
    source: list[str] | None
    """The Hub data set's own names, in the order of its integers."""
    by: str
    """`position` (integers to the declared names), `name` (to the declared names by name), `source` or `sorted`."""
    positive: str | None
    """The class that `f1`, `precision` and `recall` are of; None where there are more than two."""
    swapped: str | None
    """Why declared names look as if they stand in another order than the data set's."""
    exclusive: bool = True
    """Every row has exactly one class; False where it may have several, or has a number."""


class DataQuality(Settings):
    """How clean the data is that a study was run on."""

    max_length: int
    """Of the untuned default, in tokens."""
    splits: dict[str, SplitQuality]
    compared: dict[str, int]
    """How many rows of each split were compared with the others: all, or of much text a random part."""
    overlaps: list[Overlap]
    conflicts: dict[str, Conflicts]
    """By split."""
    label_order: LabelOrder


class Contender(Settings):
    """One who is held against the others in a distillation: a teacher, an ensemble, or a student."""

    name: str
    model: str
    """Its folder, or the study of a student."""
    seeds: int
    """Of one, its scores are those of that very model, with intervals over examples only."""
    scores: dict[str, Estimate]
    """On the test split, by metric."""
    num_parameters: int
    weights_mib: float
    examples_per_second: float
    """On this machine."""
    complete_trials: int | None = None
    """Of a student's search."""
    training_steps: int | None = None
    """Optimizer steps of a student's training."""


class Distillation(Settings):
    """What a distillation came to."""

    metric: str
    """Of the study, without `eval/`."""
    rows: int
    """Of the test split."""
    device: str
    """That speeds were measured on."""
    contenders: list[Contender]
    """Teachers, their ensemble, the plainly tuned and the distilled student."""
    distilled_less_plain: dict[str, Difference]
    """Paired by seed and example."""
    distilled_less_plain_seeds: int
    ensemble_less_first: dict[str, Difference]
    """The ensemble's scores less those of the first teacher, over examples; empty where there is one teacher."""


class ServedModel(Settings):
    """A model in one form, and how it does on the validation split."""

    name: str
    """`PyTorch`, `ONNX` or `ONNX int8`."""
    file: str
    """In the model folder."""
    mib: float
    """The size of its file."""
    metrics: dict[str, float]
    """As the task names them."""
    equal: float | None
    """The share of decisions that are those of PyTorch; None where a task decides nothing, as with numbers."""
    largest_difference: float
    """Of a logit from that of PyTorch."""
    latency_ms: float
    """Of a text alone, the median."""
    examples_per_second: float
    """In batches."""


class Serving(Settings):
    """A trained model before and after it was made cheaper to serve, measured on one machine."""

    at: str
    """When, as ISO 8601 has it."""
    trial: int | None
    """Its number in the search; None where the study does not know the model."""
    metric: str
    """The study's."""
    shown: list[str]
    """The metrics that say most, that one first."""
    rows: int
    """Of the validation split."""
    unit: str
    """What is decided: a row, a word of it, or a label."""
    learned: bool
    """The model learned from the validation split: its scores on it say nothing."""
    reduced_range: bool
    """int8 weights have 7 bits, for processors without VNNI."""
    threads: int
    latency_texts: int
    latency_tokens: int
    """The median of their lengths."""
    batch_size: int
    repeats: int
    processor: str
    versions: dict[str, str]
    models: list[ServedModel]
    """PyTorch first."""
