"""What a robot did becomes logs to train on: one HDF5 file an episode, joined at the end."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.control.loop import EpisodeEnd
from qsft_robot.logs.checks import env_args_of, open_demonstrations
from qsft_robot.logs.merge import environment_differences, merge_files
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.types import Episode, Observation

EPISODES, LOGS = "episodes", "logs.hdf5"
# Ends whose outcome is known: the log is terminal. Every other end cuts the log short.
KNOWN = ("success", "done", "failed", "over")


class EpisodeLog:
    """Records one episode and writes its file when it is over; a kill before loses this one only.

    Observations are those that the robot gave, all keys; actions are those that were sent.
    """

    def __init__(
        self,
        path: Path,
        env_args: Mapping[str, Any],
        attributes: Mapping[str, Any],
        outcome: str | None = None,
    ) -> None:
        """`outcome`: what an end by the time limit is, "success" or "failure"; None: cut short."""
        self.path, self._outcome = path, outcome
        self._env_args, self._attributes = env_args, dict(attributes)
        self._seen: list[Observation] = []
        self._actions: list[np.ndarray] = []
        self._held = 0

    def step(self, observation: Observation, action: np.ndarray, held: bool) -> None:
        """`action` was sent after `observation`."""
        self._seen.append(observation)
        self._actions.append(np.array(action, np.float32))
        self._held += held

    def finish(self, observation: Observation, end: EpisodeEnd) -> None:
        """Write the file, unless nothing was sent; OSError when the disk is full."""
        judged = end.reason == "steps" and self._outcome is not None
        success = end.success or (judged and self._outcome == "success")
        if end.reason == "robot" and self._seen:
            # What the last action led to was never seen.
            observation = self._seen.pop()
            self._actions.pop()
        if not self._actions:
            return
        seen = [*self._seen, observation]
        rows, kept = _whole_rows(seen)
        rewards = np.zeros(len(self._actions), np.float32)
        rewards[-1] = float(success)
        known = end.reason in KNOWN or judged
        episode = Episode(
            name="demo_0",
            observations=rows,
            actions=np.stack(self._actions),
            rewards=rewards,
            terminated=known,
            truncated=not known,
            success=success,
            instruction=seen[0].instruction,
            attributes={**self._attributes, "end": end.reason, "held_ticks": self._held, **kept},
        )
        with DemonstrationWriter(self.path, self._env_args) as writer:
            writer.append(episode, masks=["success" if success else "failure"])


def _whole_rows(seen: Sequence[Observation]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Rows by key, [t, ...], of what every observation has in one shape, and attributes that tell
    what was mended: a reading of NaN is the finite one before it (or after, at the start)."""
    found = [
        {**o.images, **{k: np.asarray(x, np.float32) for k, x in o.state.items()}} for o in seen
    ]
    keys = dict.fromkeys(key for row in found for key in row)
    shapes = {key: {row[key].shape for row in found if key in row} for key in keys}
    whole = [
        key for key, there in shapes.items() if len(there) == 1 and all(key in row for row in found)
    ]
    if left_out := sorted(shapes.keys() - set(whole)):
        warnings.warn(
            f"{', '.join(left_out)} came late or in another shape at a tick, and so is not in the "
            "log of this episode.",
            stacklevel=3,
        )
    rows = {key: np.stack([row[key] for row in found]) for key in whole}
    mended = 0
    for key, x in rows.items():
        if x.dtype == np.uint8:
            continue
        finite = np.isfinite(x).reshape(len(x), -1).all(1)
        if finite.all() or not finite.any():
            continue
        at = np.maximum.accumulate(np.where(finite, np.arange(len(x)), -1))
        rows[key] = x[np.where(at < 0, finite.argmax(), at)]
        mended += int((~finite).sum())
    return rows, {"mended_readings": mended} if mended else {}


class RunLog:
    """The logs of a run: <out>/episodes/episode_00000.hdf5 and on, then <out>/logs.hdf5."""

    def __init__(self, out: Path, env_args: Mapping[str, Any]) -> None:
        """ValueError where the folder holds episodes of another environment or rate: they could not
        be joined."""
        self.out, self._env_args = out, dict(env_args)
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
