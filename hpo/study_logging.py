"""What MLflow is told of a study, in its words: a description with the answer, its data, and the winner's model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hpo.data.splits import Split, Splits, load_splits
from hpo.plain_text import markdown, markdown_cell, markdown_code
from hpo.report.answers import LOSSES, answer, headline_metric
from hpo.report.tables import View
from hpo.results import Estimate, Finals, Reading
from hpo.search_spec import setting_of
from hpo.spec import StudySpec, TrialConfig
from hpo.study import stored_config
from hpo.tasks import TASKS
from hpo.tracking import Dataset, RunsTable
from hpo.tracking_model import TestScore, Winner
from hpo.trial_logging import datasets, split_fingerprint

# Examples of the winner's input that its registered model shows.
EXAMPLES = 3
# Scores in the description, where a reading has them, after the study's own metric and those that its task shows.
SCORES = ("mcc", "loss")


def study_datasets(spec: StudySpec) -> list[Dataset]:
    """The splits of a study, looked at before its first trial: its files may not be there in the end."""
    return datasets(spec.data, load_splits(spec.task, spec.data, spec.seed), ("train", "validation", "test"))


def study_inputs(found: Sequence[Dataset], finals: Finals | None) -> list[Dataset]:
    """The data that a study read: the test split only if it did."""
    return [each for each in found if each.context != "test" or (finals and finals.readings)]


def runs_table(spec: StudySpec) -> RunsTable:
    """How MLflow's UI is to show a study's trials."""
    shown = (f"eval/{name}" for name in TASKS[spec.task].shown)
    metrics = list(dict.fromkeys([spec.metric, *shown, "eval/loss", "seconds"]))
    settings = list(dict.fromkeys(map(setting_of, spec.search_space)))  # what a trial's run has as its params
    return RunsTable(spec.metric, spec.direction == "maximize", metrics, settings)


def study_note(view: View, page: Path, also: Sequence[str] = ()) -> str:
    """The description of a study's run: what it asks, the answer, the winner beside the default, where to read on.

    Args:
        also: what else there is to say, in sentences.
    """
    said = answer(view)
    asked = markdown(view.spec.about) if view.spec else ""
    parts = [asked, f"**{' '.join(map(markdown_cell, said.headline))}**", " ".join(map(markdown_cell, said.beside))]
    if view.reading:
        parts.append("\n".join(_table(view, view.reading)))
    parts += map(markdown, also)
    parts.append(f"The whole report is {markdown_code(str(page))}, and among this run's artifacts.")
    return "\n\n".join(filter(None, parts))


def _table(view: View, reading: Reading) -> Iterator[str]:
    yield f"| on {reading.rows:,} test rows | winner, trial {reading.winner} | untuned default | difference |"
    yield "|---|---|---|---|"
    for name in dict.fromkeys([headline_metric(view, reading), *view.task.shown, *SCORES]):
        if name in reading.winner_scores:
            difference = reading.differences.get(name)
            gain = f"{_interval(difference, '+')}, p = {difference.p_value:.2g}" if difference else ""
            winner, default = (_interval(of.get(name)) for of in (reading.winner_scores, reading.default_scores))
            yield f"| {markdown_cell(name)} | {winner} | {default} | {gain} |"


def _interval(score: Estimate | None, sign: str = "") -> str:
    """Nothing for a default that could not be trained again."""
    return f"{score.value:{sign}.4f} ({score.low:{sign}.4f} to {score.high:{sign}.4f})" if score else ""


def winner_of(view: View, folder: Path, page: Path) -> Winner:
    """The winner's model as MLflow's registry is to know it; the study has finals.

    Args:
        folder: with its weights.
    """
    spec, finals, reading = view.spec, view.finals, view.reading
    assert spec and finals
    trained = next(trial for trial in view.finalist_trials if trial.number == finals.exported)
    config, splits = stored_config(trained), load_splits(spec.task, spec.data, spec.seed)
    return Winner(
        study=view.name,
        trial=finals.winner,
        run=trained.user_attrs["mlflow_run_id"],
        trained_on="train and validation" if config.train_on_validation else "train",
        folder=folder,
        max_length=config.training.max_length,
        labels=splits.labels,
        examples=_examples(splits.validation),
        task=TASKS[spec.task],
        versions=trained.user_attrs["versions"],
        score=_test_score(view, reading, splits) if reading else None,
        scores={name: score.value for name, score in reading.winner_scores.items()} if reading else {},
        test=datasets(spec.data, splits, ["test"])[0] if reading else None,
        report=page.resolve(),
        description=" ".join([*map(markdown_cell, answer(view).headline), _what_it_is(finals, config)]),
    )


def _examples(split: Split) -> list[dict[str, str]]:
    if split.form == "pair":
        return [dict(zip(("text", "text_pair"), row, strict=True)) for row in split.inputs[:EXAMPLES]]
    return [{"text": text} for text in split.texts[:EXAMPLES]]


def _what_it_is(finals: Finals, config: TrialConfig) -> str:
    """The scores are of a configuration; the model is one training of it."""
    if config.train_on_validation:
        return "This model learned from train and validation together: the scores are of trainings without validation."
    trained = len(finals.chosen.scores + finals.chosen.test_scores)
    if trained == 1:
        return ""
    return f"This model is the one of its {trained} trainings that is best on validation: the scores are of means."


def _test_score(view: View, reading: Reading, splits: Splits) -> TestScore:
    name = headline_metric(view, reading)
    score, data = reading.winner_scores[name], split_fingerprint(splits, "test")
    return TestScore(name, name not in LOSSES, score.value, score.low, score.high, data)
