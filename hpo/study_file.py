"""From a YAML file and `--set` to a `StudySpec`, or to every mistake in it at once.

Three kinds of check, all run before anything is shown: YAML itself, each section against `spec.py`, and the search
space against the settings that it searches.
"""

import copy
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hpo.data.augment import AUGMENTATIONS
from hpo.errors import Problem, SpecError
from hpo.output import is_taken
from hpo.plain_yaml import MAX_DEPTH, parse_yaml, read_yaml
from hpo.settings import Settings
from hpo.space_checks import did_you_mean, search_space_problems
from hpo.spec import METRICS, FallbackSpec, StudySpec
from hpo.tasks import DEFAULT_TASK, TASKS

STUDIES = Path("studies")
# With room for what is put behind it, within the pattern of `StudySpec.name`: its fallback's suffix, its finalists'.
MAX_NAME = 80
FALLBACK_SUFFIX = "-fallback"
# Augmentations that do not keep a word's label with it. Mixup is none of the registry: it mixes what the model sees.
WORDS_APART = ["mixup", *(name for name, kind in AUGMENTATIONS.items() if not kind.keeps_words)]
# What a fallback has of its own: overrides of these hold for the study, those of all others for its stand-in as well.
OWN_SECTIONS = ("data", "model")


def study_path(name_or_path: str, folder: Path = STUDIES) -> Path:
    """`sst2` is `studies/sst2.yaml`; what ends in .yaml or .yml, or has a slash, is a path."""
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        if os.path.isfile(path):  # Path's own raises for a name that no disk takes
            return path
        raise SpecError(str(path), [Problem("--study", "a study file must exist", "Check the path.")])
    if os.path.isfile(folder / f"{name_or_path}.yaml"):
        return folder / f"{name_or_path}.yaml"
    known = sorted(entry.stem for entry in folder.glob("*.yaml"))
    there = f"Choose one of {', '.join(known)}" if known else "There is none here; run from the project's folder"
    rule = f"a study must be one of the files in {folder}/, but got `{name_or_path}`"
    raise SpecError("--study", [Problem(str(folder), rule, f"{there}, or give a path to a .yaml file.")])


def read_study(path: Path, overrides: Sequence[str] = (), *, fallback: bool = False) -> StudySpec:
    """The study of a file, with `path=value` overrides; with `fallback`, the study that stands in for it.

    Raises:
        SpecError: with every mistake of the file, those of its fallback included.
    """
    file = str(path)
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        given = "an empty file" if raw is None else f"a {type(raw).__name__}"
        rule = f"a study must be a mapping of settings, but got {given}"
        raise SpecError(file, [Problem("the file", rule, "Start from one in studies/.")])
    raw.setdefault("name", path.stem)
    settled = override(raw, overrides)
    spec, problems = _validate(settled)
    stand_in_spec, stand_in = None, settled.get("fallback")
    if isinstance(stand_in, dict) and stand_in:
        stand_in_spec, more = _validate(_stand_in(raw, stand_in, overrides, str(settled["name"])))
        if not fallback:  # what is set for the study need not suit a stand-in that does not run
            unset = set(_validate(_stand_in(raw, stand_in, [], str(settled["name"])))[1])
            more = [problem for problem in more if problem in unset]
        inherited = {*problems, *(problem for problem in more if problem.path == "name" and problems)}
        more = [replace(problem, path=f"fallback.{problem.path}") for problem in more if problem not in inherited]
        problems = list(dict.fromkeys([*problems, *more]))
    elif fallback and not problems:
        rule = "`--fallback always` needs a study with a `fallback:` section, but got none"
        problems = [Problem("fallback", rule, "Add the section, or use `--fallback never`.")]
    chosen = stand_in_spec if fallback else spec
    if problems or chosen is None:
        raise SpecError(file, problems)
    return chosen


def _stand_in(raw: Mapping[str, Any], stand_in: Mapping[str, Any], overrides: Sequence[str], name: str) -> Any:
    """A study with the sections of its fallback; what is set for the fallback alone comes last.

    What is set for the study's own data and model says nothing of the stand-in's.
    """
    replaced = {**raw, **{section: value for section, value in stand_in.items() if value is not None}}
    own = [text.removeprefix("fallback.") for text in overrides if text.startswith("fallback.")]
    shared = [text for text in overrides if section_of(text) not in {"fallback", *OWN_SECTIONS}]
    settled = override(replaced, [*shared, *own])
    return settled | {"name": f"{name}{FALLBACK_SUFFIX}", "fallback": None, "fallback_for": name}


def section_of(override: str) -> str:
    """The section that a `path=value` sets something in."""
    return override.partition("=")[0].partition(".")[0].strip()


def parse_study(raw: Mapping[str, Any], file: str) -> StudySpec:
    """Validates plain data. Raises `SpecError` with every mistake in it."""
    spec, problems = _validate(raw)
    if problems or spec is None:
        raise SpecError(file, problems)
    return spec


