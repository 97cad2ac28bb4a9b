"""Two checkouts take their steps in turns; held against itself, a checkout has the same losses to the bit."""

from pathlib import Path

import pytest

from benchmarks.against import main
from benchmarks.measure import ROOT


def test_a_checkout_against_itself(study_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cores = ["--cores", "2"]  # tests that run beside it or after it keep theirs
    assert main([str(ROOT), "--quick", "--study", str(study_path), *cores]) == 0
    said = capfd.readouterr().out
    assert "losses: the same to the bit, 4 steps" in said and "median of 1 pairs of processes" in said


def test_what_is_no_checkout(study_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="must train with the code of"):
        main([str(tmp_path), "--quick", "--study", str(study_path), "--cores", "2"])
