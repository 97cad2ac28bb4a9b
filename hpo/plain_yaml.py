"""YAML as plain data and nothing else, in bounded time and memory: what reads the files and `--set` of users.

Mappings, lists, text, numbers, booleans and null. No tag makes another object, no alias more than a file could hold.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from hpo.errors import Problem, SpecError

# Far above any study, and low enough for PyYAML and all checks to answer in seconds.
MAX_BYTES = 2**20
MAX_VALUES = 20_000
MAX_DEPTH = 50
MAX_DIGITS = 100
TAG = "tag:yaml.org,2002:"
NUMBERS = {f"{TAG}int", f"{TAG}float"}
IMPLICIT = {f"{TAG}{name}" for name in ("null", "bool", "int", "float", "merge")}
EXPLICIT = {None, *(f"{TAG}{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))}  # None: refuses
MERGE = f"{TAG}merge"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats (PyYAML reads `1e-5` as a string); a repeated key is an error, not the last one.

    What aliases stand for is counted as if it were written out, while the nodes are composed: nothing is made of them
    before that.
    """

    # Without dates, which are text here, and without sets, bytes and pairs, which no setting takes.
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in IMPLICIT]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {
        tag: constructor for tag, constructor in yaml.SafeLoader.yaml_constructors.items() if tag in EXPLICIT
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._extent: dict[yaml.Node, tuple[int, int, int]] = {}  # values, characters, depth

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        self._level += 1
        if self._level > MAX_DEPTH:
            raise _refused(f"it must be nested at most {MAX_DEPTH} deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is not None and not is_alias:
            self._extent[node] = self._measured(node)
        elif node is not None and node not in self._extent:
            raise _refused("an alias must not stand within what it stands for", event.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a list or a mapping cannot be a key", key.start_mark)
            if (key.tag, key.value) in seen:
                raise _refused(f"the key `{key.value}` stands twice", key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def _measured(self, node: yaml.Node) -> tuple[int, int, int]:
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = [child for pair in children for child in pair] if isinstance(node, yaml.MappingNode) else children
        extents = [self._extent[child] for child in pairs]
        values = 1 + sum(extent[0] for extent in extents)
        characters = sum(extent[1] for extent in extents) + (len(node.value) if not extents else 0)
        depth = 1 + max((extent[2] for extent in extents), default=0)
        if values > MAX_VALUES or characters > MAX_BYTES or depth > MAX_DEPTH:
            raise _refused(
                f"it must have at most {MAX_VALUES:,} values, {MAX_BYTES:,} characters and {MAX_DEPTH} levels, "
                "what its aliases stand for included",
                node.start_mark,
            )
        return values, characters, depth

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        kind = node.tag.removeprefix(TAG)
        if node.tag in NUMBERS and len(node.value) > MAX_DIGITS:
            raise _refused(f"a number must have at most {MAX_DIGITS} digits", node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError, OverflowError) as error:  # `!!int x`, `!!bool x`, `!!int ""`
            raise _refused(f"`{node.value}` is no value of the tag `!!{kind}`", node.start_mark) from error
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise _refused("an integer must fit into 64 bits", node.start_mark)
        return value


_Loader.add_implicit_resolver(
    f"{TAG}float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _refused(rule: str, mark: yaml.Mark | None) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, rule, mark)


def read_yaml(path: Path) -> Any:
    """The YAML document of a file. Raises `SpecError` where it cannot be read, or as `parse_yaml`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        _require_small(len(content), str(path))
        return parse_yaml(content.decode(), str(path))
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the path
        raise SpecError(str(path), [Problem("the file", f"it must be readable: {error}", "Mend it.")]) from error


def parse_yaml(text: str, file: str) -> Any:
    """The YAML document as plain data. Raises `SpecError` with line and column where it is broken or too large."""
    _require_small(len(text), file)
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the file"
        rule = f"this is not valid YAML: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"
        raise SpecError(file, [Problem(where, rule, "Mend the line.")]) from error


def _require_small(size: int, file: str) -> None:
    if size > MAX_BYTES:
        rule = f"it must have at most {MAX_BYTES:,} bytes"
        raise SpecError(file, [Problem("the file", rule, "Take out what is no setting.")])
