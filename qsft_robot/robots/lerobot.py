"""Any LeRobot robot as a robot of the control loop: flat dictionaries of motors in, rows out."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from qsft_robot.control.robot import RobotSpec
from qsft_robot.types import Observation


class LeRobotArm(Protocol):
    """The part of lerobot's `Robot` that is used: its features and its four verbs."""

    @property
    def observation_features(self) -> dict[str, Any]: ...

    @property
    def action_features(self) -> dict[str, Any]: ...

    def connect(self, calibrate: bool = True) -> None: ...

    def get_observation(self) -> dict[str, Any]: ...

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]: ...

    def disconnect(self) -> None: ...


class LeRobotAdapter:
    """Joins the scalars that a LeRobot robot reports ("shoulder_pan.pos", ...) to one state row
    `state_key` in the order of its features, names cameras `camera_prefix` + their name +
    `camera_suffix` (unless the name ends in "image", which is the suffix of imported data sets:
    front -> front_image), and hands actions back under the names of `action_features`.

    LeRobot tells neither range, units nor rate of an action: give `action_low` and `action_high`
    (numbers, or one a motor), or let the limits of the policy's statistics bound it.
    """

    def __init__(
        self,
        robot: LeRobotArm,
        *,
        control_hz: float | None = None,
        state_key: str = "observation.state",
        camera_prefix: str = "observation.images.",
        camera_suffix: str = "",
        action_low: float | Sequence[float] = -np.inf,
        action_high: float | Sequence[float] = np.inf,
        units: Sequence[str] | None = None,
        switches: Sequence[int] = (),
        calibrate: bool = True,
    ) -> None:
        self.robot = robot
        self._calibrate = calibrate
        features = dict(robot.observation_features)
        self._motors = [key for key, kind in features.items() if not isinstance(kind, tuple)]
        self._cameras = {k: kind for k, kind in features.items() if isinstance(kind, tuple)}
        self._commands = list(robot.action_features)
        wrong = {k: v for k, v in self._cameras.items() if len(v) != 3 or v[2] != 3}
        if wrong:
            raise ValueError(f"LeRobot cameras {wrong} are not (height, width, 3) color images.")
        if not self._commands:
            raise ValueError("the LeRobot robot has no action_features, so it can't be driven.")
        if any(isinstance(kind, tuple) for kind in robot.action_features.values()):
            raise ValueError("LeRobot action_features must be one number each, one a motor.")
        size = len(self._commands)
        self._state_key = state_key
        # LeRobot's name of a camera -> the key that the policy knows
        self._keys = {
            k: f"{camera_prefix}{k}{'' if k.endswith('image') else camera_suffix}"
            for k in self._cameras
        }
        self.spec = RobotSpec(
            name=str(getattr(robot, "name", type(robot).__name__)),
            cameras={self._keys[k]: (v[0], v[1]) for k, v in self._cameras.items()},
            state={state_key: len(self._motors)} if self._motors else {},
            action_low=np.broadcast_to(np.asarray(action_low, np.float64), size).copy(),
            action_high=np.broadcast_to(np.asarray(action_high, np.float64), size).copy(),
            control_hz=control_hz,
            switches=tuple(switches),
            units=None if units is None else tuple(units),
            # Joint positions that are measured under the names they are commanded by.
            measured=state_key if self._motors == self._commands else None,
            env_args={
                "env_name": f"lerobot:{getattr(robot, 'name', type(robot).__name__)}",
                "env_kwargs": {"motors": self._motors, "actions": self._commands},
                **({} if control_hz is None else {"control_hz": control_hz}),
            },
        )

    def connect(self) -> None:
        """Connect, and calibrate where the robot asks for it."""
        self.robot.connect(calibrate=self._calibrate)

    def get_observation(self) -> Observation:
        """One reading; RuntimeError names what the robot left out."""
        read = self.robot.get_observation()
        missing = [key for key in (*self._motors, *self._cameras) if key not in read]
        if missing:
            raise RuntimeError(
                f"robot {self.spec.name} did not report {missing}; it gave {sorted(read)}."
            )
        images = {self._keys[key]: np.asarray(read[key]) for key in self._cameras}
        row = np.array([float(read[key]) for key in self._motors], np.float32)
        return Observation(images, {self._state_key: row} if self._motors else {})

    def send_action(self, action: np.ndarray) -> Any:
        """Send float32 [d]; return what the robot says that it sent to its motors, [d] for a robot
        that keeps LeRobot's word."""
        values = [float(x) for x in action]
        sent: Any = self.robot.send_action(dict(zip(self._commands, values, strict=True)))
        if sent is None:
            return None
        if not isinstance(sent, Mapping):
            return sent  # the loop says that this is no action
        told = [sent.get(k, x) for k, x in zip(self._commands, values, strict=True)]
        try:
            return np.array(told, np.float32)
        except (TypeError, ValueError):
            return told

    def disconnect(self) -> None:
        """Disconnect."""
        self.robot.disconnect()


def build_lerobot(kind: str, settings: Mapping[str, str]) -> LeRobotArm:
    """Build a robot of the installed package lerobot by its registered type, e.g. so101_follower;
    `settings` are fields of its configuration, as text. Cameras and numbers need `--robot-from`.

    ImportError with the install line without lerobot, ValueError lists the types that there are.
    """
    try:
        from lerobot import robots
        from lerobot.robots import RobotConfig, make_robot_from_config
    except ImportError as error:
        raise ImportError(
            f"lerobot can't be imported here ({error}); run: pip install lerobot (with the extra "
            "of your motors, e.g. 'lerobot[feetech]'), or make the robot in a file of your own and "
            "pass --robot-from FILE.py:FUNCTION."
        ) from error
    for module in pkgutil.iter_modules(robots.__path__):
        # Types register themselves as their module is imported; one whose drivers are missing
        # is not among them.
        with suppress(ImportError):
            importlib.import_module(f"lerobot.robots.{module.name}")
    known = RobotConfig.get_known_choices()
    if kind not in known:
        raise ValueError(
            f"lerobot has no robot type {kind!r}; known here: {sorted(known)}. Make the robot in a "
            "file of your own and pass --robot-from FILE.py:FUNCTION."
        )
    return make_robot_from_config(known[kind](**settings))
