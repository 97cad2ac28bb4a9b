"""Settings that read well by themselves, but together do nothing in any trial, exclude each other, or tell nothing."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from hpo.errors import Problem
from hpo.search_spec import ChoiceParameter, Parameter, setting_of
from hpo.settings import Value
from hpo.tasks import DEFAULT_TASK, TASKS
from hpo.training_spec import AUGMENT_METHODS, TrainingSpec

# Settings that do something only beside certain values of another one.
APPLIES_WHEN: dict[str, tuple[str, tuple[Value, ...]]] = {
    "momentum": ("optimizer", ("sgd", "muon")),
    "adam_beta1": ("optimizer", ("adamw", "adam", "muon")),
    "adam_beta2": ("optimizer", ("adamw", "adam", "muon")),
    "adam_epsilon": ("optimizer", ("adamw", "adam", "muon")),
    "num_trained_layers": ("method", ("last_layers",)),
    "layer_lr_decay": ("method", ("full", "last_layers", "lora")),  # a head alone has no layers
    "lora_rank": ("method", ("lora",)),
    "lora_alpha": ("method", ("lora",)),
    "lora_dropout": ("method", ("lora",)),
    "lora_target_modules": ("method", ("lora",)),
    "augment_probability": ("augment_method", tuple(name for name in AUGMENT_METHODS if name != "none")),
}
OF_CLASSES = ("label_smoothing", "class_weights", "distillation_temperature")
"""Settings that numbers have no use for."""
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
    yield from _number_problems(space, raw)
    yield from _idle_problems(space, defaults)


def _training_problems(
    space: Mapping[str, Parameter], defaults: Mapping[str, Value], finalists: Any
) -> Iterator[Problem]:
    """Settings that would do nothing in any trial, or exclude each other."""
    of_trials, at = partial(_of_trials, space, defaults), partial(_place, space)
    if "mixup" in of_trials("augment_method") and any(of_trials("r_drop_alpha")) and _meets_mixup(space, defaults):
        rule = "r_drop_alpha: compares two passes of the same texts, but augment_method mixup mixes them anew in each"
        yield Problem(at("r_drop_alpha"), rule, "Remove one of them, or make a study of each.")
    if (
        any(of_trials("r_drop_alpha"))
        and (dropouts := of_trials("dropout"))
        and not any(each != 0 for each in dropouts)
        and not ("lora" in of_trials("method") and any(of_trials("lora_dropout")))  # two passes differ by that too
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


def _meets_mixup(space: Mapping[str, Parameter], defaults: Mapping[str, Value]) -> bool:
    """Whether some trial may have R-Drop and mixup both: not where R-Drop is searched beside other methods alone."""
    searched = space.get("r_drop_alpha")
    beside = (searched.when or {}).get("augment_method") if searched else None
    return beside is None or "mixup" in beside or bool(defaults.get("r_drop_alpha"))


def _number_problems(space: Mapping[str, Parameter], raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Settings of classes, where the task has numbers."""
    name = raw.get("task", DEFAULT_TASK)
    task = TASKS.get(name) if isinstance(name, str) else None
    given = raw.get("training")
    if task is None or not task.labels.numeric:
        return
    for setting in OF_CLASSES:
        searched = [each for each in space if setting_of(each) == setting]
        fixed = isinstance(given, Mapping) and given.get(setting)
        for place in [*(f"search_space.{each}" for each in searched), *[f"training.{setting}"] * bool(fixed)]:
            yield Problem(place, f"{setting}: is of classes, but {name} has numbers", "Remove it.")


def _idle_problems(space: Mapping[str, Parameter], defaults: Mapping[str, Value]) -> Iterator[Problem]:
    """What `training` sets for another value of a setting than the trials have."""
    for name, (parent, needed) in APPLIES_WHEN.items():
        usual = TrainingSpec.model_fields[name].default
        if defaults.get(name, usual) == usual or parent not in defaults:
            continue
        if not set(_of_trials(space, defaults, parent)) & set(needed):
            listed = " or ".join(map(str, needed))
            rule = f"{name}: only {parent}={listed} has it, but got {parent}={defaults[parent]}"
            yield Problem(f"training.{name}", rule, f"Set `training.{parent}`, or remove it.")


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


def _of_trials(space: Mapping[str, Parameter], defaults: Mapping[str, Value], name: str) -> list[Value]:
    """What trials may have of a setting: choices or bounds, and the default's."""
    searched = space.get(name)
    given: list[Value] = [defaults[name]] if name in defaults else []
    if isinstance(searched, ChoiceParameter):
        return [*searched.choices, *given]
    return given if searched is None else [searched.low, searched.high, *given]


def _place(space: Mapping[str, Parameter], name: str) -> str:
    return f"search_space.{name}" if name in space else f"training.{name}"
