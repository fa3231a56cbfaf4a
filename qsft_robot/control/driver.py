"""The driver of a robot as the loop calls it: every call watched, every answer examined."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsft_robot.control.cadence import Clock
from qsft_robot.control.robot import EpisodicRobot, Outcome, Robot, RobotSpec, StoppableRobot
from qsft_robot.printed_text import one_line
from qsft_robot.types import Observation, is_image

# Errors of a driver that cli.main tells in one line as they are; others get the verb's name.
TOLD = (ValueError, OSError, ImportError, RuntimeError)


@dataclass(frozen=True)
class Told:
    """What a driver says that it sent: a row of numbers, None where it is none, and its words."""

    row: np.ndarray | None
    words: str


class Driver:
    """One robot's verbs. `doing` names the one under way and since when, for the supervisor;
    `after` undoes what one may have done to the process."""

    def __init__(self, robot: Robot, clock: Clock) -> None:
        self.robot, self._clock = robot, clock
        self.after: Callable[[], None] = lambda: None
        self.doing: tuple[str, float] | None = None
        self.connected = False
        self._spec: RobotSpec | None = None
        self._process = os.getpid()

    @property
    def spec(self) -> RobotSpec:
        """As it was when first asked for: an arm does not become another one."""
        if self._spec is None:
            spec = self.robot.spec
            if not isinstance(spec, RobotSpec):
                raise ValueError(
                    f"the robot's spec is {type(spec).__name__}, not a RobotSpec "
                    "(qsft_robot/control/robot.py)."
                )
            self._spec = spec
        return self._spec

    @property
    def episodic(self) -> bool:
        """Whether it lays out its own episodes."""
        return isinstance(self.robot, EpisodicRobot)

    def connect(self) -> None:
        self.connected = True  # one that fails half way may have switched the motors on
        self._call("connect", self.robot.connect)

    def disconnect(self) -> None:
        self._call("disconnect", self.robot.disconnect)

    def begin_episode(self, seed: int) -> None:
        """Nothing where the robot lays out no episodes."""
        if isinstance(self.robot, EpisodicRobot):
            robot = self.robot
            self._call("begin_episode", lambda: robot.begin_episode(seed))

    def outcome(self) -> Outcome:
        """How the episode stands; untold where the robot doesn't know."""
        if not isinstance(self.robot, EpisodicRobot):
            return Outcome(None)
        found = self._call("outcome", self.robot.outcome)
        if not isinstance(found, Outcome):
            raise RuntimeError(f"robot {self.name}: outcome() gave {type(found).__name__}.")
        return found

    def observe(self) -> Observation:
        """The newest observation, its arrays copied; what is no observation at all is an empty one,
        which no check of readings passes."""
        # Its arrays may be of kinds that run the driver's code when they are looked at.
        seen: Observation = self._call(
            "get_observation", lambda: _clean(self.robot.get_observation())
        )
        return seen

    def send(self, action: np.ndarray) -> Told | None:
        """Hand `action` float32 [d] over; what the driver says that it sent instead, None where it
        says nothing."""
        told: Told | None = self._call(
            "send_action", lambda: _told(self.robot.send_action(action.copy()), len(action))
        )
        return told

    def stop(self) -> bool:
        """Stop by the second path; False where there is none. For any thread."""
        if not isinstance(self.robot, StoppableRobot):
            return False
        self.robot.stop()
        return True

    @property
    def name(self) -> str:
        """As its specification has it, once that is known."""
        return one_line(type(self.robot).__name__ if self._spec is None else self._spec.name)

    def _call(self, verb: str, work: Callable[[], Any]) -> Any:
        self.doing = (verb, self._clock.now())
        try:
            with np.errstate():  # what a driver has numpy raise must not raise in the limits
                return work()
        except TOLD:
            raise
        except BaseException as error:  # a driver's sys.exit() ends no run in silence
            said = f"robot {self.name}: {verb} failed: {type(error).__name__}: {error}"
            raise RuntimeError(said) from error
        finally:
            self.doing = None
            self.after()
            if os.getpid() != self._process:
                os._exit(0)  # of a driver that forked: the loop runs once


def _clean(raw: Any) -> Observation:
    """The parts of an observation that are what they are said to be: images, rows of numbers."""
    if not isinstance(raw, Observation):
        return Observation({}, {})
    found = {key: _array(x) for key, x in _items(raw.images)}
    images = {key: x for key, x in found.items() if x is not None and is_image(x)}
    state = {}
    for key, x in _items(raw.state):
        row = _array(x)
        if row is not None and row.dtype.kind in "fiub":
            with np.errstate(over="ignore"):  # a number too large is Inf, which nobody believes
                state[key] = row.astype(np.float32)
    texts = {key: x for key, x in _items(raw.texts) if isinstance(x, str)}
    instruction = raw.instruction if isinstance(raw.instruction, str) else ""
    return Observation(images, state, instruction, texts)


def _told(said: Any, size: int) -> Told | None:
    """What `send_action` returned; `size` numbers are looked at, and no more."""
    if said is None:
        return None
    row = None
    if isinstance(said, Sized) and _length(said) == size:
        found = _array(said)
        row = found if found is not None and found.dtype.kind in "fiu" else None
    try:
        words = " ".join(reprlib.repr(said).split())[:80]
    except Exception:
        words = f"a {type(said).__name__}"
    return Told(row, words)


def _length(x: Sized) -> int | None:
    try:
        return len(x)
    except Exception:
        return None


def _array(x: Any) -> np.ndarray | None:
    """A copy of `x` as an array; None where it is none, for whatever reason (ragged lists, a
    sensor's own type that fails to convert)."""
    try:
        return np.array(x)
    except Exception:
        return None


def _items(found: Any) -> list[tuple[str, Any]]:
    """Named entries, in order; none where `found` is no mapping, or one that fails."""
    if not isinstance(found, Mapping):
        return []
    try:
        return [(key, x) for key, x in found.items() if isinstance(key, str)]
    except Exception:
        return []