def _validate(raw: Mapping[str, Any]) -> tuple[StudySpec | None, list[Problem]]:
    """The study, or None, and every mistake in it, each once."""
    spec, problems = None, []
    try:
        spec = StudySpec.model_validate(raw)
    except ValidationError as error:
        problems = _problems(error.errors(), raw)
    found = [*problems, *_name_problems(raw.get("name")), *_task_problems(raw), *search_space_problems(raw)]
    return spec, list(dict.fromkeys(found))


def _name_problems(name: Any) -> Iterator[Problem]:
    if isinstance(name, str) and len(name.removesuffix(FALLBACK_SUFFIX)) > MAX_NAME:
        rule = f"a study's name must have at most {MAX_NAME} characters, but got {len(name)}"
        yield Problem("name", rule, "Shorten it; a `description` takes as much text as you like.")
    if isinstance(name, str) and name.strip(".") and (is_taken(name) or name.endswith(".")):  # Windows drops the dot
        rule = f"a study's name must not be that of something else in the output folder, but got `{name}`"
        yield Problem("name", rule, f"Choose another, such as `name: study-{name.strip('.').replace('.', '-')}`.")


def _task_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """What does not suit the task, each part by itself; what cannot be read is left to its own section's errors."""
    name, metric = raw.get("task", DEFAULT_TASK), raw.get("metric")
    if not isinstance(name, str) or name not in TASKS:
        return
    task = TASKS[name]
    if isinstance(metric, str) and metric in METRICS and metric not in task.metrics:
        rule = f"metric must be one that {name} has ({', '.join(task.metrics)}), but got {metric!r}"
        yield Problem("metric", rule, did_you_mean(metric, list(task.metrics)))
    if task.words:
        yield from _augmentation_problems(name, raw)
    data = raw.get("data")
    if not isinstance(data, Mapping):
        return
    texts, labels = data.get("text_column"), data.get("label_column")
    if task.words and isinstance(texts, list):
        rule = f"text_column of {name} is one column, of words, but got {texts}"
        yield Problem("data.text_column", rule, "Name the column that has a list of words.")
    if isinstance(labels, list) and name != "multi_label_classification":
        rule = f"label_column of {name} is one column, but got {labels}"
        yield Problem("data.label_column", rule, "Name one, or set `task: multi_label_classification`.")
    if task.labels.numeric and data.get("labels") is not None:
        rule = f"{name} has numbers and no classes, but got data.labels={data['labels']}"
        yield Problem("data.labels", rule, "Remove `labels`, or choose another task.")


def _augmentation_problems(task: str, raw: Mapping[str, Any]) -> Iterator[Problem]:
    """What would tear words and their labels apart."""
    key, suits = "augment_method", ["none", *(name for name, kind in AUGMENTATIONS.items() if kind.keeps_words)]
    for section in ("training", "search_space"):
        given = raw.get(section)
        value = given.get(key) if isinstance(given, Mapping) else None
        values = value.get("choices") if isinstance(value, Mapping) else [value]
        for each in values if isinstance(values, list) else []:
            if each in WORDS_APART:
                rule = f"{key}: {task} has a label for each word, which {each} tears apart from it"
                yield Problem(f"{section}.{key}", rule, f"Choose from {', '.join(suits)}.")


def override(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with every `a.b=value` set. An absent section is made; a range set to null is taken out."""
    settled: dict[str, Any] = copy.deepcopy(dict(raw))
    problems = []
    for text in overrides:
        path, equals, value = text.partition("=")
        keys = re.split(r"(?<!search_space\.model)\.", path.strip())  # `model.name` is one parameter
        if not equals or not all(keys) or len(keys) > MAX_DEPTH:
            rule = f"`--set` takes path=value, but got `{text}`"
            problems.append(Problem("--set", rule, "Write for instance `--set training.dropout=0.2`."))
            continue
        section = settled
        for position, key in enumerate(keys[:-1]):
            if section.get(key) is None:
                section[key] = {}
            if not isinstance(section[key], dict):
                parent = ".".join(keys[: position + 1])
                rule = f"`{parent}` must be a section to set `{path}`, but got {section[key]!r}"
                problems.append(Problem("--set", rule, f"Set `{parent}` as a whole."))
                break
            section = section[key]
        else:
            read = parse_yaml(value, f"--set {path}")
            if read is None and keys[:-1] == ["search_space"] and keys[-1] in section:
                del section[keys[-1]]  # no longer searched: `training` or the default says it
            else:
                section[keys[-1]] = read
    if problems:
        raise SpecError("the command line", problems)
    return settled


def _problems(errors: Sequence[ErrorDetails], raw: Any) -> list[Problem]:
    """pydantic's errors in our grammar. Those of one value that may be of several types become one."""
    merged: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for details in errors:
        if details["type"] == "default_factory_not_called":
            continue  # only because something else is wrong
        if details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]:
            continue  # only because its items are wrong, which is said already
        path = _path(details["loc"], raw, key_is_absent=details["type"] in {"missing", "extra_forbidden"})
        alternatives = merged.setdefault(tuple(path), [])
        if all(_requirement(details) != _requirement(other) for other in alternatives):
            alternatives.append(details)
    return [_problem(alternatives, path) for path, alternatives in merged.items()]


