"""A small arm on a table as a gymnasium.Env: tasks pick, place and drawer, asked for in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from sim.rendering import close_rendering, render_images
from sim.tabletop.scene import OBJECTS, RECEPTACLES, Scene, sample_drawer, sample_table
from sim.tabletop.truth import SceneTruth, read_truth

ENV_NAME = "tabletop"
ENV_TYPE = 2  # robomimic's number for "some gym environment"
CAMERAS = ("front", "wrist")
MAX_STEPS = {"pick": 35, "place": 50, "drawer": 80}
PHASES = ("full", "open", "grasp")
LIFT = 0.08  # meters that count as picked up
RECEPTACLE_RADIUS = 0.05  # meters; an object's center must lie within it
REST_SPEED = 0.05  # m/s
RELEASED = 0.065  # meters between the fingers that let go of any object
AWAY = 0.08  # meters between object and hand that count as not held

_VIDEO_SIZE = (256, 256)


class TabletopEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Objects of primitive shapes, receptacles or a drawer, and a friction gripper, at 10 Hz.

    Action, float32 [4] in [-1, 1]: displacement of the commanded grasp point along x, y, z
    (1 = 4 cm a step, base frame) and the gripper (> 0 closes, else opens). Observation: uint8
    [h, w, 3] `<camera>_image` for each of `cameras`, and float32
    `proprio` [8]: grasp point (3), finger opening, gripper force / 10 N, command minus actual (3);
    `objects` [16]: position of every object and receptacle, drawer opening; 0 where absent;
    `target` [13], privileged: the asked object's position, it minus the hand, its receptacle minus
    it, drawer opening, handle minus the hand; 0 where absent.
    Reward 1 at the first success, else 0. Reset options (JSON types): `object`, `receptacle` (their
    names), `drawer` ("open", "closed"), `phase` ("full", "open", "grasp": what the scripted expert
    shows; "grasp" starts with the drawer open), `max_steps`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's own)
    control_hz = 10.0
    packages = ("mujoco",)  # what makes its physics and its pixels

    def __init__(
        self,
        task: str = "place",
        *,
        cameras: Sequence[str] = CAMERAS,
        image_size: int | Sequence[int] = 64,
        max_steps: int | None = None,
        terminate_on_success: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if task not in MAX_STEPS:
            raise ValueError(f"Unknown tabletop task {task!r}; there are: {', '.join(MAX_STEPS)}.")
        unknown = [camera for camera in cameras if camera not in CAMERAS]
        if unknown:
            raise ValueError(
                f"Unknown tabletop cameras {unknown}; there are: {', '.join(CAMERAS)}."
            )
        self.task, self.cameras = task, tuple(cameras)
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2 or min(size) < 8:
            raise ValueError(
                f"image_size {image_size!r}: give a side or [height, width], 8 or more."
            )
        self.image_size: tuple[int, int] = (int(size[0]), int(size[1]))
        self._default_max_steps = MAX_STEPS[task] if max_steps is None else int(max_steps)
        if self._default_max_steps < 1:
            raise ValueError(f"max_steps {max_steps} must be at least 1.")
        self.max_steps = self._default_max_steps
        self.terminate_on_success = terminate_on_success
        self.render_mode = render_mode
        self.env_args: dict[str, Any] = {
            "env_name": ENV_NAME,
            "env_version": mujoco.__version__,
            "type": ENV_TYPE,
            "control_hz": self.control_hz,
            "env_kwargs": {
                "task": task,
                "cameras": list(self.cameras),
                "image_size": list(self.image_size),
                "max_steps": self._default_max_steps,
            },
        }
        self.scene = Scene("drawer" if task == "drawer" else "table")
        self.target_object = OBJECTS[0]
        self.target_receptacle: str | None = None
        self.phase = "full"
        self.instruction = ""
        self._steps, self._succeeded = 0, False
        self._start_height = 0.0
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        images = {
            f"{camera}_image": spaces.Box(0, 255, (*self.image_size, 3), np.uint8)
            for camera in self.cameras
        }
        state = {
            key: spaces.Box(-10.0, 10.0, (size,), np.float32)
            for key, size in (("proprio", 8), ("objects", 16), ("target", 13))
        }
        self.observation_space = spaces.Dict({**images, **state})

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Lay the table out anew; the same seed and options give the same episode to the bit."""
        super().reset(seed=seed)
        options = self._checked(options or {})
        rng = self.np_random
        # Drawn even where an option names one, so that the layout stays what the seed gives.
        drawn_object = OBJECTS[int(rng.integers(len(OBJECTS)))]
        drawn_receptacle = RECEPTACLES[int(rng.integers(len(RECEPTACLES)))]
        self.max_steps = int(options.get("max_steps", self._default_max_steps))
        self.phase = options.get("phase", "full")
        self.target_receptacle = None
        if self.task == "drawer":
            self.target_object = options.get("object", OBJECTS[0])
            closed = "open" if self.phase == "grasp" else "closed"
            is_open = options.get("drawer", closed) == "open"
            layout = sample_drawer(rng, self.target_object, is_open)
            self.instruction = f"open the drawer and pick up the {self.target_object}"
        else:
            self.target_object = options.get("object", drawn_object)
            layout = sample_table(rng)
            self.instruction = f"pick up the {self.target_object}"
            if self.task == "place":
                self.target_receptacle = options.get("receptacle", drawn_receptacle)
                self.instruction = f"put the {self.target_object} in the {self.target_receptacle}"
        self.scene.arrange(layout)
        self._start_height = float(self.scene.object_position(self.target_object)[2])
        self._steps, self._succeeded = 0, False
        return self._observation(), self._info(False)

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Act for 0.1 s; an action outside [-1, 1] is clipped, one with NaN is a ValueError."""
        action = np.asarray(action, np.float64)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise ValueError(f"The tabletop wants 4 finite numbers as action, got {action}.")
        self.scene.arm.step(np.clip(action, -1.0, 1.0))
        self._steps += 1
        success = self._success()
        reward = float(success and not self._succeeded)
        self._succeeded |= success
        terminated = success and self.terminate_on_success
        truncated = not terminated and self._steps >= self.max_steps
        return self._observation(), reward, terminated, truncated, self._info(success)

    def truth(self) -> SceneTruth:
        """The truth about the scene now, and where each camera of the environment sees it."""
        height, width = self.image_size
        return read_truth(self.scene, self.cameras, width / height)

    def render(self) -> np.ndarray:
        """A view for people: uint8 [256, 256, 3], RGB."""
        scene = self.scene
        return render_images(scene.model, scene.data, ["video"], _VIDEO_SIZE, shadows=True)[0]

    def close(self) -> None:
        """Free the process's image buffers and GL context; other environments make new ones."""
        close_rendering()

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        choices: dict[str, Sequence[str]] = {"object": OBJECTS}
        if self.task == "place":
            choices["receptacle"] = RECEPTACLES
        if self.task == "drawer":
            choices |= {"drawer": ("open", "closed"), "phase": PHASES}
        for key, value in options.items():
            if key == "max_steps":
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise ValueError(f"Reset option max_steps is {value!r}; give a count of steps.")
            elif key not in choices:
                known = ", ".join([*choices, "max_steps"])
                raise ValueError(f"Task {self.task} has no reset option {key!r}; it has: {known}.")
            elif value not in choices[key]:
                raise ValueError(
                    f"Reset option {key}={value!r}: task {self.task} has {', '.join(choices[key])}."
                )
        drawer, phase = options.get("drawer"), options.get("phase", "full")
        if (phase, drawer) in (("open", "open"), ("grasp", "closed")):
            raise ValueError(f"Reset options phase={phase!r} and drawer={drawer!r} contradict.")
        return dict(options)

    def _info(self, success: bool) -> dict[str, Any]:
        return {"success": success, "instruction": self.instruction}

    def _success(self) -> bool:
        scene, name = self.scene, self.target_object
        at = scene.object_position(name)
        from_hand = float(np.linalg.norm(at - scene.arm.position))
        if self.target_receptacle is None:
            return bool(at[2] - self._start_height >= LIFT) and from_hand < AWAY / 2
        off = at - scene.receptacle_position(self.target_receptacle)
        let_go = scene.arm.opening > RELEASED or from_hand > AWAY
        inside = np.hypot(off[0], off[1]) < RECEPTACLE_RADIUS and off[2] < 0.045
        return bool(inside and let_go and scene.object_speed(name) < REST_SPEED)

    def _observation(self) -> dict[str, np.ndarray]:
        scene, arm = self.scene, self.scene.arm
        hand, target = arm.position, scene.object_position(self.target_object)
        proprio = np.zeros(8, np.float32)
        proprio[:3] = hand
        proprio[3] = arm.opening
        proprio[4] = arm.grip_force / 10
        proprio[5:] = arm.command - hand
        objects, asked = np.zeros(16, np.float32), np.zeros(13, np.float32)
        for i, name in enumerate(OBJECTS):
            objects[3 * i : 3 * i + 3] = scene.object_position(name)
        asked[:3], asked[3:6] = target, target - hand
        if self.task == "drawer":
            objects[15] = asked[9] = scene.drawer_opening
            asked[10:] = scene.handle_position - hand
        else:
            for i, name in enumerate(RECEPTACLES):
                objects[9 + 3 * i : 12 + 3 * i] = scene.receptacle_position(name)
        if self.target_receptacle is not None:
            asked[6:9] = scene.receptacle_position(self.target_receptacle) - target
        drawn = render_images(scene.model, scene.data, self.cameras, self.image_size)
        images = {f"{camera}_image": x for camera, x in zip(self.cameras, drawn, strict=True)}
        return {**images, "proprio": proprio, "objects": objects, "target": asked}


ENVIRONMENT = TabletopEnv
