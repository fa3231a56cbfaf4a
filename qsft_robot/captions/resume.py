"""Goes on with a pretraining that was stopped: its state is a folder beside its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn, optim

from qsft_robot.files import atomic_folder, check_sums, read_json, write_json
from qsft_robot.policy.checkpoint import (
    load_optimizer_tensors,
    optimizer_tensors,
    read_tensors,
    write_tensors,
)

_STATE, _OPTIMIZER = "state.json", "optimizer.safetensors"


@dataclass
class Progress:
    """Mutable state of a pretraining: networks, optimizer, random numbers, curve."""

    modules: Mapping[str, nn.Module]
    optimizer: optim.Optimizer
    rng: np.random.Generator
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def step(self) -> int:
        """Updates done at the last validation."""
        return int(self.curve[-1]["step"]) if self.curve else 0

    @property
    def seconds(self) -> float:
        """Time spent up to the last validation."""
        return self.curve[-1]["time/s"] if self.curve else 0.0


def unfinished_folder(out: Path) -> Path:
    """Where the state of a pretraining into `out` is while it runs."""
    return out.with_name(f"{out.name}.unfinished")


def save_progress(folder: Path, settings: Mapping[str, Any], progress: Progress) -> None:
    """Write the state, atomically: a kill leaves this one or the one before."""
    with atomic_folder(folder) as temporary:
        for name, module in progress.modules.items():
            write_tensors(temporary / f"{name}.safetensors", module.state_dict())
        write_tensors(temporary / _OPTIMIZER, optimizer_tensors(progress.optimizer))
        random = progress.rng.bit_generator.state
        state = {"settings": dict(settings), "random": random, "curve": progress.curve}
        write_json(temporary / _STATE, state)


def precision_kept(folder: Path) -> Any:
    """The precision of a pretraining that was left unfinished; None where there is none."""
    state = folder / _STATE
    return _upgraded(read_json(state)["settings"])["precision"] if state.is_file() else None


def _upgraded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an earlier version under the names of today."""
    found = dict(settings)
    if "bf16" in found:
        found["precision"] = "bfloat16" if found.pop("bf16") else "float32"
    return found


def load_progress(folder: Path, settings: Mapping[str, Any], progress: Progress) -> None:
    """Put back what `save_progress` wrote; ValueError if other settings wrote it."""
    check_sums(folder)
    state = read_json(folder / _STATE)
    begun = _upgraded(state["settings"])
    changed = [
        f"{name} was {begun.get(name)}, is {settings.get(name)}"
        for name in sorted({*begun, *settings})
        if begun.get(name) != settings.get(name)
    ]
    if changed:
        raise ValueError(
            f"{folder}: left by a pretraining with other settings ({', '.join(changed)}). Give "
            "those to go on with it, delete the folder to begin anew, or give another --out."
        )
    for name, module in progress.modules.items():
        module.load_state_dict(read_tensors(folder / f"{name}.safetensors"))
    load_optimizer_tensors(progress.optimizer, read_tensors(folder / _OPTIMIZER))
    progress.rng.bit_generator.state = state["random"]
    progress.curve[:] = state["curve"]
