"""The benchmark of a growing study, on a handful of trials."""

from pathlib import Path

import pytest

from benchmarks.measure import ROOT
from benchmarks.search_scaling import PARTS, draw, measure, print_tables
from hpo.report import trials_table
from hpo.storage import open_storage
from hpo.study import load_study
from hpo.study_file import read_study


def test_a_study_is_filled_and_every_part_of_a_trial_is_timed(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = read_study(ROOT / "studies" / "sst2.yaml", ["sampler={name: random}"])
    measured = measure(spec, 12, 2, output)
    table = trials_table(load_study(open_storage(output), spec.name))
    assert table["state"].tolist().count("PRUNED") == 6  # of the filled ones; those that are timed go to their end
    assert len(table) == 12 + 1 + 2
    assert len(measured.parts) == len(measured.alone) == 2
    assert all(set(lap) == set(PARTS) for lap in measured.parts)
    assert min(lap[part] for lap in measured.parts for part in PARTS) > 0
    print_tables([measured])
    assert "random       12" in capsys.readouterr().out
    draw([measured], output / "figure.png")
    assert (output / "figure.png").stat().st_size > 10_000
