"""`--help` and a mistake in the study file answer at once: nothing heavy is imported for them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
from hpo.run import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
heavy = {"torch", "transformers", "mlflow", "datasets"} & set(sys.modules)
print("heavy:", sorted(heavy), "code:", code)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["--study", "sst2", "--set", "training.dropot=1"], 2), (["--study", "no-such-study"], 2)],
)
def test_nothing_heavy_is_imported(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == f"heavy: [] code: {code}"
    assert "Traceback" not in done.stderr
