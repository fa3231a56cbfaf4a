"""What "auto" takes: the fastest device that is here, and bfloat16 only where it is faster."""

from __future__ import annotations

import pytest
import torch

from qsft_robot import hardware
from qsft_robot.hardware import bfloat16_ratio, bfloat16_units, choose_device, choose_precision


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_cuda_before_mps_before_the_cpu(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(hardware, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto")[0] == device
    assert choose_device("cuda:1") == ("cuda:1", "as asked")


def test_where_no_driver_is_loaded_torch_is_not_asked(monkeypatch):
    monkeypatch.setattr(hardware, "_GPU_DEVICES", ())
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    monkeypatch.setattr(hardware, "is_installed", lambda name: 1 / 0)
    assert choose_device("auto") == ("cpu", "no GPU here")


@pytest.mark.parametrize(
    ("cpuinfo", "ratio", "taken"),
    [
        # Without the units nothing is timed (the ratio would raise).
        ("flags\t\t: fpu avx2 avx512f", None, "float32"),
        ("flags\t\t: fpu avx512_bf16", 0.5, "bfloat16"),
        # The units are there, and the libraries do not use them.
        ("flags\t\t: fpu amx_bf16", 9.7, "float32"),
        ("Features\t: fp asimd bf16", 0.5, "bfloat16"),
        # A processor that does not tell.
        ("", 0.5, "bfloat16"),
        ("", 1.0, "float32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_where_that_is_faster(
    monkeypatch, tmp_path, cpuinfo, ratio, taken
):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{cpuinfo}\n")
    monkeypatch.setattr(hardware, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(hardware, "bfloat16_ratio", lambda: ratio + 0.0)
    assert choose_precision("auto", "cpu")[0] == taken
    for asked in ("float32", "bfloat16"):
        assert choose_precision(asked, "cpu") == (asked, "as asked")


def test_a_gpu_is_asked_for_its_compute_capability(monkeypatch):
    for capability, taken in (((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, x=capability: x)
        assert choose_precision("auto", "cuda:0")[0] == taken
    assert choose_precision("auto", "mps")[0] == "float32"


def test_timing_leaves_threads_and_random_numbers_as_they_were():
    torch.manual_seed(0)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert bfloat16_ratio.__wrapped__() > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_this_machine_tells_its_units_or_nothing():
    units = bfloat16_units()
    assert units is None or units <= hardware._BFLOAT16_FLAGS
