"""The search space held against the settings it searches: what a study file may declare, checked before any trial.

Works on plain data as far as it can be read, so that these mistakes are shown together with all others.
"""

import difflib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from hpo.effect_checks import APPLIES_WHEN, effect_problems
from hpo.errors import Problem
from hpo.search_spec import ChoiceParameter, Parameter, RangeParameter, setting_of
from hpo.settings import Settings, Value
from hpo.spec import ModelSpec
from hpo.training_spec import TrainingSpec

BUILT_ON = {parent for parent, _ in APPLIES_WHEN.values()}
# `eval_batch_size` changes no result, and `num_evaluations` is the pruner's clock, which must be one for all trials.
NOT_SEARCHED = {
    "eval_batch_size": "it changes no result",
    "num_evaluations": "trials are compared at equal evaluations",
}
# Of the study's whole, which would make its trials incomparable.
APART = {"data": "trials are compared on the same rows", "seed": "the search would choose the luckiest one"}
# Optuna holds all of them in memory, and looks through them before every trial.
MAX_GRID = 100_000
MODEL = "model."
SEARCHABLE = [
    *(name for name in TrainingSpec.model_fields if name not in NOT_SEARCHED),
    *(f"{MODEL}{name}" for name in ModelSpec.model_fields),
]
_parameter: TypeAdapter[Parameter] = TypeAdapter(Parameter)


def is_integer(name: str) -> bool:
    """Whether the setting that a parameter searches is an integer."""
    setting = setting_of(name)
    section: type[Settings] = ModelSpec if setting.startswith(MODEL) else TrainingSpec
    field = section.model_fields.get(setting.removeprefix(MODEL))
    # `Annotated[int, ...] | None` is one too.
    options = [get_args(option)[0] if get_origin(option) is Annotated else option for option in _options(field)]
    return int in options and float not in options


def _options(field: FieldInfo | None) -> tuple[Any, ...]:
    """The types of a setting, if it may be of several."""
    return () if field is None else get_args(field.annotation) or (field.annotation,)


def grid_values(name: str, parameter: Parameter) -> list[Value] | None:
    """Every value a parameter can take, or None where there is a continuum of them."""
    if isinstance(parameter, ChoiceParameter):
        return parameter.choices
    step, count = _step(name, parameter), _grid_size(name, parameter)
    if step is None or count is None:
        return None
    # 0.0 + 3 * 0.1 is above 0.3, and Optuna warns of every value above `high`.
    return [min(parameter.low + index * step, parameter.high) for index in range(count)]


def _grid_size(name: str, parameter: Parameter) -> int | None:
    """How many values a parameter can take, without making them; None where there is a continuum."""
    if isinstance(parameter, ChoiceParameter):
        return len(parameter.choices)
    step = _step(name, parameter)
    return None if step is None else 1 + round(_steps(parameter.low, parameter.high, step))


def _step(name: str, parameter: RangeParameter) -> int | float | None:
    return parameter.step or (1 if is_integer(name) else None)


def _steps(low: float, high: float, step: float) -> Fraction:
    """Exact: of floats it may be more than a float can hold."""
    return (Fraction(high) - Fraction(low)) / Fraction(step)


def is_active(parameter: Parameter, values: Mapping[str, Value]) -> bool:
    """Whether a parameter is searched beside these values of the others (its `when`)."""
    return all(name in values and _among(values[name], allowed) for name, allowed in parameter.when.items())


def did_you_mean(given: str, options: Sequence[str]) -> str:
    """The way out of a name that is none of `options`: the ones that it begins, the closest one, or all."""
    begun = [option for option in options if given and option.startswith(given)]
    close = begun or difflib.get_close_matches(given, options, n=1)
    return f"Did you mean `{close[0]}`?" if close else f"Choose one of {', '.join(options)}."


def search_space_problems(raw: Mapping[str, Any]) -> list[Problem]:
    """Every mistake in how `search_space` fits `training`, `model` and `sampler`; parts that cannot be read are left
    to the errors of their own section."""
    declared = raw.get("search_space")
    if not isinstance(declared, Mapping):
        return []
    space: dict[str, Parameter] = {}
    for name, value in declared.items():
        if not isinstance(name, str):
            continue
        try:
            space[name] = _parameter.validate_python(value)
        except ValidationError:
            continue
    defaults = _defaults(raw)
    drawn: dict[str, Value] = {}  # the default as a point of the space: `when` sees only what is active itself
    problems = []
    for name, parameter in space.items():
        path = f"search_space.{name}"
        found = (
            list(_name_problems(name))
            or list(_label_problems(name, space))
            or [
                *_value_problems(name, parameter),
                *_when_problems(name, parameter, space, list(declared)),
                *_no_op_problems(name, parameter, space, list(declared), defaults),
            ]
        )
        setting = setting_of(name)
        if not found and setting in defaults and is_active(parameter, drawn):
            drawn[name] = defaults[setting]
            found = list(_default_problems(setting, parameter, defaults[setting]))
        problems += [Problem(path, f"{name}: {rule}", way_out) for rule, way_out in found]
    problems += effect_problems(space, defaults, raw)
    sampler = raw.get("sampler")
    if isinstance(sampler, Mapping) and sampler.get("name") == "grid":
        problems += _grid_problems(space)
    return problems


