"""YAML read as plain data: what is taken, what is refused and where, and that no file is too much for it."""

import time
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import Problem, SpecError
from hpo.plain_yaml import MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml


def mistake(text: str) -> Problem:
    with pytest.raises(SpecError) as error:
        parse_yaml(text, "a.yaml")
    (problem,) = error.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-2.5e-3", -2.5e-3),
        (".5e1", 5.0),
        ("1.0e-5", 1e-5),
        ("0.1", 0.1),
        ("3", 3),
        ("e5", "e5"),
        ("1e", "1e"),
        ("'1e-5'", "1e-5"),
        ("null", None),
        ("[1e-5, x]", [1e-5, "x"]),
    ],
)
def test_numbers_are_numbers(text: str, value: Any) -> None:
    found = parse_yaml(text, "a.yaml")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "where", "rule"),
    [
        ("a: b: c", "line 1, column 5", "mapping values are not allowed here"),
        ("a: 1\nb: [1\n", "line 3, column 1", "expected ',' or ']'"),
        ("a: 1\n\tb: 2", "line 2, column 1", "cannot start any token"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1", "the key `a` stands twice"),
        ("a:\n  b: 1\n  b: 2", "line 3, column 3", "the key `b` stands twice"),
        ("a: [{b: 1, b: 2}]", "line 1, column 12", "the key `b` stands twice"),
        ("[1]: 2", "line 1, column 1", "a list or a mapping cannot be a key"),
        ("a: !!python/name:os.system x", "line 1, column 4", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "line 2, column 1", "another document"),
        ("a: '\x01'", "the file", "unacceptable character"),
        ("a: *b", "line 1, column 4", "undefined alias"),
        ("a: &a [*a]", "line 1, column 8", "an alias must not stand within what it stands for"),
        ("&a\nb: {c: *a}", "line 2, column 8", "an alias must not stand within what it stands for"),
        ("<<: {}\n<<: {}", "line 2, column 1", "the key `<<` stands twice"),
        ("a: !!int x", "line 1, column 4", "`x` is no value of the tag `!!int`"),
        ("a: !!int ''", "line 1, column 4", "`` is no value of the tag `!!int`"),
        ("a: !!float x", "line 1, column 4", "`x` is no value of the tag `!!float`"),
        ("a: !!bool x", "line 1, column 4", "`x` is no value of the tag `!!bool`"),
        ("a: !!timestamp x", "line 1, column 4", "could not determine a constructor"),
        ("a: !!python/object/apply:os.system [x]", "line 1, column 4", "could not determine a constructor"),
        ("a: 9223372036854775808", "line 1, column 4", "an integer must fit into 64 bits"),
        ("a: " + "9" * 5000, "line 1, column 4", "a number must have at most 100 digits"),
        ("a: 0x" + "f" * 5000, "line 1, column 4", "a number must have at most 100 digits"),
        ("a: 1" + ":1" * 5000, "line 1, column 4", "a number must have at most 100 digits"),
    ],
)
def test_broken(text: str, where: str, rule: str) -> None:
    problem = mistake(text)
    assert problem.path == where
    assert problem.rule.startswith("this is not valid YAML: ") and rule in problem.rule
    assert "\n" not in problem.rule


def test_one_section_merged_into_another() -> None:
    text = "a: &defaults {x: 1, y: 2}\nb:\n  <<: *defaults\n  y: 3\n"
    assert parse_yaml(text, "f")["b"] == {"x": 1, "y": 3}


def test_one_key_in_two_sections_is_none_twice() -> None:
    assert parse_yaml("a: {x: 1}\nb: {x: 1}", "a.yaml") == {"a": {"x": 1}, "b": {"x": 1}}


@pytest.mark.parametrize("text", ["2001-01-01", "2001-99-99", "2001-01-01 10:00:00", "="])
def test_a_date_is_text(text: str) -> None:
    assert parse_yaml(f"a: {text}", "a.yaml") == {"a": text}


def test_a_section_merged_before_it_is_built_has_no_key_twice() -> None:
    text = "deep: {deeper: {z: &z {x: 1}, a: &a {<<: *z, x: 2}}}\nb: {<<: *a}\n"
    assert parse_yaml(text, "a.yaml")["b"] == {"x": 2}


def laughs(levels: int, node: str) -> str:
    """Each level stands for nine of the one below."""
    lines = [f"a0: &a0 {node.format('x')}"]
    lines += [f"a{at}: &a{at} {node.format(', '.join([f'*a{at - 1}'] * 9))}" for at in range(1, levels)]
    return "\n".join(lines)


TOO_LARGE = "at most 20,000 values, 1,048,576 characters and 50 levels, what its aliases stand for included"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (laughs(30, "[{}]"), TOO_LARGE),
        (laughs(30, "{{<<: [{}]}}"), TOO_LARGE),
        (f"a: &a {'x' * 1000}\nb: [{', '.join(['*a'] * 2000)}]", TOO_LARGE),
        ("\n".join([f"a{at}: &a{at} [{f'*a{at - 1}' if at else ''}]" for at in range(1000)]), TOO_LARGE),
        (f"[{'1,' * 30_000}]", TOO_LARGE),
        ("[" * 100_000, "nested at most 50 deep"),
        ("- " * 10_000, "nested at most 50 deep"),
        ("a" * (MAX_BYTES + 1), "at most 1,048,576 bytes"),
    ],
    ids=["lists", "merges", "text", "chain", "values", "flow", "block", "bytes"],
)
def test_what_is_too_large_is_refused_at_once(text: str, rule: str) -> None:
    began = time.monotonic()
    assert rule in mistake(text).rule
    assert time.monotonic() - began < 30  # written out, the first two have 9 ** 30 values


def test_a_long_number_that_is_none_is_text() -> None:
    """The pattern of a float must not try every way to split its digits, which would take a minute here."""
    digits = "1" * 100_000
    assert parse_yaml(f"{digits}x", "a.yaml") == f"{digits}x"


def test_as_deep_as_is_allowed() -> None:
    value = parse_yaml("[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1), "a.yaml")
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == 1


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \xed\xa0\x80"])
def test_not_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(SpecError, match="must be readable"):
        read_yaml(tmp_path / "a.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="must be readable"):
        read_yaml(tmp_path)


def test_of_an_endless_file_only_the_beginning_is_read() -> None:
    with pytest.raises(SpecError, match="at most 1,048,576 bytes"):
        read_yaml(Path("/dev/zero"))