def _requirement(details: ErrorDetails) -> str:
    """What pydantic asks for, to be read after `must`."""
    if details["type"] in {"model_type", "dict_type", "model_attributes_type"}:
        return "be a section of settings"
    return re.sub(r"^.*? should ", "", details["msg"]).replace(" after validation", "").replace("tuple", "list")


def _problem(alternatives: Sequence[ErrorDetails], path: Sequence[str]) -> Problem:
    """The rule, what was given, the way out."""
    details = alternatives[0]
    kind, given = details["type"], details["input"]
    name = ".".join(path[-2:]) if path[-1].isdigit() else path[-1]
    context = details.get("ctx", {})
    dotted = ".".join(path)
    if kind == "rule_broken":
        return Problem(dotted, f"{name}: {context['rule']}", context["way_out"])
    if kind == "extra_forbidden":
        known = sorted(_known_keys(path[:-1]))
        if name in known:
            return Problem(dotted, f"`{name}` is of another kind of `{path[-2]}`", "Remove it, or choose that kind.")
        return Problem(dotted, f"unknown key `{name}`", did_you_mean(name, known))
    if kind == "missing":
        return Problem(dotted, f"`{name}` must be given, but it is missing", "Add it.")
    if kind == "union_tag_not_found":
        return Problem(dotted, f"{name}: `name` must be given, but it is missing", "Add `name:`.")
    if kind == "union_tag_invalid":
        return _choice(f"{dotted}.name", f"{name}.name", context["expected_tags"], context["tag"])
    if kind == "literal_error":
        return _choice(dotted, name, context["expected"], given)
    if kind == "invalid_key":
        return Problem(dotted, f"a key must be a string, but got {given!r}", _way_out("string_type", given))
    requirement = " or ".join(_requirement(alternative).removeprefix("be ") for alternative in alternatives)
    verb = "be " if _requirement(details).startswith("be ") else ""
    rule = f"{name} must {verb}{requirement}, but got {name}={given!r}"
    if kind == "model_attributes_type" and isinstance(given, str):
        return Problem(dotted, rule, f"Write `{name}: {{name: {given}}}`.")
    return Problem(dotted, rule, _way_out(kind, given))


def _way_out(kind: str, given: Any) -> str:
    if kind == "string_type":
        return f"Quote it{': YAML reads yes, no, on and off as true and false' * isinstance(given, bool)}."
    if kind == "string_pattern_mismatch":
        return "Use letters, digits, `.`, `_` and `-`, a letter or digit first."
    if kind in {"greater_than", "greater_than_equal"}:
        return "Raise it."
    if kind in {"less_than", "less_than_equal"}:
        return "Lower it."
    if kind in {"int_type", "float_type"} and isinstance(given, str):
        return "Write a number, without quotes."
    return "Change it."


def _choice(dotted: str, name: str, expected: str, given: Any) -> Problem:
    options = re.findall(r"'([^']+)'", expected)
    way_out = did_you_mean(str(given), options)
    return Problem(dotted, f"{name} must be one of {', '.join(options)}, but got {given!r}", way_out)


def _path(location: Sequence[int | str], raw: Any, *, key_is_absent: bool) -> list[str]:
    """pydantic's location as the user wrote it: without the tags of unions, which are in no file."""
    path: list[str] = []
    for position, key in enumerate(location):
        last = position == len(location) - 1
        if isinstance(raw, Mapping) and (key in raw or (last and key_is_absent)):
            raw = raw.get(key)
        elif isinstance(raw, list) and isinstance(key, int):
            raw = raw[key] if key < len(raw) else None
        else:
            continue
        path.append(str(key))
    return path or ["the file"]


def _known_keys(path: Sequence[str]) -> set[str]:
    """The keys that may stand at a dotted path: walks the models' annotations along it."""
    models: set[type[Settings]] = {StudySpec}
    for key in path:
        annotations = [model.model_fields[key].annotation for model in models if key in model.model_fields]
        if annotations:  # otherwise a free key, such as a parameter's name: the models stay
            models = {found for annotation in annotations for found in _models_in(annotation)}
    return {field for model in models for field in model.model_fields} - {"fallback_for"}


def _models_in(annotation: Any) -> set[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return {annotation}
    return {model for argument in get_args(annotation) for model in _models_in(argument)}


assert set(FallbackSpec.model_fields) < set(StudySpec.model_fields), "a fallback replaces sections of a study"