Finding = tuple[str, str]


def _defaults(raw: Mapping[str, Any]) -> dict[str, Value]:
    """The untuned default's value of everything that can be searched, as far as its section can be read."""
    training, model = _readable(TrainingSpec, raw.get("training")), _readable(ModelSpec, raw.get("model"))
    return training | {f"{MODEL}{name}": value for name, value in model.items()}


def _readable(section: type[Settings], given: Any) -> dict[str, Value]:
    """The settings of a section that are right, whatever is wrong with the others."""
    try:
        return section.model_validate({} if given is None else given).model_dump()
    except ValidationError as error:
        if not isinstance(given, Mapping):
            return {}
        wrong = {details["loc"][0]: details["type"] for details in error.errors()}
        misspelt = "extra_forbidden" in wrong.values()  # then what is absent may have been meant by it
        made = section.model_construct(**{name: value for name, value in given.items() if name in section.model_fields})
        settings = made.model_dump(warnings=False, exclude_unset=misspelt)
        return {name: value for name, value in settings.items() if name not in wrong}


def _name_problems(name: str) -> Iterator[Finding]:
    name = setting_of(name)
    if name in NOT_SEARCHED:
        yield f"cannot be searched: {NOT_SEARCHED[name]}", "Set it in `training`."
    elif name.partition(".")[0] in APART:
        yield f"cannot be searched: {APART[name.partition('.')[0]]}", "Make a study of each."
    elif name not in SEARCHABLE:
        yield "a searched parameter must be a setting of a trial", did_you_mean(name, SEARCHABLE)


def _label_problems(name: str, space: Mapping[str, Parameter]) -> Iterator[Finding]:
    """Several ranges of one setting must be told apart, and no trial may draw two of them."""
    setting, marked, label = name.partition("@")
    if marked and not re.fullmatch(r"[A-Za-z0-9_-]+", label):
        yield (
            f"a label behind the @ is made of letters, digits, _ and -, but got `{label}`",
            f"Write for instance `{setting}@lora`.",
        )
    if marked and (setting.startswith(MODEL) or setting in BUILT_ON or setting == "train_fraction"):
        yield (
            "only a setting that no other one builds on may have several ranges",
            f"Search `{setting}` under its own name.",
        )
    needed = _needed(space)
    for other in itertools.takewhile(lambda other: other != name, space):
        if setting_of(other) == setting and not _exclude_each_other(needed[other], needed[name]):
            yield (
                f"no trial may draw it twice, but nothing says that `{other}` and `{name}` exclude each other",
                "Give both a `when` with other values of the same parameter.",
            )


def _exclude_each_other(one: Mapping[str, list[Value]], other: Mapping[str, list[Value]]) -> bool:
    """Whether some parameter would need two values at once."""
    return any(not any(_among(value, other[name]) for value in values) for name, values in one.items() if name in other)


def _value_problems(name: str, parameter: Parameter) -> Iterator[Finding]:
    """Each bound or choice must be a value that the setting itself allows."""
    if isinstance(parameter, ChoiceParameter):
        candidates = [("choices", value) for value in parameter.choices]
    else:
        candidates = [("low", parameter.low), ("high", parameter.high)]
        if is_integer(name) and parameter.step is not None:
            candidates.append(("step", parameter.step))
    of_model = name.startswith(MODEL)
    section: type[Settings] = ModelSpec if of_model else TrainingSpec
    others = {"name": "any"} if of_model else {}
    for key, value in candidates:
        try:
            section.model_validate(others | {setting_of(name).removeprefix(MODEL): value})
        except ValidationError as error:
            details = error.errors()[0]
            message = re.sub(r"^.*? should ", "", details["msg"])
            options = re.findall(r"'([^']+)'", message) if details["type"] == "literal_error" else []
            way_out = did_you_mean(str(value), options) if options else "Change it."
            yield f"{key} must {message}, but got {value!r}", way_out


