"""What answers a typo must not load what takes seconds: `--help` and a mistake in a study file answer at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "mlflow", "datasets", "pandas", "matplotlib", "sklearn"}
# Runs a module as `python -m` does, and tells which modules were loaded when it ended.
PROBE = """
import json, runpy, sys
name, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    code = 0
except SystemExit as error:
    code = error.code
print(json.dumps([code, sorted({module.partition(".")[0] for module in sys.modules})]))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=50)


def loaded(code: str, *arguments: str) -> tuple[int | None, set[str], str]:
    """The exit code, the packages that were loaded, and what was said on stderr."""
    done = run("-c", code, *arguments)
    assert done.returncode == 0, done.stderr
    exit_code, modules = json.loads(done.stdout.splitlines()[-1])
    return exit_code, set(modules), done.stderr


@pytest.mark.parametrize(
    "module",
    ["hpo.run", "hpo.train", "hpo.ui", "hpo.schema", "hpo.init", "hpo.predict", "hpo.distill", "hpo.onnx"],
)
def test_help_loads_nothing_heavy(module: str) -> None:
    code, modules, _ = loaded(PROBE, module, "--help")
    assert code in (0, None)
    assert not modules & HEAVY


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--study", "sst"],
            "Choose one of ag_news, few_rows, go_emotions, methods, more_rows, rotten_tomatoes, rte,",
        ),
        (["--study", "nowhere/study.yaml"], "a study file must exist"),
        (["--study", "rotten_tomatoes", "--set", "training.dropuot=0.1"], "Did you mean `dropout`?"),
        (["--study", "sst2", "--set", "fallback.training.dropout=2"], "fallback.training.dropout"),
        (["--study", "sst2", "--set", "metric"], "`--set` takes path=value"),
        (["--study", "rotten_tomatoes", "--trials", "0"], "n_trials must be greater than or equal to 1"),
    ],
)
def test_a_mistake_is_told_before_anything_heavy_is_loaded(arguments: list[str], said: str, tmp_path: Path) -> None:
    code, modules, stderr = loaded(PROBE, "hpo.run", *arguments, "--output", str(tmp_path / "out"))
    assert code == 2
    assert not modules & HEAVY
    assert said in stderr and "Traceback" not in stderr
    assert not (tmp_path / "out").exists()


def test_from_the_command_line_itself() -> None:
    done = run("-m", "hpo.run", "--study", "sst2", "--set", "metric=eval/acc")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean `eval/accuracy`?" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["hpo.spec", "hpo.study_file", "hpo.space", "hpo.study", "hpo.hub_choice"])
def test_what_reads_a_study_loads_nothing_heavy(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps([0, [name.partition('.')[0] for name in sys.modules]]))"
    assert not loaded(code)[1] & HEAVY


def test_ray_is_not_loaded_before_it_is_chosen() -> None:
    code = "import json, sys, hpo.tune; print(json.dumps([0, [name.partition('.')[0] for name in sys.modules]]))"
    modules = loaded(code)[1]
    assert "torch" in modules and "ray" not in modules


def test_the_probe_sees_what_is_heavy() -> None:
    assert loaded("import json, mlflow, sys; print(json.dumps([0, list(sys.modules)]))")[1] & HEAVY
