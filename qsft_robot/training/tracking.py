"""Trackers of training curves: TensorBoard, trackio and wandb behind one adapter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from qsft_robot.extras import is_installed
from qsft_robot.files import read_json, write_json
from qsft_robot.json_kinds import check_kinds

# The project of the curves, where WANDB_PROJECT names no other.
PROJECT = "qsft-robot"
# What a tracker called the run, so that a resumed one goes on there.
_FILE = "tracking.json"


class Tracker(Protocol):
    """Something that draws numbers over updates."""

    def add(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_tracker(kind: str) -> None:
    """ImportError with the install line where a tracker's package is missing."""
    if not is_installed(kind):
        raise ImportError(f"--track {kind}: {kind} is not installed: pip install {kind}")


def open_tracker(
    kind: str, run: Path, settings: Mapping[str, Any], resume_at: int | None = None
) -> Tracker:
    """The tracker of a run folder; `settings` are shown beside the curves. `resume_at` is the
    number of updates that were kept; those after it are drawn again."""
    if kind == "tensorboard":
        return _TensorBoard(run, resume_at)
    earlier = _earlier_name(run, kind) if resume_at is not None else None
    tracker = (_Trackio if kind == "trackio" else _Wandb)(run, settings, earlier)
    write_json(run / _FILE, {"kind": kind, "name": tracker.name})
    return tracker


def _earlier_name(run: Path, kind: str) -> str | None:
    if not (run / _FILE).is_file():
        return None
    told = read_json(run / _FILE)
    check_kinds(told, {"kind": str, "name": str}, str(run / _FILE))
    return told["name"] if told["kind"] == kind else None


class _TensorBoard:
    """A writer that is opened at the first line: a run that is refused leaves no file behind."""

    def __init__(self, run: Path, resume_at: int | None) -> None:
        self._folder, self._resume_at = run / "tensorboard", resume_at
        self._writer: Any = None

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=self._resume_at)
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Trackio:
    def __init__(self, run: Path, settings: Mapping[str, Any], earlier: str | None) -> None:
        import trackio

        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=earlier or run.resolve().name,
            config=dict(settings),
            resume="never" if earlier is None else "allow",
            embed=False,
        )
        self.name = str(self._run.name)

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _Wandb:
    def __init__(self, run: Path, settings: Mapping[str, Any], earlier: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.resolve().name,
            id=earlier,
            dir=run,
            config=dict(settings),
            resume="never" if earlier is None else "allow",
        )
        self.name = str(self._run.id)

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()
