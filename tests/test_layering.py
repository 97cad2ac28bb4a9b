"""The floors of the house: a module imports from lower floors or from its own folder, wherever the import stands."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS: dict[str, int] = {
    "hpo": 0,
    "hpo.errors": 0,
    # what is known without doing anything
    "hpo.plain_text": 0,
    "hpo.settings": 0,
    "hpo.scores": 0,
    "hpo.addresses": 0,
    "hpo.served_model": 0,
    "hpo.cells": 1,
    "hpo.members": 1,
    "hpo.tasks": 2,
    "hpo.interrupt": 1,
    "hpo.events": 1,
    "hpo.provenance": 1,
    "hpo.references": 1,
    "hpo.output": 1,
    "hpo.plain_yaml": 1,
    "hpo.command_line": 3,
    "hpo.live": 1,
    "hpo.tracking_spool": 1,
    "hpo.search_spec": 1,
    "hpo.training_spec": 2,
    "hpo.spec": 3,
    "hpo.results": 1,
    "hpo.mistakes": 3,
    "hpo.statistics": 3,
    "hpo.score_estimates": 4,
    # what is asked, and of whom
    "hpo.model_folder": 4,
    "hpo.effect_checks": 3,
    "hpo.space_checks": 4,
    "hpo.schema": 4,
    "hpo.hub": 5,
    "hpo.tracking_writer": 3,
    "hpo.tracking_store": 3,
    "hpo.tracking_run": 4,
    "hpo.tracking_model": 5,
    "hpo.tracking": 6,
    "hpo.data": 4,
    "hpo.data.augment": 4,
    "hpo.data.files": 4,
    "hpo.data.inputs": 4,
    "hpo.data.sources": 4,
    "hpo.data.hold_out": 4,
    "hpo.data.overlap": 4,
    "hpo.data.splits": 4,
    "hpo.data.quality": 4,
    "hpo.data.array_cache": 1,
    "hpo.data.tokens": 4,
    "hpo.first_look": 5,
    "hpo.study_file": 5,
    "hpo.space": 5,
    # the parts of training, and what search needs
    "hpo.training": 5,
    "hpo.training.attention": 5,
    "hpo.training.augmented": 5,
    "hpo.training.batches": 5,
    "hpo.training.device": 5,
    "hpo.training.dropout": 5,
    "hpo.training.encoder": 5,
    "hpo.training.graphs": 5,
    "hpo.training.inference": 5,
    "hpo.training.layout": 5,
    "hpo.training.losses": 5,
    "hpo.training.masked_words": 5,
    "hpo.training.methods": 5,
    "hpo.training.model": 5,
    "hpo.training.onnx_export": 5,
    "hpo.training.optimizer": 5,
    "hpo.training.early_stopping": 5,
    "hpo.training.ema": 5,
    "hpo.training.objectives": 5,
    "hpo.training.optimizers": 5,
    "hpo.training.schedule": 5,
    "hpo.training.step": 5,
    "hpo.training.vocabulary": 5,
    "hpo.students": 5,
    "hpo.hub_choice": 6,
    "hpo.search": 6,
    "hpo.storage_server": 5,
    "hpo.storage": 6,
    "hpo.storage_reader": 7,
    "hpo.lease": 6,
    "hpo.attempts": 6,
    "hpo.study": 7,
    # the one training loop, and what is made of stored trials
    "hpo.training.setup": 8,
    "hpo.training.trained": 7,
    "hpo.training.teachers": 8,
    "hpo.training.finetune": 8,
    "hpo.training.checkpoint": 8,
    "hpo.training.predictions": 8,
    "hpo.training.serving": 8,
    "hpo.report": 8,
    "hpo.report.account": 8,
    "hpo.report.clean_data": 8,
    "hpo.report.parts": 8,
    "hpo.report.data_size": 8,
    "hpo.report.expected": 8,
    "hpo.report.importance": 8,
    "hpo.report.outlook": 8,
    "hpo.report.ranges": 8,
    "hpo.report.answers": 8,
    "hpo.report.compare": 8,
    "hpo.report.distillation": 8,
    "hpo.report.contents": 8,
    "hpo.report.figures": 8,
    "hpo.report.formats": 8,
    "hpo.report.html_page": 8,
    "hpo.report.charts": 8,
    "hpo.report.charts.chart": 8,
    "hpo.report.charts.data_size": 8,
    "hpo.report.charts.finals": 8,
    "hpo.report.charts.outlook": 8,
    "hpo.report.charts.parameters": 8,
    "hpo.report.charts.search": 8,
    "hpo.report.page": 8,
    "hpo.report.serving": 8,
    "hpo.report.tables": 8,
    "hpo.report.worktime": 8,
    "hpo.export": 8,
    "hpo.labelling": 9,
    "hpo.progress": 8,
    "hpo.ensemble": 9,
    "hpo.facts": 9,
    "hpo.trial_logging": 9,
    "hpo.study_logging": 10,
    "hpo.memory": 7,
    "hpo.trial_end": 9,
    "hpo.trial": 10,
    "hpo.divergence": 8,
    "hpo.executors": 11,
    "hpo.executors.base": 11,
    "hpo.executors.processes": 11,
    "hpo.executors.ray_cluster": 11,
    "hpo.executors.ray_connection": 11,
    "hpo.executors.worker": 11,
    "hpo.executors.serial": 11,
    "hpo.supervisor": 12,
    "hpo.conclusion": 12,
    "hpo.finalists": 13,
    "hpo.distillation": 14,
    "hpo.tune": 14,
    "hpo.examination": 15,
    "hpo.doctor": 16,
    # the command line
    "hpo.search_view": 9,
    "hpo.listing": 14,
    "hpo.console": 15,
    "hpo.report.__main__": 16,
    "hpo.init": 16,
    "hpo.predict": 16,
    "hpo.distill": 17,
    "hpo.onnx": 16,
    "hpo.run": 16,
    "hpo.train": 16,
    "hpo.ui": 16,
}
LIBRARIES = {
    # `served_model` is none of ours when it runs: MLflow loads a registered model with it, without `hpo`.
    "mlflow": ("hpo.tracking", "hpo.tracking_store", "hpo.tracking_model", "hpo.served_model"),
    "torch": ("hpo.training", "hpo.labelling"),
    "optuna": (
        "hpo.storage",
        "hpo.lease",
        "hpo.memory",
        "hpo.storage_server",
        "hpo.storage_reader",
        "hpo.space",
        "hpo.search",
        "hpo.attempts",
        "hpo.study",
        "hpo.trial",
        "hpo.trial_end",
        "hpo.supervisor",
        "hpo.examination",
        "hpo.divergence",
        "hpo.conclusion",
        "hpo.distillation",
        "hpo.finalists",
        "hpo.tune",
        "hpo.report",
        "hpo.export",
        "hpo.console",
        "hpo.progress",
        "hpo.listing",
        "hpo.onnx",
    ),
    "transformers": (
        "hpo.training",
        "hpo.data.tokens",
        "hpo.data.inputs",
        "hpo.facts",
        "hpo.labelling",
        "hpo.served_model",
    ),
    "datasets": ("hpo.data.sources", "hpo.hub"),
    "peft": ("hpo.training.methods.lora",),
    "onnxruntime": ("hpo.training.onnx_export",),
    "matplotlib": ("hpo.report.figures",),
    "plotly": ("hpo.report.charts.chart",),
    "sqlalchemy": ("hpo.storage", "hpo.storage_server", "hpo.storage_reader", "hpo.tracking", "hpo.tracking_store"),
    "psycopg": ("hpo.storage_server",),
    "requests": ("hpo.tracking_store",),
    "ray": ("hpo.executors.ray_cluster", "hpo.executors.ray_connection"),
    "rich": (
        "hpo.console",
        "hpo.distill",
        "hpo.doctor",
        "hpo.init",
        "hpo.listing",
        "hpo.live",
        "hpo.onnx",
        "hpo.plain_text",
        "hpo.predict",
        "hpo.search_view",
        "hpo.train",
    ),
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted((ROOT / "hpo").rglob("*.py"))}
# What a registry has members of: each is on its folder's floor.
IN_TRAINING = ("methods", "objectives", "optimizers")
REGISTRIES = ("hpo.data.augment", "hpo.tasks", *(f"hpo.training.{folder}" for folder in IN_TRAINING))
FLOORS |= {module: FLOORS[folder] for folder in REGISTRIES for module in MODULES if module.startswith(f"{folder}.")}


def imports(source: str) -> Iterator[str]:
    """Every module that a source imports, also within functions; `from package import module` is the module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def folder_of(module: str) -> str:
    """The package below `hpo` that a module is in, or the module itself: the rooms of one floor do not know another."""
    return ".".join(module.split(".")[:2])


