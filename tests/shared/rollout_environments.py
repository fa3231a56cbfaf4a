"""A point that has to reach a goal, and relatives of it that raise, die or hang (test environments
for worker processes, which import this module by its name)."""

import os
import time

import gymnasium
import numpy as np
from gymnasium import spaces


class Point(gymnasium.Env):
    """Reach the goal on a line; a seed of `bad_seeds` misbehaves at its third step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        *,
        max_steps: int = 30,
        terminate_on_success: bool = True,
        render_mode: str | None = None,
        bad_seeds: tuple[int, ...] = (),
        misbehave: str = "raise",
        at: str = "step",
        image: bool = False,
        tells: bool = True,
        pause_s: float = 0.0,
    ) -> None:
        self.pause_s = pause_s
        self.tells = tells
        self.max_steps, self.control_hz, self.render_mode = max_steps, 20.0, render_mode
        self.terminate_on_success = terminate_on_success
        self.bad_seeds, self.misbehave, self.at, self.image = bad_seeds, misbehave, at, image
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        entries = {"position": spaces.Box(-9, 9, (2,), np.float32)}
        if image:
            entries["front_image"] = spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.observation_space = spaces.Dict(entries)

    def _look(self) -> dict[str, np.ndarray]:
        seen = {"position": np.array([self.x, self.goal], np.float32)}
        if self.image:
            seen["front_image"] = np.full((16, 16, 3), 100 + int(10 * self.x), np.uint8)
        return seen

    def _info(self) -> dict:
        told = {"success": self._reached()} if self.tells else {}
        return {**told, "instruction": "reach the goal"}

    def _reached(self) -> bool:
        return abs(self.x - self.goal) < 0.3

    def _misbehave(self) -> None:
        if self.misbehave == "nan":
            self.x = float("nan")
            return
        if self.misbehave == "raise":
            raise ArithmeticError("the simulation became unstable")
        if self.misbehave == "die":
            print("last words", flush=True)
            os._exit(7)
        time.sleep(3600)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps, self.x = seed, 0, 0.0
        self.goal = float(self.np_random.uniform(1.0, 3.0)) * (options or {}).get("side", 1)
        if self.at == "reset" and seed in self.bad_seeds:
            self._misbehave()
        return self._look(), self._info()

    def step(self, action):
        time.sleep(self.pause_s)
        self.steps += 1
        if self.at == "step" and self.steps == 3 and self.seed in self.bad_seeds:
            self._misbehave()
        self.x += float(action[0]) * 0.5
        info = self._info()
        ended = self._reached() and self.terminate_on_success
        cut = self.steps >= self.max_steps
        return self._look(), float(self._reached()), ended, cut, info

    def render(self):
        return np.full((64, 96, 3), 40, np.uint8)


class NestedPoint(Point):
    """The same point, whose observations are nested and whose success has names of its own."""

    def _look(self):
        seen = np.array([self.x, self.goal], np.float32)
        return {"agent": {"position": seen}, "clock": (np.array([self.steps], np.float32),)}

    def _info(self):
        return {"goal": {"done": self._reached()}}

    def arrived(self) -> bool:
        return self._reached()


class ArmPoint(Point):
    """The same point, seen and moved as the arm of `policy_fixtures.describe`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        low, high = np.array([-3.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)
        self.action_space = spaces.Box(low, high)

    def _look(self):
        joints = [self.x, self.goal, self.goal - self.x, self.steps / self.max_steps]
        return {
            "joints": np.array(joints, np.float32),
            "gripper": np.array([np.sin(9 * self.x)], np.float32),
        }


gymnasium.register("ArmPoint-v0", entry_point=ArmPoint, disable_env_checker=True)
gymnasium.register("NestedPoint-v0", entry_point=NestedPoint, disable_env_checker=True)
gymnasium.register("Point-v0", entry_point=Point, disable_env_checker=True)
