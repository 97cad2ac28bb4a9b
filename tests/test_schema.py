"""The JSON schema that editors use: it is current, and it accepts what is shipped and refuses what is wrong."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo import schema
from hpo.plain_yaml import parse_yaml

ROOT = Path(__file__).parent.parent
STUDY_FILES = sorted((ROOT / "studies").glob("*.yaml"))
SCHEMA: dict[str, Any] = json.loads(schema.study_schema())
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}


def accepts(node: dict[str, Any], value: Any) -> bool:
    """JSON schema as far as ours uses it: types, keys, alternatives, closed sets, bounds, lengths, patterns."""
    if "$ref" in node:
        return accepts(SCHEMA["$defs"][node["$ref"].removeprefix("#/$defs/")], value)
    if "anyOf" in node and not any(accepts(option, value) for option in node["anyOf"]):
        return False
    if "oneOf" in node and sum(accepts(option, value) for option in node["oneOf"]) != 1:
        return False
    if "type" in node:
        of_type = isinstance(value, TYPES[node["type"]]) and (node["type"] == "boolean" or not isinstance(value, bool))
        if not of_type:
            return False
    if value not in node.get("enum", [value]) or value != node.get("const", value):
        return False
    if isinstance(value, str):
        return len(value) >= node.get("minLength", 0) and re.search(node.get("pattern", ""), value) is not None
    if isinstance(value, int | float):
        return bool(
            node.get("minimum", value) <= value <= node.get("maximum", value)
            and node.get("exclusiveMinimum", value - 1) < value < node.get("exclusiveMaximum", value + 1)
        )  # fmt: skip
    if isinstance(value, list):
        return len(value) >= node.get("minItems", 0) and all(accepts(node.get("items", {}), item) for item in value)
    if isinstance(value, dict):
        known, others = node.get("properties", {}), node.get("additionalProperties", {})
        return (
            set(node.get("required", [])) <= set(value)
            and len(value) >= node.get("minProperties", 0)
            and all(accepts(known[key], value[key]) for key in value if key in known)
            and all(others is not False and accepts(others, value[key]) for key in value if key not in known)
        )
    return True


def smallest(**sections: Any) -> dict[str, Any]:
    return {
        "data": {"train": "x.csv"},
        "model": {"name": "m"},
        "search_space": {"dropout": {"low": 0.0, "high": 0.3}},
    } | sections


def test_the_schema_in_the_repository_is_current() -> None:
    stored = (ROOT / schema.SCHEMA).read_text(encoding="utf-8")
    assert stored == schema.study_schema(), "write it anew: python -m hpo.schema"


def test_the_command_writes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["hpo.schema", str(tmp_path / "schema.json")])
    schema.main()
    assert (tmp_path / "schema.json").read_text(encoding="utf-8") == schema.study_schema()


@pytest.mark.parametrize("path", STUDY_FILES, ids=lambda path: path.stem)
def test_the_shipped_studies_satisfy_it(path: Path) -> None:
    assert accepts(SCHEMA, parse_yaml(path.read_text(encoding="utf-8"), path.name))


@pytest.mark.parametrize("path", STUDY_FILES, ids=lambda path: path.stem)
def test_the_shipped_studies_name_it_for_editors(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"
    assert (path.parent / "schema.json").is_file()


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"name": "mine", "timeout": 60, "metric": "eval/loss"},
        {"data": {"train": {"source": "x.csv", "where": {"source": "y"}}, "test": "z.csv", "labels": ["a", "b"]}},
        {"search_space": {"max_grad_norm": {"choices": [None, 1.0]}}},
        {"pruner": {"name": "patient", "wrapped": {"name": "hyperband"}}},
        {"fallback": {"data": {"train": "y.csv"}, "n_trials": 3}},
    ],
)
def test_it_accepts(sections: dict[str, Any]) -> None:
    assert accepts(SCHEMA, smallest(**sections))


@pytest.mark.parametrize(
    "sections",
    [
        {"trainig": {}},
        {"training": {"dropuot": 0.1}},
        {"training": {"train_batch_size": 0}},
        {"training": {"lr_scheduler_type": "cosin"}},
        {"training": {"learning_rate": "1e-5"}},
        {"metric": "eval/acc"},
        {"name": "a b"},
        {"data": {"test": "x.csv"}},
        {"data": {"train": "x.csv", "labels": ["one"]}},
        {"sampler": {"name": "tpee"}},
        {"pruner": {"name": "median", "n_startup": 3}},
        {"search_space": {}},
        {"search_space": {"dropout": {"low": 0.0, "high": 0.3, "choices": [0.1, 0.2]}}},
        {"fallback": {"training": {"dropuot": 0.1}}},
        {"fallback_for": "another"},
    ],
)
def test_it_refuses(sections: dict[str, Any]) -> None:
    assert not accepts(SCHEMA, smallest(**sections))


def test_it_speaks_the_users_language() -> None:
    """Hovering over a key shows its docstring, and no default of Python's leaks into it."""
    training = SCHEMA["$defs"]["TrainingSpec"]["properties"]
    assert training["max_grad_norm"]["description"].startswith("Gradients are clipped")
    assert yaml.safe_load(yaml.safe_dump(SCHEMA)) == SCHEMA
