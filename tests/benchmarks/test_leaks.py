"""What the benchmark of leaks says of rows whose relatives are known."""

from pathlib import Path

import pytest

from benchmarks.leaks import WAYS, Scored, mean, measure, rows_of
from hpo.spec import DataSpec


def test_a_mean_with_its_interval_by_hand() -> None:
    """Mean 2, standard deviation 1: with 2 degrees of freedom t is 4.3027."""
    found = mean([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert (found.low, found.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)


def test_the_table_takes_differences_draw_by_draw() -> None:
    rows = rows_of(
        "x",
        {"a": [Scored(10, 90.0, 80.0), Scored(10, 80.0, 70.0)], "b": [Scored(8, 85.0, 84.0), Scored(9, 75.0, 74.0)]},
    )
    assert rows[0][1:] == ("10", "85.00 %", "75.00 %", "+10.00 (+10.00 to +10.00)", "")
    assert rows[1][3:] == ("79.00 %", "+1.00 (+1.00 to +1.00)", "-5.00 (-5.00 to -5.00)")


def test_labels_that_only_relatives_know(tmp_path: Path) -> None:
    """Labels are noise, and each text stands there twice: only who has seen the other one can know its label."""
    rows = [
        (" ".join(f"{word}{number}" for word in "abcdef") + end, "no" if number % 3 else "yes")
        for number in range(150)
        for end in ("", " !")
    ]
    for name, chosen in (("train", rows[:200]), ("test", rows[200::2])):
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in chosen)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = DataSpec.model_validate(
        {"train": str(tmp_path / "train.tsv"), "test": str(tmp_path / "test.tsv"), "validation_size": 40}
    )
    scored = measure(data, 2)
    first, dropped, _ = (scored[way] for way in WAYS)
    for leaking, clean in zip(first, dropped, strict=True):
        assert leaking.train_rows == 160
        assert 120 <= clean.train_rows < 140
        assert leaking.validation > clean.validation + 10