def upward(module: str, source: str) -> list[str]:
    """What a module may not import: neither on a lower floor nor, no higher than itself, in its own folder."""
    return [
        imported
        for imported in imports(source)
        if imported.split(".")[0] == "hpo"
        and not FLOORS[imported] < FLOORS[module]
        and not (folder_of(imported) == folder_of(module) and FLOORS[imported] <= FLOORS[module])
    ]


def test_every_module_has_its_floor() -> None:
    assert set(FLOORS) == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_no_arrow_points_upward(module: str) -> None:
    assert upward(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("hpo.spec", "from hpo.errors import HpoError", []),
        ("hpo.spec", "from hpo.study import open_study", ["hpo.study"]),
        ("hpo.events", "import hpo.output", ["hpo.output"]),
        ("hpo.spec", "def late():\n    from hpo import trial", ["hpo.trial"]),
        ("hpo.spec", "if True:\n    import hpo.trial as t, json", ["hpo.trial"]),
        ("hpo.report.page", "from hpo.report import tables", []),
        ("hpo.training.losses", "from hpo.training.batches import Batch", []),
        ("hpo.training.losses", "from hpo.training.setup import Setup", ["hpo.training.setup"]),
        ("hpo.run", "def main():\n    from hpo.tune import tune", []),
        ("hpo.tune", "def main():\n    from hpo.run import main", ["hpo.run"]),
    ],
)
def test_the_rule_itself(module: str, source: str, found: list[str]) -> None:
    assert upward(module, source) == found


def test_no_module_imports_itself_through_others() -> None:
    arrows = {
        module: {name for name in imports(path.read_text(encoding="utf-8")) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    order = list(TopologicalSorter(arrows).static_order())  # raises CycleError, which names the cycle
    assert order.index("hpo.errors") < order.index("hpo.tune") < order.index("hpo.run")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_where_it_belongs_and_nowhere_else(library: str) -> None:
    """So the training knows neither Optuna nor MLflow, and what reads a study file no tensors."""
    found = {
        module
        for module, path in MODULES.items()
        if library in {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))}
    }
    assert found
    assert {
        module for module in found if not f"{module}.".startswith(tuple(f"{r}." for r in LIBRARIES[library]))
    } == set()
