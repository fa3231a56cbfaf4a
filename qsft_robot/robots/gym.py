"""A simulated arm in step with its commands: robosuite, or any environment built by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qsft_robot.control.robot import EndEffector, Outcome, RobotSpec, image_sizes
from qsft_robot.parts.env_observations import as_mapping
from qsft_robot.parts.simulators import build_env
from qsft_robot.parts.told_success import told_success
from qsft_robot.rollouts.worker import env_description
from qsft_robot.types import Observation

# Arms whose first three numbers displace the end effector: where it is reported, dimensions that
# are displacements, dimensions that say open or close.
_Arm = tuple[EndEffector | None, tuple[int, ...], tuple[int, ...]]
_ROBOSUITE: _Arm = (EndEffector("robot0_eef_pos", scale=0.05), tuple(range(6)), (6,))
_TABLETOP: _Arm = (EndEffector("proprio", scale=0.04, leash=0.02), (0, 1, 2), (3,))


class GymRobot:
    """An environment as a robot: its time stands still between two actions, so nothing moves while
    the policy thinks, and a step that takes longer than a period shows as an overrun.

    `env_args` name it as in a data file. Needs the simulator's package; errors are the builder's.
    """

    def __init__(self, env_args: Mapping[str, Any], **overrides: Any) -> None:
        self._env_args, self._overrides = dict(env_args), overrides
        self._env: Any = None
        self._outcome = Outcome(None)

    @property
    def spec(self) -> RobotSpec:
        """Known once connected."""
        if self._env is None:
            raise RuntimeError("the simulated arm is not connected: call connect() first.")
        return self._spec

    def connect(self) -> None:
        """Build the environment."""
        if self._env is None:
            self._env = build_env(self._env_args, **self._overrides)
            self.begin_episode(0)
            self._spec = self._read_spec()

    def begin_episode(self, seed: int) -> None:
        """Reset to `seed`."""
        observation, info = self._env.reset(seed=seed)
        self._outcome = Outcome(None)
        self._take(observation, info, over=False)

    def outcome(self) -> Outcome:
        """Success as the environment tells it, if it does; over at its own step limit."""
        return self._outcome

    def get_observation(self) -> Observation:
        """The observation of the last step."""
        return self._seen

    def send_action(self, action: np.ndarray) -> None:
        """Step the environment, float32 [d]; after its end nothing moves any more."""
        if self._outcome.success or self._outcome.over:
            return
        observation, _, terminated, truncated, info = self._env.step(action)
        self._take(observation, info, bool(terminated or truncated))

    def disconnect(self) -> None:
        """Close the environment."""
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def _take(self, observation: Any, info: Mapping[str, Any], over: bool) -> None:
        self._seen = Observation.from_env(as_mapping(observation), str(info.get("instruction", "")))
        told = told_success(info)
        if told is None and self._outcome.success is not None:
            told = False  # told at an earlier step
        self._outcome = Outcome(told, over)

    def _read_spec(self) -> RobotSpec:
        box = self._env.action_space
        if not hasattr(box, "low") or len(box.shape) != 1:
            raise ValueError(f"actions of {self._env_args['env_name']} are {box}, not a row [d].")
        env_args = env_description(self._env, self._env_args)
        name = env_args["env_name"]
        arm: _Arm = (None, tuple(range(len(box.low))), ())
        if name == "tabletop" and "proprio" in self._seen.state:
            arm = _TABLETOP
        elif getattr(self._env.unwrapped, "absolute_actions", False):
            # To hold is to repeat the last place; 0 would send the arm to the origin.
            arm = (None, (), (len(box.low) - 1,))
        elif "robot0_eef_pos" in self._seen.state and len(box.low) == 7:
            arm = _ROBOSUITE
        hz = getattr(self._env.unwrapped, "control_hz", None)
        return RobotSpec(
            name=name,
            cameras=image_sizes(self._seen),
            state={k: int(x.size) for k, x in self._seen.state.items()},
            action_low=np.asarray(box.low, np.float64),
            action_high=np.asarray(box.high, np.float64),
            control_hz=None if hz is None else float(hz),
            displacements=arm[1],
            switches=arm[2],
            end_effector=arm[0],
            stepped=True,
            env_args=env_args,
        )
