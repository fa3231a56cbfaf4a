"""The start-up check: whether a policy and a robot speak of the same cameras, actions and rate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from qsft_robot.control.readings import far_from
from qsft_robot.control.robot import RobotSpec
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.types import Observation

# Differences that --accept may pass (frozen: a sensor that never changes, in the run); the others
# can't run.
ACCEPTABLE = ("rate", "range", "units", "state", "frozen")
# A policy whose whole action range is under this share of the robot's speaks another unit.
_UNIT_SHARE = 1 / 50


@dataclass(frozen=True)
class Difference:
    """One thing in which robot and policy differ."""

    kind: str
    what: str
    fix: str


def check_start(
    robot: RobotSpec,
    policy: PolicySpec,
    control_hz: float,
    *,
    description: PolicyDescription | None = None,
    observation: Observation | None = None,
    accept: Collection[str] = (),
) -> list[Difference]:
    """Refuse with one ValueError that names every difference and its fix; return the accepted.

    `description` (policy.json) adds the units and the range of states that the logs had,
    `observation` the robot's first one.
    """
    unknown = sorted(set(accept) - set(ACCEPTABLE))
    if unknown:
        raise ValueError(f"--accept {' '.join(unknown)}: there are: {', '.join(ACCEPTABLE)}.")
    found = [
        *_cameras(robot, policy),
        *_state(robot, policy),
        *_actions(robot, policy),
        *_rate(robot, policy, control_hz),
    ]
    if description is not None:
        found += _units(robot, description)
    if observation is not None:
        found += _observed(robot, policy, observation)
        if description is not None and not any(d.kind == "shape" for d in found):
            found += _readings(description, observation)
    refused = [d for d in found if d.kind not in accept]
    if refused:
        raise ValueError(
            f"robot {robot.name} and policy differ: "
            + "; ".join(f"({i}) {d.what} -> {d.fix}" for i, d in enumerate(refused, 1))
        )
    return found


def _cameras(robot: RobotSpec, policy: PolicySpec) -> list[Difference]:
    found = []
    for key, size in policy.cameras.items():
        if key not in robot.cameras:
            has = ", ".join(robot.cameras) or "none"
            found.append(
                Difference(
                    "shape",
                    f"the policy looks at the camera {key!r}, the robot has: {has}",
                    "name or add the camera, or train with --data.cameras of the robot's",
                )
            )
        elif tuple(robot.cameras[key]) != tuple(size):
            found.append(
                Difference(
                    "shape",
                    f"camera {key!r} is {_size(robot.cameras[key])} on the robot, {_size(size)} "
                    "in the policy (height x width)",
                    "set the camera to the policy's size, or train on the robot's",
                )
            )
    return found


def _state(robot: RobotSpec, policy: PolicySpec) -> list[Difference]:
    found = []
    for key, size in policy.state.items():
        if key not in robot.state:
            has = ", ".join(f"{k}[{n}]" for k, n in robot.state.items()) or "none"
            found.append(
                Difference(
                    "shape",
                    f"the policy reads the state {key!r}, the robot has: {has}",
                    "report it under this key, or train with --data.state-keys of the robot's",
                )
            )
        elif robot.state[key] != size:
            found.append(
                Difference(
                    "shape",
                    f"state {key!r} has {robot.state[key]} numbers on the robot, {size} in the "
                    "policy",
                    "report the same numbers in the same order as the logs",
                )
            )
    return found


def _actions(robot: RobotSpec, policy: PolicySpec) -> list[Difference]:
    if robot.action_dim != policy.action_dim:
        return [
            Difference(
                "shape",
                f"an action has {robot.action_dim} numbers on the robot, {policy.action_dim} in "
                "the policy",
                "use the policy of this robot's logs",
            )
        ]
    low, high = robot.action_low, robot.action_high
    slack = 1e-6 * np.maximum(1.0, np.abs(policy.action_high - policy.action_low))
    outside = (policy.action_low < low - slack) | (policy.action_high > high + slack)
    ranges = (
        f"{_numbers(policy.action_low)} to {_numbers(policy.action_high)} in the policy, "
        f"{_numbers(low)} to {_numbers(high)} on the robot"
    )
    if outside.any():
        return [
            Difference(
                "range",
                f"actions go from {ranges} (dimension {_numbers(np.flatnonzero(outside))} beyond)",
                "check the units, or pass --accept range to clamp",
            )
        ]
    with np.errstate(invalid="ignore"):
        share = (policy.action_high - policy.action_low) / (high - low)
    if np.isfinite(high - low).all() and (share < _UNIT_SHARE).all():
        return [
            Difference(
                "units",
                f"actions go from {ranges}: less than 1/50 of it, so probably another unit",
                "convert to the robot's units, or pass --accept units",
            )
        ]
    return []


def _rate(robot: RobotSpec, policy: PolicySpec, control_hz: float) -> list[Difference]:
    found = []
    fix = "run at the logs' rate (--control-hz), or pass --accept rate"
    if policy.control_hz is not None and abs(policy.control_hz - control_hz) > 0.01 * control_hz:
        found.append(
            Difference(
                "rate",
                f"the loop runs at {control_hz:g} Hz, the policy's logs at {policy.control_hz:g} "
                "Hz",
                fix,
            )
        )
    if robot.control_hz is not None and abs(robot.control_hz - control_hz) > 0.01 * control_hz:
        found.append(
            Difference(
                "rate",
                f"the loop runs at {control_hz:g} Hz, the robot is made for {robot.control_hz:g} "
                "Hz",
                fix,
            )
        )
    return found


def _units(robot: RobotSpec, description: PolicyDescription) -> list[Difference]:
    said = description.action.units
    if robot.units is None or said is None or list(said) == list(robot.units):
        return []
    return [
        Difference(
            "units",
            f"units of an action are {', '.join(robot.units)} on the robot, {', '.join(said)} in "
            "the policy",
            "convert, or pass --accept units if they mean the same",
        )
    ]


def _observed(robot: RobotSpec, policy: PolicySpec, seen: Observation) -> list[Difference]:
    """Whether the first observation is what the robot's own specification says."""
    found = []
    fix = f"fix get_observation or the spec of the robot {robot.name}"
    for key, size in policy.cameras.items():
        image = seen.images.get(key)
        if key in robot.cameras and (
            image is None or image.dtype != np.uint8 or image.shape != (*robot.cameras[key], 3)
        ):
            is_now = "is missing" if image is None else f"is {image.dtype} {image.shape}"
            said = f"uint8 ({_size(size)}, 3)"
            found.append(Difference("shape", f"camera {key!r} {is_now}, the spec says {said}", fix))
    for key in policy.state:
        row = seen.state.get(key)
        if key not in robot.state:
            continue
        if row is None or np.shape(row) != (robot.state[key],):
            is_now = "is missing" if row is None else f"has shape {np.shape(row)}"
            said = f"({robot.state[key]},)"
            found.append(Difference("shape", f"state {key!r} {is_now}, the spec says {said}", fix))
        elif not np.isfinite(row).all():
            found.append(Difference("shape", f"state {key!r} reads {_numbers(row)}", fix))
    return found


def _readings(description: PolicyDescription, seen: Observation) -> list[Difference]:
    """Whether the first reading lies anywhere near what the logs saw."""
    found = []
    for key, span in description.state_range.items():
        if key not in seen.state:
            continue
        low, high = np.asarray(span.low), np.asarray(span.high)
        row = np.asarray(seen.state[key], np.float64)
        if row.shape != low.shape:
            continue  # of the policy's own keys that is told above
        i = far_from(row, span)
        if i is not None:
            found.append(
                Difference(
                    "state",
                    f"state {key!r}[{i}] reads {row[i]:.4g}, the logs had {low[i]:.4g} to "
                    f"{high[i]:.4g}",
                    "check unit and order of its numbers and the start pose, or pass --accept "
                    "state",
                )
            )
    return found


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _numbers(row: np.ndarray) -> str:
    values = [f"{x:.4g}" for x in np.asarray(row).ravel()]
    return values[0] if len(set(values)) == 1 else f"[{', '.join(values)}]"
