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
    "hpo.addresses": 0,
    "hpo.served_model": 0,
    "hpo.interrupt": 1,
    "hpo.events": 1,
    "hpo.provenance": 1,
    "hpo.references": 1,
    "hpo.output": 1,
    "hpo.plain_yaml": 1,
    "hpo.command_line": 2,
    "hpo.live": 1,
    "hpo.tracking_spool": 1,
    "hpo.search_spec": 1,
    "hpo.spec": 2,
    "hpo.results": 1,
    "hpo.mistakes": 2,
    "hpo.statistics": 2,
    "hpo.score_estimates": 3,
    # what is asked, and of whom
    "hpo.space_checks": 3,
    "hpo.schema": 3,
    "hpo.hub": 3,
    "hpo.tracking_writer": 2,
    "hpo.tracking_store": 2,
    "hpo.tracking_run": 3,
    "hpo.tracking_model": 4,
    "hpo.tracking": 5,
    "hpo.data": 3,
    "hpo.data.sources": 3,
    "hpo.data.hold_out": 3,
    "hpo.data.overlap": 3,
    "hpo.data.splits": 3,
    "hpo.data.quality": 3,
    "hpo.data.tokens": 3,
    "hpo.study_file": 4,
    "hpo.space": 4,
    # the parts of training, and what search needs
    "hpo.training": 4,
    "hpo.training.attention": 4,
    "hpo.training.batches": 4,
    "hpo.training.device": 4,
    "hpo.training.dropout": 4,
    "hpo.training.early_stopping": 4,
    "hpo.training.ema": 4,
    "hpo.training.encoder": 4,
    "hpo.training.graphs": 4,
    "hpo.training.losses": 4,
    "hpo.training.metrics": 4,
    "hpo.training.model": 4,
    "hpo.training.objectives": 4,
    "hpo.training.objectives.base": 4,
    "hpo.training.objectives.r_drop": 4,
    "hpo.training.objectives.supervised": 4,
    "hpo.training.optimizer": 4,
    "hpo.training.optimizers": 4,
    "hpo.training.optimizers.adafactor": 4,
    "hpo.training.optimizers.adam": 4,
    "hpo.training.optimizers.adamw": 4,
    "hpo.training.optimizers.base": 4,
    "hpo.training.optimizers.muon": 4,
    "hpo.training.optimizers.sgd": 4,
    "hpo.training.schedule": 4,
    "hpo.training.step": 4,
    "hpo.training.vocabulary": 4,
    "hpo.hub_choice": 5,
    "hpo.search": 5,
    "hpo.tasks": 5,
    "hpo.tasks.base": 5,
    "hpo.tasks.sequence_classification": 5,
    "hpo.storage_server": 4,
    "hpo.storage": 5,
    "hpo.storage_reader": 6,
    "hpo.lease": 5,
    "hpo.attempts": 5,
    "hpo.study": 6,
    # the one training loop, and what is made of stored trials
    "hpo.training.setup": 7,
    "hpo.training.finetune": 7,
    "hpo.training.checkpoint": 7,
    "hpo.training.predictions": 7,
    "hpo.report": 7,
    "hpo.report.account": 7,
    "hpo.report.clean_data": 7,
    "hpo.report.parts": 7,
    "hpo.report.expected": 7,
    "hpo.report.importance": 7,
    "hpo.report.outlook": 7,
    "hpo.report.ranges": 7,
    "hpo.report.answers": 7,
    "hpo.report.compare": 7,
    "hpo.report.contents": 7,
    "hpo.report.figures": 7,
    "hpo.report.formats": 7,
    "hpo.report.html_page": 7,
    "hpo.report.charts": 7,
    "hpo.report.charts.chart": 7,
    "hpo.report.charts.finals": 7,
    "hpo.report.charts.outlook": 7,
    "hpo.report.charts.parameters": 7,
    "hpo.report.charts.search": 7,
    "hpo.report.page": 7,
    "hpo.report.tables": 7,
    "hpo.report.worktime": 7,
    "hpo.export": 7,
    "hpo.progress": 7,
    "hpo.facts": 8,
    "hpo.trial_logging": 8,
    "hpo.study_logging": 9,
    "hpo.memory": 6,
    "hpo.trial_end": 8,
    "hpo.trial": 9,
    "hpo.divergence": 7,
    "hpo.executors": 10,
    "hpo.executors.base": 10,
    "hpo.executors.processes": 10,
    "hpo.executors.ray_cluster": 10,
    "hpo.executors.ray_connection": 10,
    "hpo.executors.worker": 10,
    "hpo.executors.serial": 10,
    "hpo.supervisor": 11,
    "hpo.conclusion": 11,
    "hpo.finalists": 12,
    "hpo.tune": 13,
    "hpo.examination": 14,
    "hpo.doctor": 15,
    # the command line
    "hpo.search_view": 8,
    "hpo.listing": 13,
    "hpo.console": 14,
    "hpo.report.__main__": 15,
    "hpo.run": 15,
    "hpo.train": 15,
    "hpo.ui": 15,
}
LIBRARIES = {
    # `served_model` is none of ours when it runs: MLflow loads a registered model with it, without `hpo`.
    "mlflow": ("hpo.tracking", "hpo.tracking_store", "hpo.tracking_model", "hpo.served_model"),
    "torch": ("hpo.training", "hpo.tasks"),
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
        "hpo.finalists",
        "hpo.tune",
        "hpo.report",
        "hpo.export",
        "hpo.console",
        "hpo.progress",
        "hpo.listing",
    ),
    "transformers": ("hpo.training", "hpo.tasks", "hpo.data.tokens", "hpo.facts", "hpo.served_model"),
    "datasets": ("hpo.data.sources", "hpo.hub"),
    "matplotlib": ("hpo.report.figures",),
    "plotly": ("hpo.report.charts.chart",),
    "sqlalchemy": ("hpo.storage", "hpo.storage_server", "hpo.storage_reader", "hpo.tracking", "hpo.tracking_store"),
    "psycopg": ("hpo.storage_server",),
    "requests": ("hpo.tracking_store",),
    "ray": ("hpo.executors.ray_cluster", "hpo.executors.ray_connection"),
    "rich": (
        "hpo.console",
        "hpo.doctor",
        "hpo.listing",
        "hpo.live",
        "hpo.plain_text",
        "hpo.search_view",
        "hpo.train",
    ),
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted((ROOT / "hpo").rglob("*.py"))}


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
