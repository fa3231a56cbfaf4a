"""Flat files of steps (OGBench's .npz, D4RL's .hdf5) to logs in robomimic's schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from qsft_robot.flat_files.cutting import Cuts, logs_of
from qsft_robot.flat_files.trajectories import (
    ACTIONS,
    OBSERVATIONS,
    REWARDS,
    FlatFile,
    iterate,
    read_flat_file,
)
from qsft_robot.logs.ends import LogEnd
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.types import is_image

Rewards = Literal["auto", "simulator", "file"]


class Judge(Protocol):
    """Says which recorded states are successes of a task."""

    keys: tuple[str, ...]

    def successes(self, rows: Mapping[str, np.ndarray]) -> np.ndarray: ...


@dataclass
class FlatImportReport:
    """Report of an import: what was read, and how success was told."""

    path: Path
    told_by: str
    logs: int = 0
    steps: int = 0
    successes: int = 0
    trajectories: int = 0
    # Steps of the files that belong to no log: done in a state of success, or without a sequel.
    left_out: int = 0
    action_low: np.ndarray | None = None
    action_high: np.ndarray | None = None
    keys: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        keys = ", ".join(f"{key} ({column})" for column, key in self.keys.items())
        text = (
            f"{self.path}: {self.logs} logs, {self.steps} steps of {self.trajectories} "
            f"trajectories, {self.successes} successful ({self.told_by}); {self.left_out} steps "
            f"after a success or without a sequel left out\nobservations: {keys}"
        )
        low, high = self.action_low, self.action_high
        if low is not None and high is not None and max(-low.min(), high.max()) > 1:
            words = [" ".join(f"{x:.5g}" for x in bound) for bound in (low, high)]
            text += (
                "\nactions leave [-1, 1]; train with their own scale: "
                f"--data.action-low {words[0]} --data.action-high {words[1]}"
            )
        return text

    def note_actions(self, actions: np.ndarray) -> None:
        """Widen the range of actions seen."""
        low, high = actions.min(axis=0), actions.max(axis=0)
        if self.action_low is None or self.action_high is None:
            self.action_low, self.action_high = low, high
        self.action_low = np.minimum(self.action_low, low)
        self.action_high = np.maximum(self.action_high, high)


def import_flat(
    files: Sequence[Path],
    out: Path,
    *,
    env_args: Mapping[str, Any] | None = None,
    judge: Judge | None = None,
    rewards: Rewards = "auto",
    success_reward: float | None = None,
    end: LogEnd | None = None,
    max_length: int | None = None,
    keep: Sequence[str] = (),
    image_key: str = "image",
    instruction: str = "",
    valid_fraction: float = 0.1,
    seed: int = 0,
    tell: Callable[[int, int], None] | None = None,
) -> FlatImportReport:
    """Write the trajectories of `files` as logs to the HDF5 file `out`.

    Success is told by `judge`, which reads states (`qpos` and the like), else by the file's
    rewards: those of at least `success_reward`, or the higher of two levels; with other rewards
    nothing tells it and they are kept. Logs end at each success and after `max_length` actions.
    `end`: what the end of a trajectory means where nothing tells (truncated when None; a file with
    `timeouts` tells). `keep`: further columns that become observations. Trajectories are drawn into
    mask/valid and mask/train whole. Memory: one trajectory; `out` appears whole or not at all.
    ValueError names file and column.
    """
    if max_length is not None and max_length < 1:
        raise ValueError(f"logs of at most {max_length} actions; at least 1 is needed.")
    if not 0 <= valid_fraction < 1:
        raise ValueError(f"valid_fraction is {valid_fraction}, it lies in [0, 1).")
    read = [read_flat_file(path) for path in files]
    judge = None if rewards == "file" else judge
    if rewards == "simulator" and judge is None:
        raise ValueError("--rewards simulator: no simulator that judges states was named by --env.")
    for file in read:
        _check_columns(file, read[0], judge, keep)
    level, told_by = _success_level(read, judge, success_reward)
    column_keys = {OBSERVATIONS: _key_of(read[0], image_key), **{name: name for name in keep}}
    cuts = Cuts(
        keys=column_keys,
        max_length=max_length,
        success_reward=level,
        keeps_rewards=judge is None and level is None and REWARDS in read[0].rows,
        terminal=end == "terminal",
        instruction=instruction,
    )
    report = FlatImportReport(out, told_by, keys=column_keys)
    wanted = {*column_keys, ACTIONS, *(judge.keys if judge else ())}
    if judge is None and REWARDS in read[0].rows:
        wanted.add(REWARDS)
    total = sum(len(file.trajectories) for file in read)
    valid = _drawn(total, valid_fraction, seed)
    with DemonstrationWriter(out, env_args or {}, compress_images=True) as writer:
        for file in read:
            for part, done in _judged(file, sorted(wanted), judge):
                number = report.trajectories
                masks = ["mixed", "valid" if number in valid else "train"]
                report.note_actions(part.columns[ACTIONS])
                report.left_out += len(part)
                for log in logs_of(cuts, part, done):
                    writer.append(log, masks)
                    report.logs += 1
                    report.steps += len(log)
                    report.successes += log.success
                    report.left_out -= len(log)
                report.trajectories += 1
                if tell is not None:
                    tell(report.trajectories, total)
    return report


def _judged(file: FlatFile, wanted: Sequence[str], judge: Judge | None) -> Iterator[Any]:
    for part in iterate(file, wanted):
        try:
            yield part, None if judge is None else judge.successes(part.columns)
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from error


def _check_columns(
    file: FlatFile, first: FlatFile, judge: Judge | None, keep: Sequence[str]
) -> None:
    for name in judge.keys if judge else ():
        file.require(
            name,
            "The simulator tells from it in which states the task is done. Take a file that has it "
            "(OGBench's own do), or the file's own rewards (--rewards file).",
        )
    for name in keep:
        file.require(name, "(--keep)")
    for name in (OBSERVATIONS, ACTIONS, *keep):
        if file.rows[name] != first.rows[name]:
            raise ValueError(
                f"{file.path}: rows of {name!r} have shape {list(file.rows[name])}, those of "
                f"{first.path} {list(first.rows[name])}."
            )
    if judge is None and (REWARDS in file.rows) != (REWARDS in first.rows):
        raise ValueError(f"{file.path} and {first.path}: only one of them has {REWARDS!r}.")


def _success_level(
    files: Sequence[FlatFile], judge: Judge | None, asked: float | None
) -> tuple[float | None, str]:
    """The least reward that marks success, and in words what tells it."""
    if judge is not None:
        return None, "as the simulator judges the states"
    if asked is not None:
        files[0].require(REWARDS, "(--success-reward)")
        return asked, f"rewards of at least {asked:g}"
    if REWARDS not in files[0].rows:
        raise ValueError(
            f"{files[0].path}: has no 'rewards', so which steps succeed is unknown: name the "
            "simulator whose task tells it (--env ogbench/cube-single), if its states are here."
        )
    levels = {level for file in files for level in file.levels or ()}
    if all(file.levels is not None for file in files) and len(levels) == 2:
        return max(levels), f"rewards of {max(levels):g}, where others are {min(levels):g}"
    return None, "no reward marks success, so rewards are kept: --success-reward names one"


def _key_of(file: FlatFile, image_key: str) -> str:
    shape, dtype = file.rows[OBSERVATIONS], file.dtypes[OBSERVATIONS]
    if is_image(np.empty(shape, dtype)):
        return image_key
    if len(shape) != 1 or dtype.kind not in "fiu":
        raise ValueError(
            f"{file.path}: 'observations' has rows of shape {list(shape)} and type {dtype}; "
            "expected numbers [t, d] or images, uint8 [t, h, w, 3]."
        )
    return "observation"


def _drawn(total: int, fraction: float, seed: int) -> set[int]:
    chosen = np.random.default_rng([seed, total]).permutation(total)[: round(fraction * total)]
    return {int(number) for number in chosen}
