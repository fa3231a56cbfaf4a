"""Closed-form inverse kinematics and the Cartesian controller of the tabletop arm."""

from __future__ import annotations

import math

import mujoco
import numpy as np

# Lengths of assets/tabletop_arm.xml, meters.
SHOULDER_HEIGHT = 0.22
UPPER_ARM = 0.30
FOREARM = 0.30
WRIST_TO_GRASP = 0.14

FINGER_TRAVEL = 0.043  # each finger; the gripper opens to twice this
ACTION_SCALE = 0.04  # meters of commanded displacement for an action of 1
LEASH = 0.02  # meters that a command may keep ahead of a blocked end effector
FINGER_STEP = 0.024  # meters that each finger's command moves in one control step
SERVO_UPDATES = 4  # straight-line way points of a control step
SUBSTEPS = 5  # physics steps of each way point: 4 x 5 x 5 ms = 100 ms, 10 Hz

# Where the end effector may be sent, meters: low and high corner.
WORKSPACE_LOW = np.array([0.22, -0.23, 0.02])
WORKSPACE_HIGH = np.array([0.50, 0.23, 0.24])

_DIVERGED = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)


def joint_angles(x: float, y: float, z: float) -> tuple[float, float, float, float, float]:
    """Angles (base yaw, shoulder, elbow, wrist pitch, wrist yaw), radians, that put the grasp point
    at x, y, z meters with the hand vertical, its fingers opening along world y and the elbow up.

    Raises ValueError when the point is out of the arm's reach.
    """
    yaw = math.atan2(y, x)
    reach = math.hypot(x, y)
    height = z + WRIST_TO_GRASP - SHOULDER_HEIGHT
    squared = reach * reach + height * height
    cosine = (squared - UPPER_ARM**2 - FOREARM**2) / (2 * UPPER_ARM * FOREARM)
    if not -1.0 <= cosine <= 1.0:
        raise ValueError(f"({x:.3f}, {y:.3f}, {z:.3f}) m is out of the tabletop arm's reach.")
    bend = math.acos(cosine)
    shoulder = math.atan2(height, reach) + math.atan2(
        FOREARM * math.sin(bend), UPPER_ARM + FOREARM * cosine
    )
    return yaw, shoulder, -bend, bend - shoulder, -yaw


class Arm:
    """Drives the arm of one simulation: Cartesian displacement in, joint servo targets out."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self.model, self.data = model, data
        self._site = model.site("end_effector").id
        names = ("base_yaw", "shoulder", "elbow", "wrist_pitch", "wrist_yaw")
        self._joints = np.array([model.joint(name).qposadr[0] for name in names])
        self._fingers = np.array(
            [model.joint(name).qposadr[0] for name in ("left_finger", "right_finger")]
        )
        self._grip = model.actuator("grip").id
        self.command = np.zeros(3)

    @property
    def position(self) -> np.ndarray:
        """Grasp point between the finger pads, [3], meters."""
        return self.data.site_xpos[self._site]

    @property
    def opening(self) -> float:
        """Distance between the finger pads, meters."""
        return float(self.data.qpos[self._fingers].sum())

    @property
    def grip_force(self) -> float:
        """Force of the gripper's motor, newtons; negative closes."""
        return float(self.data.actuator_force[self._grip])

    def place(self, position: np.ndarray) -> None:
        """Start an episode with the hand open at `position` [3], at rest."""
        angles = joint_angles(*position)
        self.data.qpos[self._joints] = angles
        self.data.qpos[self._fingers] = FINGER_TRAVEL
        self.data.ctrl[:5] = angles
        self.data.ctrl[self._grip] = FINGER_TRAVEL
        self.command = np.array(position, np.float64)

    def step(self, action: np.ndarray) -> None:
        """One control step (0.1 s): move the commanded point by `action[:3]` * ACTION_SCALE in a
        straight line, and close the gripper where `action[3]` > 0, open it elsewhere.

        Raises RuntimeError when the physics diverged (MuJoCo itself would only warn and reset).
        """
        held = self.position + np.clip(self.command - self.position, -LEASH, LEASH)
        goal = np.clip(held + ACTION_SCALE * action[:3], WORKSPACE_LOW, WORKSPACE_HIGH)
        start = self.command
        grip_start = float(self.data.ctrl[self._grip])
        wish = 0.0 if action[3] > 0 else FINGER_TRAVEL
        grip_goal = grip_start + min(max(wish - grip_start, -FINGER_STEP), FINGER_STEP)
        for i in range(1, SERVO_UPDATES + 1):
            part = i / SERVO_UPDATES
            self.data.ctrl[:5] = joint_angles(*(start + part * (goal - start)).tolist())
            self.data.ctrl[self._grip] = grip_start + part * (grip_goal - grip_start)
            mujoco.mj_step(self.model, self.data, SUBSTEPS)
        if any(self.data.warning[kind].number for kind in _DIVERGED):
            raise RuntimeError(f"The physics diverged {self.data.time:.2f} s into the episode.")
        self.command = goal
