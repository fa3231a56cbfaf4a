"""A planar arm of two joints that holds its tip at a target: the sparse Reacher2d of LaMo, rebuilt.

The original (Shi et al., arXiv 2310.20587) is 100 steps with a reward of 1 within reach of the
target; its scene is not published, so that returns are comparable within this one alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from sim.rendering import close_rendering, render_images

ENV_NAME = "reacher2d"
ENV_TYPE = 2  # robomimic's number for "some gym environment"
MAX_STEPS = 100
REACH = 0.02  # meters between tip and target that are paid
LINKS = (0.10, 0.11)  # meters
TARGET_RADII = (0.05, 0.19)  # meters from the shoulder between which a target lies
SUBSTEPS = 4  # physics steps of 5 ms
_SCENE = """
<mujoco model="reacher2d">
  <compiler angle="radian"/>
  <option timestep="0.005" gravity="0 0 0" integrator="implicitfast"/>
  <default>
    <geom contype="0" conaffinity="0" rgba="0.3 0.5 0.8 1"/>
    <joint axis="0 0 1" damping="1" armature="1"/>
  </default>
  <worldbody>
    <light pos="0 0 1"/>
    <camera name="video" pos="0 0 0.6" fovy="45"/>
    <geom type="plane" size="0.3 0.3 0.01" pos="0 0 -0.02" rgba="0.9 0.9 0.9 1"/>
    <body>
      <joint name="shoulder"/>
      <geom type="capsule" fromto="0 0 0 0.10 0 0" size="0.01"/>
      <body pos="0.10 0 0">
        <joint name="elbow" range="-3 3" limited="true"/>
        <geom type="capsule" fromto="0 0 0 0.11 0 0" size="0.01"/>
        <site name="tip" pos="0.11 0 0" size="0.01" rgba="0.8 0.2 0.2 1"/>
      </body>
    </body>
    <body name="target" mocap="true">
      <geom type="sphere" size="0.012" rgba="0.2 0.7 0.3 1"/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="shoulder" gear="40" ctrlrange="-1 1"/>
    <motor joint="elbow" gear="40" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""


