"""The robot protocol of the control loop: four verbs, a specification, and the hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from qsft_robot.types import Observation


@dataclass(frozen=True)
class EndEffector:
    """Where a robot reports its end effector, and what the first three numbers of an action do."""

    # State key whose first three numbers are the position: meters, base frame.
    key: str
    # "displacement": the first three numbers move it by `scale` meters each for 1;
    # "position": they are where it shall be, `scale` meters for 1.
    action: Literal["displacement", "position"] = "displacement"
    scale: float = 1.0
    # Displacements are added to a commanded point that may run ahead of the hand by so many meters
    # in each direction; 0: they are added to where the hand is.
    leash: float = 0.0


@dataclass(frozen=True)
class RobotSpec:
    """Interface of a robot; the start-up check compares it with the policy's."""

    name: str
    # camera key -> (height, width) in pixels
    cameras: Mapping[str, tuple[int, int]]
    # state key -> its size
    state: Mapping[str, int]
    # Lowest and highest action that it takes, float64 [d]; -inf, inf where it does not say.
    action_low: np.ndarray
    action_high: np.ndarray
    # Actions a second that it is made for; None: any.
    control_hz: float | None = None
    # Dimensions that are displacements or speeds: to hold is to send 0 there. The others are places
    # to be at: to hold is to repeat the last one sent.
    displacements: tuple[int, ...] = ()
    # Dimensions that say which, not how much (a gripper that opens or closes): never averaged.
    switches: tuple[int, ...] = ()
    # Unit of each dimension, e.g. ("rad", ...); None: it does not say.
    units: tuple[str, ...] | None = None
    # State key of the size of an action that measures what its places command (joint positions).
    measured: str | None = None
    end_effector: EndEffector | None = None
    # It moves one step a command, not with the clock: a simulator, a recording. A late tick then
    # delays the later ones, and one without a command is none.
    stepped: bool = False
    # What rebuilds the environment from a log (robomimic's env_args).
    env_args: Mapping[str, Any] = field(default_factory=dict)
    # Displacements that are speeds, whose effect doesn't depend on how often they are sent. The
    # others are steps, one a command: a loop faster than the logs makes them shorter.
    speeds: tuple[int, ...] = ()
    # What tells this arm from others on the computer, e.g. "/dev/ttyACM0": two runs can't have it
    # at once. None: its file and settings tell.
    device: str | None = None

    @property
    def action_dim(self) -> int:
        """Numbers of one action."""
        return len(self.action_low)

    def __post_init__(self) -> None:
        low, high = self.action_low, self.action_high
        if np.shape(low) != np.shape(high) or np.ndim(low) != 1 or not (low < high).all():
            raise ValueError(
                f"robot {self.name}: action_low and action_high are [d] with low < high, got "
                f"{np.asarray(low).tolist()} and {np.asarray(high).tolist()}."
            )
        for what in ("displacements", "switches", "speeds"):
            if any(not 0 <= i < self.action_dim for i in getattr(self, what)):
                raise ValueError(
                    f"robot {self.name}: {what} {getattr(self, what)} name a dimension that "
                    f"actions of {self.action_dim} numbers do not have."
                )
        if not set(self.speeds) <= set(self.displacements):
            raise ValueError(
                f"robot {self.name}: speeds {self.speeds} are no part of displacements "
                f"{self.displacements}."
            )
        if self.units is not None and len(self.units) != self.action_dim:
            raise ValueError(
                f"robot {self.name}: {len(self.units)} units for {self.action_dim} dimensions."
            )
        if self.measured is not None and self.state.get(self.measured) != self.action_dim:
            raise ValueError(
                f"robot {self.name}: measured names the state key {self.measured!r} of size "
                f"{self.state.get(self.measured)}, but actions have {self.action_dim} numbers."
            )
        end = self.end_effector
        if end is not None and (self.state.get(end.key, 0) < 3 or self.action_dim < 3):
            raise ValueError(
                f"robot {self.name}: the end effector needs three numbers in the state key "
                f"{end.key!r} and in an action; there are {dict(self.state)}."
            )

    @property
    def is_displacement(self) -> np.ndarray:
        """Which dimensions are displacements or speeds, bool [d]."""
        flags = np.zeros(self.action_dim, bool)
        flags[list(self.displacements)] = True
        return flags

    def hold(self, last: np.ndarray | None, observation: Observation | None) -> np.ndarray | None:
        """The action [d] that keeps the robot where it is: 0 for displacements, else what was sent
        last, else what is measured. None where nothing tells, or a sensor reads NaN: then nothing
        is to be sent."""
        still = self.is_displacement
        if last is None and not still.all():
            if observation is None or self.measured is None:
                return None
            last = observation.state[self.measured]
            if not np.isfinite(last).all():
                return None
        start = np.zeros(self.action_dim, np.float32) if last is None else last
        return np.where(still, 0.0, start).astype(np.float32)


def image_sizes(seen: Observation) -> dict[str, tuple[int, int]]:
    """camera key -> (height, width) of an observation's images."""
    return {key: (int(x.shape[0]), int(x.shape[1])) for key, x in seen.images.items()}


class Robot(Protocol):
    """An arm. `send_action` returns at once; the robot keeps its last command until the next.

    All four verbs are called from one thread. See StoppableRobot for a second way to stop it.
    """

    @property
    def spec(self) -> RobotSpec: ...

    def connect(self) -> None: ...

    def get_observation(self) -> Observation: ...

    def send_action(self, action: np.ndarray) -> np.ndarray | None:
        """Send `action` float32 [d]; return what was really sent where the robot changed it."""
        ...

    def disconnect(self) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How the episode of a robot stands."""

    success: bool | None  # None where nothing tells it
    # Nothing more can be done: a recording is at its end, an environment reached its step limit.
    over: bool = False


@runtime_checkable
class StoppableRobot(Protocol):
    """A robot with a second path to stand still: an emergency stop, a line of its own."""

    def stop(self) -> None:
        """Stop moving, whatever the other verbs are doing: called from another thread, while one of
        them may be blocked."""
        ...


@runtime_checkable
class EpisodicRobot(Protocol):
    """A robot that lays out its own episodes and knows when one succeeded: a simulation."""

    def begin_episode(self, seed: int) -> None: ...

    def outcome(self) -> Outcome:
        """As of the last observation."""
        ...
