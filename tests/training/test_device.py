"""Which precision a device gets, by what it says that it can do."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hpo.errors import DataError
from hpo.training.device import Device, choose_device

pytestmark = pytest.mark.usefixtures("no_gpu")

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("features", "precision", "dtype"),
    [
        ({}, "auto", torch.float32),
        ({}, "fp32", torch.float32),
        ({"avx512_bf16": False, "amx_bf16": True}, "auto", torch.bfloat16),
        ({"avx512_bf16": True}, "bf16", torch.bfloat16),
        ({"arm_bf16": True}, "bf16", torch.bfloat16),
        ({"avx512_bf16": True}, "fp32", torch.float32),
    ],
)
def test_precision(monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], precision: str, dtype: object) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    device = choose_device(precision)  # type: ignore[arg-type]
    assert (device.type, device.dtype) == ("cpu", dtype)
    assert device.precision == ("bf16" if dtype == torch.bfloat16 else "fp32")


def test_bf16_without_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(DataError, match=r"bf16 needs a device .* but got .*Use precision: auto or fp32"):
        choose_device("bf16")


@pytest.mark.parametrize(("has_units", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision_of_a_gpu(monkeypatch: pytest.MonkeyPatch, has_units: bool, dtype: torch.dtype) -> None:
    """By what the driver says that it computes in itself: emulated bf16 is slower than float32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    asked: list[bool] = []

    def is_bf16_supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return has_units

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    device = choose_device("auto")
    assert (device.type, device.name, device.dtype, asked) == ("cuda", "a GPU", dtype, [False])


@pytest.mark.parametrize(("features", "result"), [({}, torch.float32), ({"amx_bf16": True}, torch.bfloat16)])
def test_autocast(monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], result: torch.dtype) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    matrix = torch.ones(2, 2)
    with choose_device("auto").autocast():
        assert (matrix @ matrix).dtype == result


def test_memory_is_that_of_the_process() -> None:
    device = choose_device("fp32")
    device.reset_peak_memory()
    device.synchronize()
    # MiB: more than an interpreter with torch, less than a terabyte.
    assert 50 < device.memory_mib() < 2**20


def test_a_gpu_without_room_for_a_process_has_none_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA says so when it is asked: others hold all of it, and a trial waits for them."""

    def refuse() -> tuple[int, int]:
        raise error

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", refuse)
    error = torch.AcceleratorError("CUDA error: out of memory")
    error.error_code = 2  # type: ignore[attr-defined]
    assert Device("cuda", "a GPU", torch.float32).available_mib() == 0.0
    error.error_code = 700  # type: ignore[attr-defined]
    with pytest.raises(torch.AcceleratorError):
        Device("cuda", "a GPU", torch.float32).available_mib()


MALLOC = """
import resource, torch
from hpo.training.device import keep_freed_memory, return_freed_memory

def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.ones(10)  # what torch loads at its first use
size = 16 * 2**20  # 64 MiB: more than the C library keeps by itself, in 16,384 pages of 4 KiB
print(sum(faults(size) for _ in range(5)))
keep_freed_memory()
print(sum([faults(size) for _ in range(25)][20:]))
return_freed_memory()
print(faults(size))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_what_is_freed_is_kept_for_the_next_step() -> None:
    answer = subprocess.run([sys.executable, "-c", MALLOC], capture_output=True, text=True, check=True, cwd=ROOT)
    by_default, kept, returned = map(int, answer.stdout.split())
    if by_default < 5 * 16_384:
        pytest.skip("the system gives huge pages")
    # Looked at after a while: at first something small comes to lie in what was freed, and it does not fit any more.
    assert kept < 100
    assert returned >= 16_384


ARROW = """
import pandas, psutil
from hpo.training.device import return_freed_memory

def resident():
    return psutil.Process().memory_info().rss

before = resident()
frame = pandas.read_csv("rows.csv", dtype=str)
assert len(frame) == 100_000
del frame
kept = resident() - before
return_freed_memory()
print(kept, resident() - before)
"""


def test_what_reading_the_data_took_is_returned(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\n" + 100_000 * ("word " * 60 + "\n"))  # 30 MB
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [sys.executable, "-c", ARROW], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    kept, left = map(int, answer.stdout.split())
    assert left < kept - 20 * 2**20
