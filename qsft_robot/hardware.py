"""Device and precision that "auto" takes on this machine, each with its reason in words."""

from __future__ import annotations

import functools
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from qsft_robot.extras import is_installed

AUTO = "auto"
Precision: TypeAlias = Literal["float32", "bfloat16"]
# What Linux shows where a driver of a GPU is loaded: NVIDIA's, AMD's, and that of WSL.
_GPU_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_CPUINFO = Path("/proc/cpuinfo")
# Its flags for arithmetic in bfloat16 (x86, then ARM).
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
# bfloat16 has to be so much faster than float32 to be worth its rounding.
_WORTH = 0.95


def choose_device(asked: str) -> tuple[str, str]:
    """The device to compute on, and why: the one asked for, or with "auto" the first of cuda, mps
    and cpu that is here. Where no driver of a GPU is loaded torch is not asked for one."""
    if asked != AUTO:
        return asked, "as asked"
    if not _may_have_gpu() or not is_installed("torch"):
        return "cpu", "no GPU here"
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "mps", "Apple's GPU"
    return "cpu", "torch finds no GPU here"


def choose_precision(asked: str, device: str) -> tuple[Precision, str]:
    """The precision to train in, "float32" or "bfloat16", and why. With "auto" a GPU is asked for
    its compute capability; a CPU that has units for bfloat16, or does not tell, is timed on a
    product and a convolution, since its libraries may not use them: without such units autocast to
    bfloat16 took 5 to 10 times as long as float32."""
    if asked != AUTO:
        return ("bfloat16" if asked == "bfloat16" else "float32"), "as asked"
    kind = device.split(":", maxsplit=1)[0]
    if kind == "cuda":
        import torch

        major, minor = torch.cuda.get_device_capability(device)
        fast = major >= 8
        return _named(fast), f"compute capability {major}.{minor}"
    if kind != "cpu":
        return "float32", f"bfloat16 was not measured on {kind}"
    units = bfloat16_units()
    if units is not None and not units:
        return "float32", "this processor has no bfloat16 units"
    ratio = bfloat16_ratio()
    told = f"bfloat16 takes {ratio:.2g} of float32's time here"
    return _named(ratio < _WORTH), told


def bfloat16_units() -> set[str] | None:
    """The processor's flags for arithmetic in bfloat16; None where it does not tell its flags."""
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return None
    lines = [x for x in text.splitlines() if x.startswith(("flags", "Features"))]
    return set(lines[0].split()) & _BFLOAT16_FLAGS if lines else None


@functools.cache
def bfloat16_ratio() -> float:
    """Processor time of a small product and a small convolution, with their gradients, under
    bfloat16 autocast, in units of float32's. Other processes do not change it much: the thread's
    own time counts, and the least of a few runs. Timed once a process, so that two runs in it
    take the same precision; near the bound two processes may not."""
    import torch

    threads, state = torch.get_num_threads(), torch.get_rng_state()
    layers = [
        (torch.nn.Linear(256, 256), torch.randn(512, 256)),
        (torch.nn.Conv2d(24, 48, 3, padding=1), torch.randn(16, 24, 16, 16)),
    ]

    def run(half: bool) -> None:
        for layer, x in layers:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                y = layer(x)
            y.float().square().mean().backward()

    torch.set_num_threads(1)
    try:
        return _least_s(lambda: run(True)) / _least_s(lambda: run(False))
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


def _least_s(run: Callable[[], None], repeats: int = 5) -> float:
    run()  # compiles its kernels
    found = []
    for _ in range(repeats):
        began = time.thread_time()
        run()
        found.append(time.thread_time() - began)
    return max(min(found), 1e-9)


def _named(half: bool) -> Precision:
    return "bfloat16" if half else "float32"


def _may_have_gpu() -> bool:
    if sys.platform == "linux":
        return any(Path(name).exists() for name in _GPU_DEVICES)
    return sys.platform == "win32" or platform.machine() == "arm64"
