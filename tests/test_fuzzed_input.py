"""Whatever stands in a study file, a `best.yaml`, `--set` or a reference is read, or refused as a user's mistake.

The suite draws the same inputs each time. To look for new ones, for as long as they take (minutes):

    python -m pytest -n0 --timeout=0 --hypothesis-profile=long tests/test_fuzzed_input.py
"""

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from hpo.errors import DataError, SpecError
from hpo.export import Exported, read_exported
from hpo.plain_yaml import parse_yaml
from hpo.references import Reference, local_path, parse_reference
from hpo.search_spec import HyperbandPruner, PatientPruner, RangeParameter
from hpo.space import default_params, distribution, grid
from hpo.space_checks import SEARCHABLE
from hpo.spec import DataSpec, ModelSpec, SplitSource, StudySpec
from hpo.study import total_trials
from hpo.study_file import parse_study, read_study, study_path
from hpo.training_spec import TrainingSpec

ROOT = Path(__file__).parent.parent
STUDIES = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "studies").glob("*.yaml"))]
EXPORTED = """\
study: tiny
fallback_for: null
trial: 3
score: 0.9
metrics: {eval/accuracy: 0.9, eval/loss: 0.2}
config:
  metric: eval/accuracy
  data: {train: {source: ./x.csv}, labels: [negative, positive]}
  model: {name: m, revision: null}
  training: {learning_rate: 1.0e-05, dropout: null}
  seed: 1
  data_seed: 0
labels: [negative, positive]
rows: {train: 10, validation: 5}
data_fingerprint: d
model_fingerprint: sha256:m
machine: {device: cpu, precision: fp32}
versions: {python: 3.11.7}
git_commit: null
mlflow_run_id: r
"""
MODELS = (
    *(StudySpec, DataSpec, SplitSource, ModelSpec, TrainingSpec),
    *(RangeParameter, HyperbandPruner, PatientPruner, Exported),
)
KEYS = sorted({name for model in MODELS for name in model.model_fields} | {*SEARCHABLE, "choices", "<<"})
# What YAML, its resolvers and our checks give a meaning to.
TOKENS = [
    *("&a ", "*a", "&b ", "*b", "<<: *a\n", "<<: ", "!!python/object:os.system ", "!!int ", "!!float ", "!!bool "),
    *("!!binary ", "!!timestamp ", "!!set ", "!!omap ", "!!str ", "!!null ", "!x ", "[", "]", "{", "}", ": ", ", "),
    *("- ", "? ", "|\n", ">\n", "\n", "\n  ", "\t", "#", "---\n", "...\n", "%YAML 1.2\n", "'", '"', "\\", "\0", "\x1b"),
    *("1e-5", "1e999", "-1e999", "0x", "0b2", "0o8", "9" * 25, "9" * 5000, "1:1:1", ".inf", ".nan", "1_0", "="),
    *("yes", "~", "null", "2001-99-99", "\ufeff", "\u2028", "\ud800", "é", "[" * 200, "{a: " * 200),
    *("low", "high", "step", "when"),
]
PLACES = ["package://", "hpo", "/", "..", "\\", "%2e", ".", "~", "\0", "tests", ".csv", "é", "@", "spec.py"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 2**31, 2**63 - 1, 2**63, 10**30]),
    st.floats(),
    st.sampled_from([5e-324, 1e-300, 1.7e308, 0.1, 0.3]),
    st.text(max_size=8),
    st.sampled_from([*KEYS, "tpe", "grid", "median", "patient", "none", "sgd", "linear", "x.csv", "package://a/b"]),
)
NAMES = st.sampled_from(KEYS) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
NUMBERS = st.floats(0, 1) | st.integers(0, 2**62)
PARAMETERS = st.dictionaries(
    st.sampled_from(["low", "high", "step", "log", "choices", "when"]),
    SCALARS | NUMBERS | st.lists(SCALARS | NUMBERS, max_size=4) | st.just({"optimizer": ["sgd"]}),
)
RANGES = st.fixed_dictionaries(
    {"low": NUMBERS, "high": NUMBERS}, optional={"step": NUMBERS, "log": st.booleans(), "when": VALUES}
)
PIECES = st.sampled_from(TOKENS) | st.sampled_from(KEYS).map("{}: ".format) | st.text(max_size=5)
GARBLED = st.lists(PIECES, max_size=40).map("".join)


