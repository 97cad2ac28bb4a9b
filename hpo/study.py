"""The study in Optuna's storage: opening and resuming it, what is left to run, and which trial leads.

The budget is counted here and nowhere else, from the states of trials in storage.
"""

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from hpo import space
from hpo.attempts import contest_of, is_retried, is_superseded, requeue, unqueued_trials
from hpo.errors import StorageError
from hpo.lease import OWNER, is_alive
from hpo.output import FINALISTS
from hpo.results import Finals, Serving
from hpo.search import build_pruner
from hpo.search_spec import GridSampler
from hpo.spec import StudySpec, TrialConfig
from hpo.storage import study_names

# Trials are comparable only while these stand. `n_trials`, `timeout`, sampler and pruner may change on the way.
COMPARABLE = ("task", "metric", "seed", "data", "model", "teachers", "training", "search_space")
# What a trial took, in its stored result.
COSTS = (
    *("optimizer_steps", "total_steps"),
    *("seconds", "training_seconds", "evaluation_seconds", "cpu_seconds", "gpu_seconds"),
    *("examples_per_second", "peak_memory_mib", "trained_parameters"),
)
# The parameter by which some trials learn from fewer rows than others.
TRAIN_FRACTION = "train_fraction"
# The attribute of a search that holds its `Finals`.
FINALS = "finals"
# And of one whose model was exported to be served: its `Serving`.
SERVING = "serving"
ABSENT = object()


def load_study(storage: BaseStorage, name: str) -> optuna.Study:
    """The study of that name. Raises `StorageError` with those there are."""
    names = study_names(storage)
    if name not in names:
        known = f"There are: {', '.join(names)}." if names else "There is none yet: run `python -m hpo.run` first."
        raise StorageError(f"a study must have been run before, but got `{name}`. {known}")
    return optuna.load_study(study_name=name, storage=storage)


def stored_finals(attributes: Mapping[str, Any]) -> Finals | None:
    """What the finalists came to, of a study with these attributes; None where they are not trained, or not all."""
    stored = attributes.get(FINALS)
    return None if stored is None else Finals.model_validate_json(json.dumps(stored))


def store_finals(search: optuna.Study, finals: Finals) -> None:
    """Keeps it with the search."""
    search.set_user_attr(FINALS, finals.model_dump(mode="json"))


def stored_serving(attributes: Mapping[str, Any]) -> Serving | None:
    """How a model of a study with these attributes is served; None where that was not measured."""
    stored = attributes.get(SERVING)
    return None if stored is None else Serving.model_validate_json(json.dumps(stored))


def store_serving(search: optuna.Study, serving: Serving) -> None:
    """Keeps it with the search."""
    search.set_user_attr(SERVING, serving.model_dump(mode="json"))


def standing_finals(search: optuna.Study, spec: StudySpec) -> Finals | None:
    """What the finalists of a search came to, if the spec asks for no others."""
    asked, finals = spec.finalists, stored_finals(search.user_attrs)
    if asked is None or finals is None or not has_finalists(search):
        return None
    known = finals.asked_trials, finals.asked_seeds, finals.asked_test_seeds, finals.asked_timeout
    stands = known == (asked.n_trials, asked.n_seeds, asked.n_test_seeds, asked.timeout)
    return finals if stands and finals.ended_trials == len(ended_trials(search)) else None


def finalist_trials(search: optuna.Study) -> list[FrozenTrial]:
    """The trainings of a search's finalists, as far as they were begun; none where it has no finalists."""
    if not has_finalists(search):
        return []
    trials = finalists_study(search).get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state != TrialState.WAITING and not is_superseded(trial)]


def has_finalists(search: optuna.Study) -> bool:
    """Whether the finalists of a search have a study, as far as they were queued."""
    return f"{search.study_name}{FINALISTS}" in study_names(search._storage)


def finalists_study(search: optuna.Study) -> optuna.Study:
    """The study of a search's finalists, which it has if it has any."""
    return load_study(search._storage, f"{search.study_name}{FINALISTS}")


def stored_spec(study: optuna.Study) -> StudySpec:
    """The study file that a study was last run with."""
    return StudySpec.model_validate_json(json.dumps(study.user_attrs["spec"]))


def known_spec(study: optuna.Study) -> StudySpec | None:
    """The same; None of another tool's study, or of one that another version of this program has run."""
    try:
        return stored_spec(study)
    except (KeyError, ValidationError):
        return None


