"""Logs of a robot run: one HDF5 file an episode, joined at the end."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.control.loop import EpisodeEnd
from qsft_robot.control.row_spool import RowSpool
from qsft_robot.logs.checks import env_args_of, open_demonstrations
from qsft_robot.logs.ends import OUTCOME, UNTOLD
from qsft_robot.logs.merge import environment_differences, merge_files
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.types import Episode, Observation

EPISODES, LOGS = "episodes", "logs.hdf5"
# Ends whose outcome is known: the log is terminal. Every other end cuts the log short.
KNOWN = ("success", "done", "failed", "over")


class EpisodeLog:
    """Records one episode: rows go to disk as they come, and become the episode's file when it is
    over; a kill before loses this one only. Memory is bounded, however long an episode is.

    Observations are those that the robot gave, all keys; actions are those that were sent.
    """

    def __init__(
        self,
        path: Path,
        env_args: Mapping[str, Any],
        attributes: Mapping[str, Any],
        outcome: str | None = None,
    ) -> None:
        """`outcome`: what an end by the time limit is, "success" or "failure"; None: a failure
        where the robot tells success, else cut short."""
        self.path, self._outcome = path, outcome
        self._env_args, self._attributes = env_args, dict(attributes)
        self._spool = RowSpool(path.with_name(f".{path.stem}.rows"))
        self._instruction = ""
        self._steps = self._held = 0

    def step(self, observation: Observation, action: np.ndarray, held: bool) -> None:
        """`action` was sent after `observation`."""
        if not self._steps:
            self._instruction = observation.instruction
        row = {**_row(observation), _ACTION: np.array(action, np.float32)}
        self._steps += self._spool.put(row)
        self._held += held

    def finish(self, observation: Observation, end: EpisodeEnd) -> None:
        """Write the file, unless nothing was sent; OSError when the disk is full."""
        try:
            whole = not self._spool.full
            if end.reason != "robot" and self._steps:
                whole &= self._spool.put(_row(observation))
            self._spool.close()
            # What the last action led to was never seen where the robot failed, nor where the disk
            # took no more rows.
            steps = self._steps if whole and end.reason != "robot" else self._steps - 1
            if steps > 0:
                self._write(steps, end if whole else EpisodeEnd("disk", False, steps))
        finally:
            self._spool.remove()

    def _write(self, steps: int, end: EpisodeEnd) -> None:
        success = end.success
        if end.reason == "steps" and self._outcome is not None:
            success = success or self._outcome == "success"
        # An end whose outcome nobody told is none that is known.
        known = end.reason in (*KNOWN, "steps") and success is not None
        found = self._spool.rows(steps + 1, but=(_ACTION,))
        if found.left_out:
            warnings.warn(
                f"{', '.join(found.left_out)} came late or in another shape at a tick, and so is "
                "not in the log of this episode.",
                stacklevel=4,
            )
        if not found.rows:
            return  # a log of nothing that was seen
        if end.reason == "disk":
            warnings.warn(
                f"{self.path}: the disk did not keep up with the rows, so the log of this episode "
                f"ends after {steps} steps.",
                stacklevel=4,
            )
        rewards = np.zeros(steps, np.float32)
        rewards[-1] = float(bool(success))
        untold = {OUTCOME: UNTOLD} if success is None else {}
        kept = {"mended_readings": found.mended} if found.mended else {}
        episode = Episode(
            name="demo_0",
            observations=found.rows,
            actions=self._spool.column(_ACTION, steps),
            rewards=rewards,
            terminated=known,
            truncated=not known,
            success=bool(success),
            instruction=self._instruction,
            attributes={**self._attributes, "end": end.reason, "held_ticks": self._held, **kept}
            | untold,
        )
        mask = {True: "success", False: "failure", None: UNTOLD}[success]
        with DemonstrationWriter(self.path, self._env_args) as writer:
            writer.append(episode, masks=[mask])


# The rows of actions, beside those of the sensors.
_ACTION = "<action>"


def _row(observation: Observation) -> dict[str, np.ndarray]:
    state = {k: np.asarray(x, np.float32) for k, x in observation.state.items()}
    return {**observation.images, **state}


class RunLog:
    """The logs of a run: <out>/episodes/episode_00000.hdf5 and on, then <out>/logs.hdf5."""

    def __init__(self, out: Path, env_args: Mapping[str, Any]) -> None:
        """ValueError where the folder holds episodes of another environment or rate: they could not
        be joined."""
        self.out, self._env_args = out, dict(env_args)
        for left in (out / EPISODES).glob(".episode_*.rows"):
            shutil.rmtree(left, ignore_errors=True)  # of an episode that a kill cut off
        files = self.files()
        self._next = 1 + max((_number(path) for path in files), default=-1)
        if not files:
            return
        with open_demonstrations(files[-1]) as file:
            there = env_args_of(file)
        if differing := environment_differences(there, self._env_args):
            raise ValueError(
                f"--out {out}: its episodes come from another environment: {'; '.join(differing)}. "
                "Record into another folder, or without logs (--no-record)."
            )

    def files(self) -> list[Path]:
        """The finished episodes, those of earlier runs into the same folder too."""
        return sorted(p for p in (self.out / EPISODES).glob("episode_*.hdf5") if _number(p) >= 0)

    def episode(self, attributes: Mapping[str, Any], outcome: str | None = None) -> EpisodeLog:
        """The recorder of the next episode; `attributes` (JSON types) are stored with it."""
        path = self.out / EPISODES / f"episode_{self._next:05d}.hdf5"
        self._next += 1
        return EpisodeLog(path, self._env_args, attributes, outcome)

    def merge(self) -> Path | None:
        """Join the finished episodes to <out>/logs.hdf5; None when there is none."""
        files = self.files()
        if not files:
            return None
        return merge_files(files, self.out / LOGS, source_masks=False)


def _number(path: Path) -> int:
    found = re.fullmatch(r"episode_(\d+)", path.stem)
    return int(found[1]) if found else -1
