"""One control step of a robosuite environment: the same numbers as robosuite's loop, less work.

robosuite computes at each of the 25 physics steps of a control step what changes only once a
control step (name look-ups, action limits, buffers, observables). The first physics step is left
to robosuite; the others repeat its operational space control with the indices already at hand,
through its own compiled functions, so that the torques are the same bits.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from robosuite.controllers.parts.arm.osc import OperationalSpaceController
from robosuite.controllers.parts.gripper.simple_grip import SimpleGripController
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error


def action_limits(simulator: Any) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest action of a robosuite environment, float64 [d].

    Those that robosuite tells, but for absolute controllers: they take metres and radians as they
    are, whatever their `input_min` and `input_max` say, so nothing bounds these numbers.
    """
    low, high = (np.array(limit, np.float64) for limit in simulator.action_spec)
    for begin, end in absolute_dimensions(simulator):
        low[begin:end], high[begin:end] = -np.inf, np.inf
    return low, high


def absolute_dimensions(simulator: Any) -> list[tuple[int, int]]:
    """First and last + 1 of the numbers of an action that say where to be, a pair a controller."""
    found, at = [], 0
    for robot in simulator.robots:
        for part, (_, end) in robot.composite_controller._action_split_indexes.items():
            controller = robot.part_controllers.get(part)
            places = getattr(controller, "input_type", "delta") == "absolute"
            if places or not getattr(controller, "use_delta", True):
                # Stiffness and damping, where an action sets them, stand before the goal.
                found.append((at + end - len(np.ravel(controller.input_min)), at + end))
        at += len(robot.action_limits[0])
    return found


class ControlLoop:
    """Steps one robosuite environment; `begin_episode` after each reset (it makes controllers)."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._arm: Any = None

    def begin_episode(self) -> None:
        """Take up the controllers of the new episode."""
        environment = self._environment
        self._substeps = int(environment.control_timestep / environment.model_timestep)
        robot = environment.robots[0]
        parts = robot.part_controllers
        arm, gripper = parts.get("right"), parts.get("right_gripper")
        plain = (
            environment.lite_physics
            and len(environment.robots) == 1
            and set(parts) == {"right", "right_gripper"}
            and type(arm) is OperationalSpaceController
            and type(gripper) is SimpleGripController
            and arm.interpolator_pos is None
            and arm.interpolator_ori is None
            and gripper.interpolator is None
            and not robot.is_mobile
        )
        self._arm = arm if plain else None
        if not plain:
            return
        model = environment.sim.model._model
        self._site = environment.sim.model.site_name2id(arm.ref_name)
        self._joints = arm.qvel_index
        self._actuators = robot._ref_actuators_indexes_dict["right"]
        self._limits = (
            model.actuator_ctrlrange[self._actuators, 0].copy(),
            model.actuator_ctrlrange[self._actuators, 1].copy(),
        )
        self._jacobian = np.zeros((6, model.nv))
        self._mass = np.zeros((model.nv, model.nv))

    def step(self, action: np.ndarray) -> None:
        """Advance by one control step under `action`, float64 [d] in [-1, 1]."""
        environment = self._environment
        sim = environment.sim
        environment.timestep += 1
        if self._arm is None:
            lite = environment.lite_physics
            for i in range(self._substeps):
                sim.step1() if lite else sim.forward()
                environment._pre_action(action, i == 0)
                sim.step2() if lite else sim.step()
        else:
            model, data = sim.model._model, sim.data._data
            mujoco.mj_step1(model, data)
            environment._pre_action(action, True)
            mujoco.mj_step2(model, data)
            self._repeat_torques(model, data)
        environment.cur_time += environment.control_timestep

    def _repeat_torques(self, model: Any, data: Any) -> None:
        arm, joints, site = self._arm, self._joints, self._site
        in_base = arm.input_ref_frame == "base"
        # The base is fixed, so the goal stays where it is in the world.
        goal_position = (
            arm.origin_pos + np.dot(arm.origin_ori, arm.goal_pos) if in_base else arm.goal_pos
        )
        goal_rotation = np.dot(arm.origin_ori, arm.goal_ori) if in_base else arm.goal_ori
        kp_position, kp_rotation = arm.kp[0:3], arm.kp[3:6]
        kd_position, kd_rotation = arm.kd[0:3], arm.kd[3:6]
        low, high = self._limits
        jacobian, mass = self._jacobian, self._mass
        qpos, qvel, ctrl, bias = data.qpos, data.qvel, data.ctrl, data.qfrc_bias
        position, rotation = data.site_xpos[site], data.site_xmat[site].reshape(3, 3)
        for _ in range(self._substeps - 1):
            mujoco.mj_step1(model, data)
            mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], site)
            mujoco.mj_fullM(model, mass, data.qM)
            velocity_position = np.dot(jacobian[:3], qvel)
            velocity_rotation = np.dot(jacobian[3:], qvel)
            j_full = np.ascontiguousarray(jacobian[:, joints])
            j_position, j_rotation = j_full[:3], j_full[3:]
            arm_mass = mass[joints, :][:, joints]
            force = (goal_position - position) * kp_position - velocity_position * kd_position
            torque = (
                orientation_error(goal_rotation, rotation) * kp_rotation
                - velocity_rotation * kd_rotation
            )
            full, by_position, by_rotation, nullspace = opspace_matrices(
                arm_mass, j_full, j_position, j_rotation
            )
            if arm.uncoupling:
                wrench = np.concatenate([np.dot(by_position, force), np.dot(by_rotation, torque)])
            else:
                wrench = np.dot(full, np.concatenate([force, torque]))
            torques = np.dot(j_full.T, wrench) + bias[joints]
            torques += nullspace_torques(
                arm_mass, nullspace, arm.initial_joint, qpos[arm.qpos_index], qvel[joints]
            )
            ctrl[self._actuators] = np.clip(torques, low, high)
            mujoco.mj_step2(model, data)
