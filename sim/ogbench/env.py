"""OGBench's single-task manipulation as a gymnasium.Env: flat states, or an image by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sim.ogbench.tasks import SCENES, find_task, make_scene

ENV_NAME = "ogbench"
ENV_TYPE = 2  # robomimic's number for "some gym environment"
# The camera of the benchmark's visual variants.
CAMERA = "front"
# Height and width in which people see an episode of flat states.
_VIDEO_SIDE = 256


class OGBenchEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A UR5e at one task of `cube-single`, `cube-double`, `scene` or `puzzle-3x3`, at 20 Hz.

    `task` is a scene (its default task) or <scene>-task<1 to 5>. Action, float32 [5] in [-1, 1]:
    displacement of the hand along x, y, z, its yaw, and the gripper. Observation: float32
    `observation`, OGBench's flat state; with cameras ("front",) its visual variant instead, uint8
    [h, w, 3] `front_image` of a transparent arm, 64 by 64 as published. Reward 1 at the first
    success, else 0. As the benchmark has it, a step tells success of the state that it began in.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium's own)
    control_hz = 20.0
    packages = ("ogbench", "dm_control", "mujoco")

    def __init__(
        self,
        task: str = "cube-single",
        *,
        cameras: Sequence[str] = (),
        image_size: int | Sequence[int] = 64,
        max_steps: int | None = None,
        terminate_on_success: bool = True,
        render_mode: str | None = None,
    ) -> None:
        scene, number = find_task(task)
        self.task, self.cameras = task, tuple(cameras)
        if unknown := [camera for camera in self.cameras if camera != CAMERA]:
            raise ValueError(f"unknown OGBench camera {unknown[0]!r}; there is: {CAMERA}.")
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2 or min(size) < 8:
            raise ValueError(
                f"image_size {image_size!r}: give a side or [height, width], 8 or more."
            )
        self.max_steps = SCENES[scene].max_steps if max_steps is None else int(max_steps)
        if self.max_steps < 1:
            raise ValueError(f"max_steps {max_steps} must be at least 1.")
        self.render_mode = render_mode
        visual = "visual-" if self.cameras else ""
        height, width = size if self.cameras else (_VIDEO_SIDE, _VIDEO_SIDE)
        self.scene = make_scene(
            f"{visual}{scene}-singletask-task{number}",
            terminate_at_goal=terminate_on_success,
            height=height,
            width=width,
        )
        self.env_args: dict[str, Any] = {
            "env_name": ENV_NAME,
            "env_version": version("ogbench"),
            "type": ENV_TYPE,
            "control_hz": self.control_hz,
            "env_kwargs": {
                "task": task,
                "cameras": list(self.cameras),
                "image_size": list(size),
                "max_steps": self.max_steps,
            },
        }
        self._steps, self._succeeded = 0, False
        self.action_space = spaces.Box(-1.0, 1.0, (5,), np.float32)
        shown, _ = self.scene.reset(seed=0)
        self.observation_space = spaces.Dict(
            {key: _space(x) for key, x in self._observation(shown).items()}
        )

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin the task anew; the same seed gives the same episode to the bit. No options."""
        super().reset(seed=seed)
        if options:
            raise ValueError(f"OGBench takes no reset options, got {', '.join(options)}.")
        self._steps, self._succeeded = 0, False
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        shown, _ = self.scene.reset(seed=seed)
        return self._observation(shown), {"success": False}

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Act for 0.05 s; an action outside [-1, 1] is clipped, one with NaN is a ValueError."""
        action = np.asarray(action, np.float64)
        if action.shape != (5,) or not np.isfinite(action).all():
            raise ValueError(f"OGBench's arm wants 5 finite numbers as action, got {action}.")
        shown, _, terminated, _, info = self.scene.step(np.clip(action, -1.0, 1.0))
        self._steps += 1
        success = bool(info["success"])
        reward = float(success and not self._succeeded)
        self._succeeded |= success
        truncated = not terminated and self._steps >= self.max_steps
        seen = self._observation(shown)
        return seen, reward, bool(terminated), truncated, {"success": success}

    def render(self) -> np.ndarray:
        """A view for people: uint8 [h, w, 3], RGB."""
        return self.scene.render()

    def close(self) -> None:
        """Free the renderer."""
        close_scene(self.scene)

    def _observation(self, shown: np.ndarray) -> dict[str, np.ndarray]:
        if self.cameras:
            return {f"{CAMERA}_image": shown}
        return {"observation": shown.astype(np.float32)}


def close_scene(scene: Any) -> None:
    """Free the renderer of one of the package's environments, which its own close leaves open."""
    renderer, scene._renderer = scene._renderer, None
    if renderer is not None:
        renderer.close()


def _space(example: np.ndarray) -> spaces.Box:
    if example.dtype == np.uint8:
        return spaces.Box(0, 255, example.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, example.shape, np.float32)


ENVIRONMENT = OGBenchEnv
