"""One log as the checks see it: numbers step by step, frames as digests, images nowhere."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qsft_robot.logs.doctor.frames import FrameDigests
from qsft_robot.types import Episode


@dataclass(frozen=True)
class Log:
    """One log of t steps. Row i is what was seen and recorded at step i."""

    name: str
    instruction: str = ""
    # low-dimensional key -> float [t, s]
    state: Mapping[str, np.ndarray] = field(default_factory=dict)
    # float [t, d]; [t, 0] where the actions are text commands
    actions: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    # camera -> digests of its t frames
    frames: Mapping[str, FrameDigests] = field(default_factory=dict)
    rewards: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    # What the file says of success; None where it says nothing.
    success: bool | None = None
    # "dones", "terminated", "truncated", "success" -> bool [t], those that stand in the file
    marks: Mapping[str, np.ndarray] = field(default_factory=dict)
    timestamps: np.ndarray | None = None  # float64 [t]
    # Hash of all texts and text commands, "" without any
    words: str = ""
    # Why the reader refuses the log; the other fields are then empty.
    refusal: str = ""

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def has_commands(self) -> bool:
        """Whether its actions are text commands."""
        return len(self.actions) > 0 and self.actions.shape[1] == 0

    @property
    def outcome(self) -> bool:
        """Success as the file says it, else a positive reward."""
        return bool((self.rewards > 0).any()) if self.success is None else self.success


@dataclass(frozen=True)
class LogSet:
    """All logs that are looked at together."""

    logs: Sequence[Log]
    control_hz: float | None = None
    # Whether the format wants an instruction for every log and timestamps in seconds (LeRobot).
    wants_instructions: bool = False
    seconds: bool = False
    # Whether frames may come from videos, whose encoder may repeat one for the next.
    videos: bool = False

    @property
    def readable(self) -> list[Log]:
        """Logs that the reader takes."""
        return [log for log in self.logs if not log.refusal]

    def without_clocks(self) -> LogSet:
        """The same logs without state values that count the steps: they move in a frozen state."""
        clocks = {key: self._clocks(key) for key in {k: 0 for x in self.readable for k in x.state}}
        if not any(x.any() for x in clocks.values()):
            return self
        logs = [
            replace(log, state={key: x[:, ~clocks[key]] for key, x in log.state.items()})
            for log in self.logs
        ]
        return replace(self, logs=logs)

    def _clocks(self, key: str) -> np.ndarray:
        """bool [s]: which values of a key rise by the same step everywhere."""
        steps = [
            np.diff(log.state[key].astype(np.float64), axis=0)
            for log in self.readable
            if key in log.state and len(log) > 2
        ]
        if not steps:
            return np.zeros(
                next(x.state[key].shape[1] for x in self.readable if key in x.state), bool
            )
        everything = np.concatenate(steps)
        low, high = everything.min(axis=0), everything.max(axis=0)
        return (low > 0) & (high - low < 1e-3 * high)


@dataclass(frozen=True)
class LogSource:
    """Where logs come from, and what is said of all of them together."""

    path: str
    environment: str
    # Each log without images, and as the checks see it; None where the reader refuses the log.
    logs: Iterator[tuple[Episode | None, Log]]
    control_hz: float | None = None
    masks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    # Filter key -> names in it that no log has
    absent: Mapping[str, Sequence[str]] = field(default_factory=dict)
    # Whether ends are marked by `dones` alone, and what was seen after the last action is missing.
    only_dones: bool = False
    no_next: bool = False
    # Observation key that is not read -> why, and what to do
    unread: Mapping[str, str] = field(default_factory=dict)
    # What is to say where the file tells that its images are upside down.
    upside_down: str | None = None
    # Those unread keys that are depth or labels.
    depth: Collection[str] = ()
    # Whether it is a LeRobot data set, and one that tells no success.
    lerobot: bool = False
    tells_success: bool = True