def _when_problems(
    name: str, parameter: Parameter, space: Mapping[str, Parameter], order: list[str]
) -> Iterator[Finding]:
    for parent, values in parameter.when.items():
        if parent not in order:
            yield (
                f"`when` must name a searched parameter, but got `{parent}`",
                "Search that too, or remove `when`.",
            )
        elif order.index(parent) >= order.index(name):
            yield f"`when` must name a parameter declared before, but got `{parent}`", "Move it above."
        elif isinstance(searched := space.get(parent), ChoiceParameter):
            for value in values:
                if not _among(value, searched.choices):
                    yield (
                        f"`when` must use choices of `{parent}`, but got {value!r}",
                        f"Choose from {searched.choices}.",
                    )
        elif parent in space:
            yield (
                f"`when` must name a parameter with `choices`, but `{parent}` is a range",
                "Give it choices.",
            )
    if any(not values for values in _needed(space)[name].values()):
        yield (
            "must be searched in some trials, but its `when` and those it builds on exclude each other",
            "Widen one.",
        )


def _needed(space: Mapping[str, Parameter]) -> dict[str, dict[str, list[Value]]]:
    """The values that others must have for each parameter to be searched, by its `when` and by those it builds on."""
    needed: dict[str, dict[str, list[Value]]] = {}
    for name, parameter in space.items():
        if setting_of(name) not in SEARCHABLE:
            continue
        mine: dict[str, list[Value]] = {}
        for parent, values in parameter.when.items():
            for other, allowed in [(parent, values), *needed.get(parent, {}).items()]:
                mine[other] = [value for value in mine.get(other, allowed) if _among(value, allowed)]
        needed[name] = mine
    return needed


def _no_op_problems(
    name: str,
    parameter: Parameter,
    space: Mapping[str, Parameter],
    order: list[str],
    defaults: Mapping[str, Value],
) -> Iterator[Finding]:
    if setting_of(name) not in APPLIES_WHEN:
        return
    parent, needed = APPLIES_WHEN[setting_of(name)]
    listed = ", ".join(str(value) for value in needed)
    if parent in order:
        searched = space.get(parent)
        choices = searched.choices if isinstance(searched, ChoiceParameter) else []
        given = [value for value in parameter.when.get(parent, choices) if _among(value, choices)]
        if not all(_among(value, list(needed)) for value in given):
            yield (
                f"only {parent}={listed} has it, but it is searched beside others too",
                (f"Add `when: {{{parent}: [{listed}]}}`."),
            )
    elif parent in defaults and defaults[parent] not in needed:
        yield (
            f"only {parent}={listed} has it, but got {parent}={defaults[parent]}",
            f"Set `training.{parent}`.",
        )


def _default_problems(name: str, parameter: Parameter, value: Value) -> Iterator[Finding]:
    """Trial 0 is the untuned default, and the sampler can learn from it only if it lies in the space."""
    setting = name if "." in name else f"training.{name}"
    if isinstance(parameter, ChoiceParameter):
        if not _among(value, parameter.choices):
            yield (
                f"the default must be among the choices, but got {setting}={value!r}",
                f"Add it to {parameter.choices}, or set another default.",
            )
        return
    inside = on_step = isinstance(value, int | float) and parameter.low <= value <= parameter.high
    if isinstance(value, int | float) and parameter.step:
        steps_up = _steps(parameter.low, value, parameter.step)
        on_step = abs(steps_up - round(steps_up)) < 1e-6
    if not inside or not on_step:
        steps = f" in steps of {parameter.step}" if parameter.step else ""
        yield (
            f"the default must lie in {parameter.low}..{parameter.high}{steps}, but got {setting}={value!r}",
            "Widen the range, or set another default.",
        )


def _grid_problems(space: Mapping[str, Parameter]) -> Iterator[Problem]:
    for name, parameter in space.items():
        path = f"search_space.{name}"
        if _grid_size(name, parameter) is None:
            rule = f"{name}: the grid sampler needs a finite list of values, but got a continuous range"
            yield Problem(path, rule, "Give it `choices` or a `step`, or choose another sampler.")
        if parameter.when:
            rule = f"{name}: the grid sampler searches every combination, but got a parameter with `when`"
            yield Problem(path, rule, "Remove `when`, or choose another sampler.")
    points = math.prod(_grid_size(name, parameter) or 1 for name, parameter in space.items())
    if points > MAX_GRID:
        rule = f"the grid sampler takes at most {MAX_GRID:,} combinations, but got more"
        yield Problem("search_space", rule, "Narrow the ranges, raise their `step`, or choose another sampler.")


def _among(value: Value, choices: list[Value]) -> bool:
    """Membership that does not take True for 1."""
    return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices)
