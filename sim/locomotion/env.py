"""gymnasium's MuJoCo runners as D4RL has them: version 4, dense rewards, 1,000 steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator

ENV_TYPE = 2  # robomimic's number for "some gym environment"
MAX_STEPS = 1000
# D4RL's references: returns of a random and of an expert policy (Fu et al., arXiv 2004.07219; the
# table of the package's infos.py, the same for all of its data sets of a robot).
REFERENCE_RETURNS = {
    "Hopper": (-20.272305, 3234.3),
    "HalfCheetah": (-280.178953, 12135.0),
    "Walker2d": (1.629008, 4592.3),
}
# Numbers of an observation and of an action.
SIZES = {"Hopper": (11, 3), "HalfCheetah": (17, 6), "Walker2d": (17, 6)}
# The last version whose rewards are those that D4RL's references were measured with.
_VERSION = "v4"
# Side of an image for people, in pixels.
_VIDEO_SIDE = 256


class LocomotionEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Run forward as fast as can be; an episode ends by a fall, or at its limit of steps.

    Action, float32 [d] in [-1, 1]: torques of the joints. Observation, float32 `observation`:
    gymnasium's own (places but for the horizontal one, then velocities). Rewards are dense, and no
    step tells success.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's own)
    packages = ("gymnasium", "mujoco")
    # gymnasium's name of the robot.
    robot: ClassVar[str]

    def __init__(
        self,
        *,
        max_steps: int = MAX_STEPS,
        terminate_on_success: bool = False,  # of which none is told
        render_mode: str | None = None,
    ) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps {max_steps} must be at least 1.")
        self.max_steps, self.render_mode = int(max_steps), render_mode
        entry = gymnasium.spec(f"{self.robot}-{_VERSION}").entry_point
        assert isinstance(entry, str)
        build: Any = load_env_creator(entry)
        self._env: Any = build(render_mode=render_mode, width=_VIDEO_SIDE, height=_VIDEO_SIDE)
        self.control_hz = 1.0 / float(self._env.dt)
        self.env_args: dict[str, Any] = {
            "env_name": f"gymnasium/{self.robot}",
            "env_version": f"{self.robot}-{_VERSION}, mujoco {mujoco.__version__}",
            "type": ENV_TYPE,
            "control_hz": self.control_hz,
            "env_kwargs": {"max_steps": self.max_steps},
        }
        numbers, self.actions = SIZES[self.robot]
        self.action_space = spaces.Box(-1.0, 1.0, (self.actions,), np.float32)
        self.observation_space = spaces.Dict(
            {"observation": spaces.Box(-np.inf, np.inf, (numbers,), np.float32)}
        )
        self.seen = np.zeros(numbers, np.float32)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Stand up; the same seed gives the same episode to the bit."""
        if options:
            raise ValueError(f"{self.robot} has no reset options, got {', '.join(options)}.")
        self._steps = 0
        return self._observed(self._env.reset(seed=seed)[0]), self._info()

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Act for a control step; an action outside [-1, 1] is clipped, NaN is a ValueError."""
        action = np.asarray(action, np.float64)
        if action.shape != (self.actions,) or not np.isfinite(action).all():
            raise ValueError(
                f"{self.robot} wants finite numbers [{self.actions}] as action, got {action}."
            )
        seen, reward, fell, _, _ = self._env.step(np.clip(action, -1.0, 1.0))
        self._steps += 1
        over = not fell and self._steps >= self.max_steps
        return self._observed(seen), float(reward), bool(fell), over, self._info()

    def render(self) -> np.ndarray:
        """A view for people: uint8 [256, 256, 3], RGB."""
        return self._env.render()

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()

    def _observed(self, seen: np.ndarray) -> dict[str, np.ndarray]:
        self.seen = np.asarray(seen, np.float32)
        return {"observation": self.seen.copy()}

    def _info(self) -> dict[str, Any]:
        return {"instruction": "run forward"}