class Reacher2dEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Bring the tip to the target and hold it there, at 50 Hz.

    Action, float32 [2] in [-1, 1]: torques of shoulder and elbow. Observation, float32 `state`
    [10]: cosines and sines of both angles, their velocities, the target's place, the tip minus the
    target (m, plane of the arm). Every step within reach pays 1, and no episode ends before its
    limit: returns lie in [0, 100].
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (gymnasium's own)
    control_hz = 50.0
    packages = ("mujoco",)

    def __init__(
        self,
        *,
        max_steps: int = MAX_STEPS,
        terminate_on_success: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps {max_steps} must be at least 1.")
        self.max_steps, self.terminate_on_success = int(max_steps), terminate_on_success
        self.render_mode = render_mode
        self.model = mujoco.MjModel.from_xml_string(_SCENE)
        self.data = mujoco.MjData(self.model)
        self.env_args: dict[str, Any] = {
            "env_name": ENV_NAME,
            "env_version": mujoco.__version__,
            "type": ENV_TYPE,
            "control_hz": self.control_hz,
            "env_kwargs": {"max_steps": self.max_steps},
        }
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict({"state": spaces.Box(-50.0, 50.0, (10,), np.float32)})
        self._steps = 0

    @property
    def tip(self) -> np.ndarray:
        """Place of the tip, float64 [2]."""
        return self.data.site("tip").xpos[:2].copy()

    @property
    def target(self) -> np.ndarray:
        """Place of the target, float64 [2]."""
        return self.data.mocap_pos[0, :2].copy()

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A new posture and target; the same seed gives the same episode to the bit."""
        super().reset(seed=seed)
        if options:
            raise ValueError(f"reacher2d has no reset options, got {', '.join(options)}.")
        rng = self.np_random
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = rng.uniform(-0.5, 0.5, 2)
        radius, angle = rng.uniform(*TARGET_RADII), rng.uniform(-np.pi, np.pi)
        self.data.mocap_pos[0] = (radius * np.cos(angle), radius * np.sin(angle), 0.0)
        mujoco.mj_forward(self.model, self.data)
        self._steps = 0
        return self._observation(), self._info()

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Act for 20 ms; an action outside [-1, 1] is clipped, one with NaN is a ValueError."""
        action = np.asarray(action, np.float64)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise ValueError(f"reacher2d wants 2 finite numbers as action, got {action}.")
        self.data.ctrl[:] = np.clip(action, -1.0, 1.0)
        mujoco.mj_step(self.model, self.data, SUBSTEPS)
        mujoco.mj_forward(self.model, self.data)
        self._steps += 1
        info = self._info()
        ended = info["success"] and self.terminate_on_success
        truncated = not ended and self._steps >= self.max_steps
        return self._observation(), float(info["success"]), ended, truncated, info

    def render(self) -> np.ndarray:
        """A view for people: uint8 [256, 256, 3], RGB."""
        return render_images(self.model, self.data, ["video"], (256, 256), shadows=True)[0]

    def close(self) -> None:
        """Free the process's image buffers and GL context; other environments make new ones."""
        close_rendering()

    def _info(self) -> dict[str, Any]:
        near = float(np.linalg.norm(self.tip - self.target)) < REACH
        return {"success": near, "instruction": "hold the tip at the target"}

    def _observation(self) -> dict[str, np.ndarray]:
        angles, speeds = self.data.qpos, self.data.qvel
        parts = (np.cos(angles), np.sin(angles), speeds, self.target, self.tip - self.target)
        return {"state": np.concatenate(parts).astype(np.float32)}


# name -> what goes wrong, in plain words
FAILURE_MODES: dict[str, str] = {
    "sluggish": "pushes with a fifth of the force and comes late",
    "other_way": "goes to the point across from the target and stays there",
    "wander": "goes from one random posture to another",
}


class Reacher2dExpert:
    """Torques towards the joint angles that put the tip at a target, with Gaussian noise."""

    done = False  # it never ends a log early

    def __init__(
        self, env: Reacher2dEnv, failure: str | None, noise: float, rng: np.random.Generator
    ) -> None:
        self.env, self.failure, self.noise, self.rng = env, failure, noise, rng
        self.force = 0.2 if failure == "sluggish" else 1.0
        target = -env.target if failure == "other_way" else env.target
        self.wanted = joint_angles(float(target[0]), float(target[1]), env.data.qpos)

    def act(self) -> np.ndarray:
        """The next torques, float32 [2] in [-1, 1]."""
        angles, speeds = self.env.data.qpos, self.env.data.qvel
        if self.failure == "wander" and self.rng.random() < 0.05:
            self.wanted = self.rng.uniform(-np.pi, np.pi, 2) * (1.0, 0.9)
        off = self.wanted - angles
        torque = self.force * (2.0 * off - 0.3 * speeds)
        noisy = torque + self.noise * self.rng.standard_normal(2)
        return np.clip(noisy, -1.0, 1.0).astype(np.float32)


def joint_angles(x: float, y: float, near: np.ndarray) -> np.ndarray:
    """Angles of shoulder and elbow that put the tip at x, y, of both ways and all turns those that
    are nearest to `near`, float64 [2]. ValueError beyond the arm's reach."""
    first, second = LINKS
    cosine = (x * x + y * y - first**2 - second**2) / (2 * first * second)
    if not -1.0 <= cosine <= 1.0:
        raise ValueError(f"({x:.3f}, {y:.3f}) m is out of the arm's reach.")
    found = []
    for elbow in (np.arccos(cosine), -np.arccos(cosine)):
        bend = np.arctan2(second * np.sin(elbow), first + second * np.cos(elbow))
        shoulder = np.arctan2(y, x) - bend
        shoulder += 2 * np.pi * np.round((near[0] - shoulder) / (2 * np.pi))
        found.append(np.array([shoulder, elbow]))
    return min(found, key=lambda angles: float(np.abs(angles - near).max()))


def build_expert(
    env: Reacher2dEnv, failure: str | None, noise: float, rng: np.random.Generator
) -> Reacher2dExpert:
    """The expert of the episode that `env` has just started; `noise` is the standard deviation of
    what is added to its torques."""
    if failure is not None and failure not in FAILURE_MODES:
        raise ValueError(
            f"reacher2d has no failure mode {failure!r}; it has: {', '.join(FAILURE_MODES)}."
        )
    return Reacher2dExpert(env, failure, noise, rng)


ENVIRONMENT = Reacher2dEnv
