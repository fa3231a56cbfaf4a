"""The tabletop in physics time: commands come when they come, the physics goes on between them."""

from __future__ import annotations

import mujoco
import numpy as np

from sim.tabletop.arm import (
    _DIVERGED,
    ACTION_SCALE,
    FINGER_STEP,
    FINGER_TRAVEL,
    LEASH,
    SUBSTEPS,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    joint_angles,
)
from sim.tabletop.env import TabletopEnv


class Motion:
    """Moves the arm of one environment under commands of `control_hz` a second.

    An action is a speed: 1 is 4 cm a tenth of a second at any rate, so one command displaces by
    0.4 m/s / control_hz. Each command is a straight line of 1 / control_hz seconds in way points of
    25 ms; after its end the last point is held. With a command every 20 physics steps at 10 Hz it
    is, to the bit, what `TabletopEnv.step` does.
    """

    leash = LEASH  # meters that the commanded point may run ahead of the hand

    def __init__(self, env: TabletopEnv, control_hz: float) -> None:
        self.env, self.scene, self.arm = env, env.scene, env.scene.arm
        self.physics_s = float(env.scene.model.opt.timestep)
        share = TabletopEnv.control_hz / control_hz
        self.scale = ACTION_SCALE * share  # meters for an action of 1
        self._finger_step = FINGER_STEP * share
        # Way points of one command; a rate above 40 Hz has one, cut short by the next command.
        self._points = max(1, round(1 / (control_hz * self.physics_s * SUBSTEPS)))
        self.begin()

    def begin(self) -> None:
        """Stand still where the environment's last `reset` put the arm."""
        self._step = 0  # physics steps since the last command
        self._start = self._goal = self.arm.command.copy()
        self._grip_start = self._grip_goal = float(self.scene.data.ctrl[self.arm._grip])

    def command(self, action: np.ndarray) -> None:
        """Take `action` [4] in [-1, 1] (clipped); ValueError unless it is 4 finite numbers."""
        action = np.asarray(action, np.float64)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise ValueError(f"The tabletop wants 4 finite numbers as action, got {action}.")
        action = np.clip(action, -1.0, 1.0)
        at = self.arm.position
        # From the last goal, so that a command which comes early loses nothing of the one before.
        held = at + np.clip(self._goal - at, -LEASH, LEASH)
        goal = np.clip(held + self.scale * action[:3], WORKSPACE_LOW, WORKSPACE_HIGH)
        wish = 0.0 if action[3] > 0 else FINGER_TRAVEL
        self._start, self._grip_start = self._now()
        step = self._finger_step
        self._grip_goal = self._grip_start + min(max(wish - self._grip_start, -step), step)
        self._goal, self._step = goal, 0

    def hold(self) -> None:
        """Stop the hand at the point that it is being sent to now."""
        self._start, self._grip_start = self._now()
        self._goal, self._grip_goal = self._start, self._grip_start

    def advance(self, steps: int) -> None:
        """Go on by `steps` physics steps; RuntimeError when the physics diverged."""
        data = self.scene.data
        while steps > 0:
            point, inside = divmod(self._step, SUBSTEPS)
            if inside == 0 and point < self._points:
                self._step += 1  # `_now` tells the way point that is being driven to
                at, grip = self._now()
                self._step -= 1
                data.ctrl[:5] = joint_angles(*at.tolist())
                data.ctrl[self.arm._grip] = grip
                self.arm.command = at
            count = min(steps, SUBSTEPS - inside)
            mujoco.mj_step(self.scene.model, data, count)
            self._step += count
            steps -= count
        if any(data.warning[kind].number for kind in _DIVERGED):
            raise RuntimeError(f"The physics diverged {data.time:.2f} s into the episode.")

    def observe(self) -> tuple[dict[str, np.ndarray], bool]:
        """The environment's observation now, and whether its task is done."""
        return self.env._observation(), self.env._success()

    def _now(self) -> tuple[np.ndarray, float]:
        """The way point being driven to: grasp point [3] and finger command, meters."""
        part = min(-(-self._step // SUBSTEPS), self._points) / self._points
        at = self._start + part * (self._goal - self._start)
        return at, self._grip_start + part * (self._grip_goal - self._grip_start)
