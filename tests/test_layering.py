"""The floors of the house: a module imports from lower floors, or from its own folder. Reads imports, runs nothing."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# By the longest prefix. Files of one folder may import each other.
FLOORS = {
    "hpo": 0,
    "hpo.errors": 0,
    "hpo.spec": 1,
    "hpo.events": 1,
    "hpo.references": 1,
    "hpo.provenance": 1,
    "hpo.space_checks": 2,
    "hpo.schema": 2,
    "hpo.hub": 2,
    "hpo.data": 2,
    "hpo.tracking": 2,
    "hpo.study_file": 3,
    "hpo.space": 3,
    "hpo.training": 3,
    "hpo.hub_choice": 4,
    "hpo.study": 4,
    "hpo.tasks": 4,
    "hpo.training.setup": 5,
    "hpo.training.finetune": 5,
    "hpo.trial": 6,
    "hpo.report": 6,
    "hpo.export": 6,
    "hpo.tune": 7,
    "hpo.command_line": 7,
    "hpo.console": 8,
    "hpo.run": 9,
    "hpo.train": 9,
    "hpo.ui": 9,
    "hpo.report.__main__": 9,
}
FILES = sorted(ROOT.glob("hpo/**/*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def floor_of(module: str) -> int:
    name = module
    while name not in FLOORS:
        name = name.rpartition(".")[0]
    return FLOORS[name]


def folder_of(module: str) -> str:
    """`hpo.training` for all that lies in it; a file of the top level is a folder of its own."""
    return ".".join(module.split(".")[:2])


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports anywhere, functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports are absolute here"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_arrow_points_upward(module: str) -> None:
    for imported in imports_of(MODULES[module]) & set(MODULES):
        beside = floor_of(imported) == floor_of(module) and folder_of(imported) == folder_of(module)
        assert floor_of(imported) < floor_of(module) or beside, imported


def test_every_top_level_module_has_a_floor() -> None:
    top = {module for module in MODULES if module.count(".") == 1}
    assert top <= set(FLOORS)
    assert set(FLOORS) <= set(MODULES), "a floor without a module"


def importers(package: str) -> set[str]:
    return {
        module
        for module, path in MODULES.items()
        if any(name == package or name.startswith(f"{package}.") for name in imports_of(path))
    }


def test_only_tracking_imports_mlflow() -> None:
    assert importers("mlflow") == {"hpo.tracking"}


def test_the_training_knows_neither_optuna_nor_mlflow() -> None:
    assert not {name for name in importers("optuna") if name.startswith(("hpo.training", "hpo.tasks", "hpo.data"))}


def test_torch_stays_where_tensors_are() -> None:
    assert all(name.startswith(("hpo.training", "hpo.tasks")) or name == "hpo.trial" for name in importers("torch"))