def stored_config(trial: FrozenTrial) -> TrialConfig:
    """The configuration of a trial, which it has as soon as it has a run in MLflow."""
    return TrialConfig.model_validate_json(json.dumps(trial.user_attrs["config"]))


def open_study(spec: StudySpec, storage: BaseStorage) -> optuna.Study:
    """Creates the study with the untuned default queued as trial 0, or continues the one of that name.

    Raises:
        StorageError: the stored study differs in what makes trials comparable, and has trials that ended or may run.
    """
    attributes: dict[str, Any] = {}
    if spec.name in study_names(storage):
        stored = load_study(storage, spec.name)
        if differences := _incomparable(spec, stored):
            if ended_trials(stored) or any(map(_may_run, running_trials(stored))):
                raise _refusal(spec.name, differences)
            # Nothing to be compared with, but the queued default, and perhaps the direction, are of the old spec.
            attributes = stored.user_attrs
            optuna.delete_study(study_name=spec.name, storage=storage)
    study = optuna.create_study(study_name=spec.name, storage=storage, direction=spec.direction, load_if_exists=True)
    for name, value in attributes.items():  # such as the MLflow run that the study has already
        study.set_user_attr(name, value)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(space.default_params(spec))
    study.set_user_attr("spec", spec.model_dump(mode="json"))
    name_metric(study, spec)
    study.pruner = build_pruner(spec)
    return study


def name_metric(study: optuna.Study, spec: StudySpec) -> None:
    """So that Optuna's dashboard shows its name; without one it is `Objective 0`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # as of Optuna 3.2 to 5
        study.set_metric_names([spec.metric])


def pinned(spec: StudySpec, storage: BaseStorage) -> StudySpec:
    """The spec with the Hub's commit that the study of that name began with, for `main` moves on.

    Nothing is pinned where the spec names a revision, or where several models are searched.
    """
    if spec.model.revision or len(spec.models) > 1 or spec.name not in study_names(storage):
        return spec
    stored = load_study(storage, spec.name)
    fingerprint = stored.user_attrs.get("models", {}).get(spec.model.name, "")
    return spec.model_copy(update={"model": spec.model.pinned(fingerprint)}) if ended_trials(stored) else spec


def set_aside(storage: BaseStorage, names: Sequence[str]) -> str:
    """`--fresh`: keeps a study, and that of its finalists, under a dated name, so that nothing is lost. Returns it.

    Args:
        names: the study's, then what begins with it.
    """
    kept = f"{names[0]}-until-{datetime.now():%Y%m%d-%H%M%S}"
    for name in names:
        to = kept + name.removeprefix(names[0])
        optuna.copy_study(from_study_name=name, from_storage=storage, to_study_name=to, to_storage=storage)
    # Whoever is killed here must not leave finalists behind that a new study of the name would take for its own.
    for name in reversed(names):
        optuna.delete_study(study_name=name, storage=storage)
    study = load_study(storage, kept)
    if call := study.user_attrs.get("call"):
        study.set_user_attr("call", [*call, "--set", f"name={kept}"])
    return kept


def require_unchanged(study: optuna.Study, data: str, models: Mapping[str, str]) -> None:
    """Holds fingerprints of the data, and of models by name, against those that the study's trials have seen.

    Raises:
        StorageError: the files are others than at the first trial.
    """
    known = {"data": study.user_attrs.get("data", {}).get("fingerprint", data)}
    known |= {f"model `{name}`": found for name, found in study.user_attrs.get("models", {}).items()}
    now = {"data": data, **{f"model `{name}`": found for name, found in models.items()}}
    for what, found in now.items():
        if found != known.get(what, found):
            raise StorageError(
                f"the {what} of the study `{study.study_name}` changed since its first trials, which makes them "
                f"incomparable: the fingerprint was {known[what][:20]}, is {found[:20]}. Restore the files, start over "
                f"with --fresh (the old study is kept), or use another name: --set name={study.study_name}-2."
            )


def total_trials(spec: StudySpec) -> int:
    """The trials wanted; a grid has no more than its points and the default."""
    if isinstance(spec.sampler, GridSampler):
        return min(spec.n_trials, 1 + math.prod(map(len, space.grid(spec).values())))
    return spec.n_trials


def remaining_trials(study: optuna.Study, spec: StudySpec) -> int:
    """How many trials are still to end: the total less those that did, retried ones not counted."""
    return remaining_of(study.get_trials(deepcopy=False), spec)


def remaining_of(trials: Iterable[FrozenTrial], spec: StudySpec) -> int:
    """The same, of a study's trials that were read already."""
    return max(0, total_trials(spec) - sum(map(_ended, trials)))