def settle(call: Callable[[], StudySpec]) -> None:
    """A study is one that Optuna takes and storage gives back; a mistake is told in a text that a terminal can hold."""
    try:
        spec = call()
    except SpecError as error:
        assert error.problems
        assert len(str(error)) < 2**20
        return
    assert isinstance(spec, StudySpec)
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec
    default_params(spec)
    assert spec.models
    for name, parameter in spec.search_space.items():
        distribution(name, parameter)
    assert 1 <= total_trials(spec) <= spec.n_trials
    if spec.sampler.name == "grid":
        assert all(grid(spec).values())


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def mutated(draw: st.DrawFn, texts: list[str]) -> str:
    """A file with pieces of it replaced, left out or repeated elsewhere."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(len(text), begin + 30)))
        other = draw(st.integers(0, len(text)))
        piece = draw(st.sampled_from(TOKENS) | st.text(max_size=4) | st.just(text[other : other + 40]))
        text = text[:begin] + piece + text[end:]
    return text


@st.composite
def reshaped(draw: st.DrawFn, texts: list[str]) -> Any:
    """The data of a file with some of its values replaced by others of any shape, or taken out."""
    data = copy.deepcopy(yaml.safe_load(draw(st.sampled_from(texts))))
    for _ in range(draw(st.integers(1, 4))):
        at = data
        while True:
            key = draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
            if isinstance(at[key], dict | list) and at[key] and draw(st.integers(0, 3)):
                at = at[key]
                continue
            action = draw(st.sampled_from(["replace", "replace", "add", "remove"]))
            if action == "replace":
                at[key] = copy.deepcopy(draw(VALUES | PARAMETERS))  # a later step may change it
            elif action == "add" and isinstance(at, dict):
                at[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(VALUES | PARAMETERS))
            elif len(at) > 1:
                del at[key]
            break
    return data


@given(text=GARBLED | st.text())
@example(text="a: " + "1" * 50_000 + "x")
def test_any_text_as_yaml(text: str) -> None:
    try:
        parse_yaml(text, "a.yaml")
    except SpecError as error:
        assert len(str(error)) < 5000


@given(content=st.binary() | mutated(STUDIES).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_as_a_study(folder: Path, content: bytes) -> None:
    path = folder / "a.yaml"
    path.write_bytes(content)
    for fallback in (False, True):
        settle(lambda fallback=fallback: read_study(path, fallback=fallback))  # type: ignore[misc]


@given(data=reshaped(STUDIES))
def test_any_data_as_a_study(folder: Path, data: Any) -> None:
    settle(lambda: parse_study(data, "a.yaml"))
    path = folder / "b.yaml"
    try:
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
    except ValueError:  # an integer that has no digits, a half of a surrogate pair
        return
    for fallback in (False, True):
        settle(lambda fallback=fallback: read_study(path, fallback=fallback))  # type: ignore[misc]


@given(
    space=st.dictionaries(st.sampled_from(SEARCHABLE), PARAMETERS, min_size=1), sampler=st.sampled_from(["tpe", "grid"])
)
def test_any_search_space(space: dict[str, Any], sampler: str) -> None:
    training = {"optimizer": "sgd", "dropout": 0.1}
    raw = {"name": "a", "data": {"train": "x"}, "model": {"name": "m"}, "training": training, "search_space": space}
    settle(lambda: parse_study(raw | {"sampler": {"name": sampler}}, "a.yaml"))


@st.composite
def override(draw: st.DrawFn) -> str:
    path = ".".join(draw(st.lists(st.sampled_from(KEYS) | st.text(max_size=4), min_size=1, max_size=5)))
    return draw(st.sampled_from(["", "fallback."])) + path + draw(st.sampled_from(["=", "", "=="])) + draw(GARBLED)


@given(overrides=st.lists(override() | st.text(), max_size=3), fallback=st.booleans())
@example(overrides=[f"name{'.a' * 100_000}=1"], fallback=False)
def test_any_override(folder: Path, overrides: list[str], fallback: bool) -> None:
    path = folder / "c.yaml"
    path.write_text(next(text for text in STUDIES if "fallback:" in text), encoding="utf-8")
    settle(lambda: read_study(path, overrides, fallback=fallback))


@given(name=st.text())
@example(name="a\0.yaml")
@example(name="a" * 300)
@example(name="a/" * 5000 + ".yaml")
def test_any_study_name(folder: Path, name: str) -> None:
    with contextlib.suppress(SpecError):
        assert study_path(name, folder).is_file()


@given(content=st.one_of(mutated([EXPORTED]), reshaped([EXPORTED]).map(lambda data: yaml.dump(data)), GARBLED))
def test_any_text_as_best_yaml(folder: Path, content: str) -> None:
    path = folder / "best.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(read_exported(path), Exported)
    except SpecError as error:
        assert len(str(error)) < 2**20


@given(
    text=st.one_of(
        st.text(),
        st.lists(
            st.sampled_from(["package://", "hpo", "/", "..", "\\", "%2e", ".", "~", "\0", "tests", ".csv", "é"])
        ).map("".join),
        st.text().map("package://hpo/{}".format),
    )
)
def test_any_text_as_a_reference(text: str) -> None:
    try:
        reference = parse_reference(text)
        assert isinstance(reference, Reference)
        path = local_path(text)
    except DataError:
        return
    assert (path is None) == (reference.kind == "hub")
    if path is not None:
        assert path.exists()
    if path is not None and reference.kind == "package":
        package = ROOT / reference.location.split("/")[0]
        assert path.resolve().is_relative_to(package.resolve())
