"""`best.yaml`: the whole configuration of a trial, what it ran on, what it scored, and where it came from."""

import os
from pathlib import Path

import optuna
import yaml
from optuna.trial import FrozenTrial
from pydantic import Field, ValidationError

from hpo.attempts import finalist_of
from hpo.errors import Problem, SpecError
from hpo.output import FINALISTS, write_atomically
from hpo.plain_text import shell_word
from hpo.plain_yaml import read_yaml
from hpo.results import Claim
from hpo.settings import Settings
from hpo.spec import TrialConfig
from hpo.study import best_first, stored_config, stored_spec
from hpo.tasks import TASKS

HEADER = """\
# {what} of the study `{study}`. It runs again, to the same validation score, with
#   python -m hpo.train --config {path}
# which also saves a model folder for transformers.pipeline("{pipeline}", model=FOLDER).
# {caveat}
"""
BEST_YAML = "best.yaml"
BEST, WINNER = "The best trial", "The winner"
SEARCHED = "The score is the best of {n} complete trials on the validation split that chose it: an optimistic number."
FRESH = "Of its fresh seeds this one is the best on validation; what to expect of it stands under `claim`."
REFIT = "It learned from train and validation, so its score says nothing; what to expect of it stands under `claim`."


class Exported(Settings):
    """A configuration with its proofs, as `best.yaml` holds it."""

    study: str
    """The study that found it."""
    fallback_for: str | None
    """The study that this one stood in for, because the Hub could not be reached."""
    trial: int
    """The trial's number in the study."""
    score: float
    """Of `metric` on validation, at the last evaluation."""
    metrics: dict[str, float]
    """All scores at the last evaluation."""
    config: TrialConfig
    """Everything that `hpo.train` needs."""
    labels: list[str] = Field(strict=False)
    """The classes in the order of their ids."""
    rows: dict[str, int]
    """Rows of each split."""
    data_fingerprint: str
    """Of the texts and labels of all splits."""
    model_fingerprint: str
    """Of the weights that training started from."""
    machine: dict[str, str]
    """The device and its precision: another one rounds differently."""
    versions: dict[str, str]
    """Of Python and the packages that computed it."""
    git_commit: str | None
    """Of the code that ran the trial."""
    mlflow_run_id: str
    """The trial's run; `hpo.key=...` while the server was away: the run has that tag."""
    claim: Claim | None = None
    """What its finalists say of it, if they were trained."""


def export_trial(study: optuna.Study, trial: FrozenTrial, path: Path, claim: Claim | None = None) -> Exported:
    """Writes the configuration of a trial, of a search or of its finalists, to `path`, whole or not at all."""
    spec, data, result = stored_spec(study), study.user_attrs["data"], trial.user_attrs["result"]
    config, run = exported_config(trial), trial.user_attrs["mlflow_run_id"]
    exported = Exported(
        study=study.study_name.removesuffix(FINALISTS),
        fallback_for=spec.fallback_for,
        trial=trial.number if (searched := finalist_of(trial)) is None else searched,
        score=result["metrics"][spec.metric],
        metrics=result["metrics"],
        config=config,
        labels=data["labels"],
        rows=data["rows"],
        data_fingerprint=data["fingerprint"],
        model_fingerprint=trial.user_attrs["model_fingerprint"],
        machine=trial.user_attrs["machine"],
        versions=trial.user_attrs["versions"],
        git_commit=trial.user_attrs["git_commit"],
        mlflow_run_id=study.user_attrs.get("mlflow_run_ids", {}).get(run, run),
        claim=claim,
    )
    complete = len(best_first(study.direction, study.get_trials(deepcopy=False)))
    what, caveat = BEST, SEARCHED.format(n=complete)
    if claim:
        what, caveat = WINNER, REFIT if config.train_on_validation else FRESH
    text = HEADER.format(
        what=what,
        study=exported.study,
        path=shell_word(str(path)),
        pipeline=TASKS[config.task].pipeline,
        caveat=caveat,
    )
    text += yaml.safe_dump(exported.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    return exported


def exported_config(trial: FrozenTrial) -> TrialConfig:
    """Everything that gives a trial's model again, with the commit of a model of the Hub."""
    config = stored_config(trial)
    return config.model_copy(update={"model": config.model.pinned(trial.user_attrs["model_fingerprint"])})


def read_exported(path: Path) -> Exported:
    """Reads a `best.yaml`. Raises `SpecError` if it is none."""
    if not os.path.isfile(path):
        there = sorted(map(str, path.parent.parent.glob("*/best.yaml")))
        way_out = f"There is {', '.join(there)}." if there else "Run a study first, or check the path."
        rule = "an exported configuration must be a file that is there"
        raise SpecError(str(path), [Problem("--config", rule, way_out)])
    raw = read_yaml(path)
    try:
        return Exported.model_validate(raw)
    except ValidationError as error:
        problems = [
            Problem(".".join(map(str, details["loc"])) or "the file", details["msg"], "Use the file as it was written.")
            for details in error.errors()
        ]
        raise SpecError(str(path), problems) from error