def claimable_trials(study: optuna.Study, spec: StudySpec) -> int:
    """How many trials are still to start: the total less those that ended or run anywhere, looked at in one moment."""
    return max(0, total_trials(spec) - next_position(study))


def running_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that run, or whose end nobody could tell."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that came to an end of their own. One that is tried again counts for nothing."""
    return [trial for trial in study.get_trials(deepcopy=False) if _ended(trial)]


def next_position(study: optuna.Study) -> int:
    """How many trials the study has had, retried ones left out: the seed of the sampler follows it."""
    trials = study.get_trials(deepcopy=False)
    return sum(trial.state == TrialState.RUNNING or _ended(trial) for trial in trials)


def settled_position(study: optuna.Study) -> int:
    """The same, once every trial that has ended early is queued again: drawn anew, its point would be trained twice.

    Another process may end one at any moment. If there is none after it was counted, there was none while it was.
    """
    while True:
        position = next_position(study)
        if not unqueued_trials(study):
            return position
        requeue(study)


def _ended(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and not is_retried(trial)


def is_best(study: optuna.Study, trial: optuna.Trial | FrozenTrial, score: float) -> bool:
    """Whether a trial is better than every complete one that it competes with."""
    if not learns_from_all(trial):
        return False
    own = rank(study.direction, score, trial.number)
    return all(own < rank(study.direction, other.value or 0.0, other.number) for other in rivals(study, trial)[:1])


def rivals(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> list[FrozenTrial]:
    """The complete trials it competes with, best first: all of a search, of a finalist those on its other seeds."""
    complete = best_first(study.direction, study.get_trials(deepcopy=False))
    return [other for other in complete if contest_of(other) == contest_of(trial)]


def best_first(direction: StudyDirection, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The complete ones of which a score is known; of equal ones the first trial is better, as for Optuna.

    Where a study looks at what more data would bring, only those with all of it: the others are not for comparison.
    """
    complete = [
        (rank(direction, trial.value, trial.number), trial)
        for trial in trials
        if trial.state == TrialState.COMPLETE
        and trial.value is not None
        and math.isfinite(trial.value)
        and learns_from_all(trial)
    ]
    return [trial for _, trial in sorted(complete, key=lambda ranked: ranked[0])]


def learns_from_all(trial: optuna.Trial | FrozenTrial) -> bool:
    """Whether a trial drew no share of the train split, or all of it."""
    return bool(trial.params.get(TRAIN_FRACTION, 1.0) == 1.0)


def rank(direction: StudyDirection, score: float, number: int) -> tuple[float, int]:
    """The lower, the better; of equal scores the first trial's is, as for Optuna."""
    return (score if direction == StudyDirection.MINIMIZE else -score, number)


def _may_run(trial: FrozenTrial) -> bool:
    """Whether somebody may be at a trial, as far as this machine can tell."""
    return OWNER in trial.user_attrs and is_alive(trial) is not False


def _incomparable(spec: StudySpec, study: optuna.Study) -> list[str]:
    """One line for every setting that makes new trials incomparable with the stored ones."""
    if "spec" not in study.user_attrs:  # its driver died right after creating it
        return []
    known = known_spec(study)  # a setting that the study is older than has its default, which its trials did
    stored = _comparable(known.model_dump(mode="json") if known else study.user_attrs["spec"])
    wanted = _comparable(spec.model_dump(mode="json"))
    return [line for key in COMPARABLE for line in _differences(key, stored[key], wanted[key])]


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: settings.get(key) for key in COMPARABLE}
    training = {name: value for name, value in (kept["training"] or {}).items() if name != "eval_batch_size"}
    return kept | {"training": training}  # without what changes no result


def _refusal(name: str, differences: list[str]) -> StorageError:
    changed = "\n".join(differences)
    return StorageError(
        f"the study `{name}` has trials of another kind; these settings make them incomparable:\n"
        f"{changed}\nUndo the change, start over with --fresh (the old study is kept under a dated name), "
        f"or use another name: --set name={name}-2."
    )


def _differences(path: str, old: Any, new: Any) -> Iterator[str]:
    """One line for every leaf that differs. A key that is absent says as much as one that is null."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                yield from _differences(f"{path}.{key}", old.get(key, ABSENT), new.get(key, ABSENT))
    elif old != new:
        yield f"  {path}: was {_shown(old)}, is {_shown(new)}"


def _shown(value: Any) -> str:
    return "not there" if value is ABSENT else json.dumps(value)
