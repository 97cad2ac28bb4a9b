"""Settings that read well by themselves, but together do nothing in any trial, exclude each other, or tell nothing.

Beside what one setting needs of another one, which is `space_checks.APPLIES_WHEN`.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from hpo.errors import Problem
from hpo.search_spec import ChoiceParameter, Parameter
from hpo.settings import Value
from hpo.tasks import DEFAULT_TASK, TASKS

# Those that do not look at the scores.
EVEN_SAMPLERS = ("random", "grid")


def effect_problems(
    space: Mapping[str, Parameter], defaults: Mapping[str, Value], raw: Mapping[str, Any]
) -> Iterator[Problem]:
    """Every mistake of this kind.

    Args:
        defaults: the untuned default's values.
        raw: the whole study file, as plain data.
    """
    yield from _training_problems(space, defaults, raw.get("finalists"))
    yield from _fraction_problems(space, defaults, raw)
    yield from _distillation_problems(space, defaults, raw)


def _training_problems(
    space: Mapping[str, Parameter], defaults: Mapping[str, Value], finalists: Any
) -> Iterator[Problem]:
    """Settings that would do nothing in any trial, or exclude each other."""
    of_trials, at = partial(_of_trials, space, defaults), partial(_place, space)
    if "mixup" in of_trials("augment_method") and any(of_trials("r_drop_alpha")):
        rule = "r_drop_alpha: compares two passes of the same texts, but augment_method mixup mixes them anew in each"
        yield Problem(at("r_drop_alpha"), rule, "Remove one of them, or make a study of each.")
    if (
        any(of_trials("r_drop_alpha"))
        and (dropouts := of_trials("dropout"))
        and not any(each != 0 for each in dropouts)
    ):
        rule = "r_drop_alpha: compares two passes that differ by dropout, but got dropout=0"
        yield Problem(at("r_drop_alpha"), rule, "Set `training.dropout`, or remove `r_drop_alpha`.")
    name, looks = "early_stopping_patience", defaults.get("num_evaluations")
    patience = [each for each in of_trials(name) if isinstance(each, int | float)]
    if patience and isinstance(looks, int) and max(patience) > looks - 2:
        rule = (
            f"{name}: must be at most num_evaluations - 2, or it ends no trial before its last evaluation, but got "
            f"{max(patience):g} and num_evaluations={looks}"
        )
        yield Problem(at(name), rule, "Lower it, or raise `training.num_evaluations`.")
    if patience and isinstance(finalists, Mapping) and finalists.get("refit") is True:
        rule = f"{name}: `finalists.refit` trains on validation too, whose scores cannot stop a training then"
        yield Problem(at(name), rule, "Remove one of them.")


def _fraction_problems(
    space: Mapping[str, Parameter], defaults: Mapping[str, Value], raw: Mapping[str, Any]
) -> Iterator[Problem]:
    """What would tell nothing of more data, or hide that a trial had less of it than another."""
    name = "train_fraction"
    parameter = space.get(name)
    if parameter is None:
        return
    path, sampler, pruner = f"search_space.{name}", raw.get("sampler"), raw.get("pruner")
    if not isinstance(parameter, ChoiceParameter):
        yield Problem(path, f"{name}: needs several trials of each share, but got a range", "Give it `choices`.")
    if defaults.get(name, 1.0) != 1.0:
        rule = f"{name}: the untuned default learns from all rows, but got training.{name}={defaults[name]}"
        yield Problem(path, rule, "Remove it from `training`.")
    drawn = sampler.get("name", "tpe") if isinstance(sampler, Mapping) else "tpe"
    if drawn not in EVEN_SAMPLERS:
        rule = f"{name}: is to be drawn evenly, but the sampler {drawn} goes where the score is best, to the most rows"
        yield Problem(path, rule, f"Set `sampler: {{name: {EVEN_SAMPLERS[0]}}}`, or {' or '.join(EVEN_SAMPLERS[1:])}.")
    if not isinstance(pruner, Mapping) or pruner.get("name") != "none":
        rule = f"{name}: a pruner would stop the trials with few rows, which have fewer steps at each evaluation"
        yield Problem(path, rule, "Set `pruner: {name: none}`.")


def _distillation_problems(
    space: Mapping[str, Parameter], defaults: Mapping[str, Value], raw: Mapping[str, Any]
) -> Iterator[Problem]:
    """Teachers that nobody learns from, and what is learned from teachers that are not there."""
    alpha, temperature = "distillation_alpha", "distillation_temperature"
    teachers, learned = raw.get("teachers"), any(_of_trials(space, defaults, alpha))
    if learned and not teachers:
        rule = f"{alpha}: learns from `teachers`, but the study has none"
        yield Problem(_place(space, alpha), rule, "Name their model folders: `teachers: [mlruns/STUDY/model]`.")
    if teachers and not learned and alpha in defaults:
        rule = "teachers: nothing is learned from them with distillation_alpha=0"
        yield Problem("teachers", rule, f"Set `training.{alpha}`, such as 0.5, or search it.")
    data = raw.get("data")
    if isinstance(data, Mapping) and data.get("unlabelled") is not None and not teachers:
        rule = "unlabelled: nobody but `teachers` says what such a text is, but the study has none"
        yield Problem("data.unlabelled", rule, "Name their model folders, or remove it.")
    if temperature in space and not learned and alpha in defaults:
        rule = f"{temperature}: does nothing with {alpha}=0"
        yield Problem(_place(space, temperature), rule, f"Set `training.{alpha}`, or search it.")
    task = TASKS.get(raw.get("task", DEFAULT_TASK)) if isinstance(raw.get("task", DEFAULT_TASK), str) else None
    if temperature in space and task and task.labels.numeric:
        rule = f"{temperature}: is of classes, but {raw['task']} has numbers"
        yield Problem(_place(space, temperature), rule, "Remove it.")


def _of_trials(space: Mapping[str, Parameter], defaults: Mapping[str, Value], name: str) -> list[Value]:
    """What trials may have of a setting: choices or bounds, and the default's."""
    searched = space.get(name)
    given: list[Value] = [defaults[name]] if name in defaults else []
    if isinstance(searched, ChoiceParameter):
        return [*searched.choices, *given]
    return given if searched is None else [searched.low, searched.high, *given]


def _place(space: Mapping[str, Parameter], name: str) -> str:
    return f"search_space.{name}" if name in space else f"training.{name}"
