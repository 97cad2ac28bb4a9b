"""The README's examples of a task, a method, an optimizer and an augmentation are what stands in their files."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = re.findall(
    r"`(hpo/[\w/]+\.py)`[^`]*:\n\n```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL
)


def statements(source: str) -> list[str]:
    """Of the top level, without comments."""
    return [ast.unparse(statement) for statement in ast.parse(source).body]


def test_what_is_shown() -> None:
    assert {file.split("/")[-2] for file, _ in EXAMPLES} == {"tasks", "methods", "optimizers", "augment"}


@pytest.mark.parametrize(("file", "example"), EXAMPLES)
def test_an_example_is_what_stands_in_its_file(file: str, example: str) -> None:
    assert set(statements(example)) <= set(statements((ROOT / file).read_text("utf-8")))
