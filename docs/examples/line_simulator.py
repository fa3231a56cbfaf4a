"""A simulator: a point that has to reach a goal on a line, with a scripted expert.

Register it in the pyproject.toml of its package; the name is the `env_name` of logs:

    [project.entry-points."qsft_robot.simulators"]
    line = "line_simulator"
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from qsft_robot.presets.recipe import Recipe, RecipePart


class Line(gymnasium.Env):
    """Reach the goal; `info` tells success and the instruction."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    # The keyword arguments are what may stand in env_kwargs. These three are asked for by
    # evaluation: --max-steps, --run-to-limit and --videos.
    def __init__(
        self,
        *,
        max_steps: int = 20,
        terminate_on_success: bool = True,
        render_mode: str | None = None,
    ) -> None:
        self.max_steps, self.terminate_on_success = max_steps, terminate_on_success
        self.render_mode, self.control_hz = render_mode, 20.0
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = spaces.Dict({"position": spaces.Box(-9, 9, (2,), np.float32)})

    @property
    def env_args(self) -> dict[str, Any]:
        """The arguments that build this environment again; they are written into logs."""
        return {"env_name": "line", "type": 2, "env_kwargs": {"max_steps": self.max_steps}}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.at = 0, 0.0
        self.goal = float(self.np_random.choice([-1, 1]) * self.np_random.uniform(1.0, 3.0))
        return self._look(), self._info()

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.at += 0.5 * float(np.clip(action[0], -1, 1))
        reached = self._info()["success"]
        ended = reached and self.terminate_on_success
        return self._look(), float(reached), ended, self.steps >= self.max_steps, self._info()

    def render(self) -> np.ndarray:
        image = np.full((64, 128, 3), 255, np.uint8)
        for place, color in ((self.goal, (30, 150, 30)), (self.at, (200, 30, 30))):
            column = int(np.clip(64 + 16 * place, 2, 125))
            image[28:36, column - 2 : column + 2] = color
        return image

    def _look(self) -> dict[str, np.ndarray]:
        return {"position": np.array([self.at, self.goal], np.float32)}

    def _info(self) -> dict[str, Any]:
        return {"success": abs(self.at - self.goal) < 0.3, "instruction": "reach the goal"}


class LineExpert:
    """Walks to the goal, or the other way."""

    def __init__(self, env: Line, failure: str | None, noise: float, rng: np.random.Generator):
        self.env, self.way, self.noise, self.rng = env, -1.0 if failure else 1.0, noise, rng
        self.done = False  # it never ends a log early

    def act(self) -> np.ndarray:
        step = self.way * np.sign(self.env.goal - self.env.at)
        noisy = step * 0.8 + self.noise * self.rng.standard_normal()
        return np.array([np.clip(noisy, -1, 1)], np.float32)


# What the table of simulators looks for in a module: the class, and for `collect` the expert.
ENVIRONMENT = Line
FAILURE_MODES = {"other_way": "walks away from the goal"}


def build_expert(
    env: Line, failure: str | None, noise: float, rng: np.random.Generator
) -> LineExpert:
    return LineExpert(env, failure, noise, rng)


# For `collect line/mixed` and `train --preset line/small`; names begin with the registered one.
RECIPES = {
    "line/mixed": Recipe(
        "walks to a goal on a line, half of them the other way",
        "line",
        {},
        (RecipePart(1.0, {"expert": 0.5, "other_way": 0.5}, noise=0.2),),
        episodes=300,
    )
}
PRESETS = {
    "line/small": {
        "data.state_keys": ("position",),
        "model.width": 32,
        "model.depth": 1,
        "optim.batch_size": 64,
        "optim.learning_rate": 3e-3,
    }
}
