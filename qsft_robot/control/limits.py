"""Limits on commands: range, box and rate of change, whatever a policy answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qsft_robot.control.commanded_point import CommandedPoint
from qsft_robot.control.robot import RobotSpec
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.types import Observation

KINDS = ("nan", "range", "change", "velocity", "workspace")


@dataclass(frozen=True)
class Limits:
    """Bounds of an action [d], in the robot's own units; None: no such limit."""

    low: np.ndarray
    high: np.ndarray
    # Largest change of each dimension from one action to the next, [d]. Switches are exempt, and a
    # displacement may always go back to 0: a robot may stop at once.
    change: np.ndarray | None = None
    # Units a second of each dimension that is a place, [d]; inf: none. Switches are exempt.
    velocity: np.ndarray | None = None
    # Meters a second of the end effector.
    speed: float | None = None
    # Corners of the box that the end effector may be sent to, [3], meters. An end effector that is
    # outside may only move inwards.
    box_low: np.ndarray | None = None
    box_high: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not (self.low <= self.high).all():
            raise ValueError(
                f"limits: lowest action {self.low.tolist()} above the highest {self.high.tolist()}."
            )
        for name in ("change", "velocity", "speed"):
            bound = getattr(self, name)
            if bound is not None and not (np.asarray(bound) >= 0).all():
                raise ValueError(f"limits: {name} {np.asarray(bound).tolist()} is negative.")
        if (self.box_low is None) != (self.box_high is None):
            raise ValueError("limits: a workspace box has two corners, --box-low and --box-high.")
        corners = [corner for corner in (self.box_low, self.box_high) if corner is not None]
        if any(corner.shape != (3,) for corner in corners):
            raise ValueError(
                f"limits: the corners of the box have {[corner.size for corner in corners]} "
                "numbers, not x, y, z; give --box-low and --box-high, or --limits-off workspace."
            )
        if self.box_low is not None and not (self.box_low < self.box_high).all():
            raise ValueError(
                f"limits: box corner {self.box_low.tolist()} is not below {self.box_high}."
            )

    def reach(self, period_s: float) -> np.ndarray:
        """How far each dimension may go from one action to the next, [d]; Inf: any way."""
        found = np.full(len(self.low), np.inf)
        if self.change is not None:
            found = np.minimum(found, self.change)
        if self.velocity is not None:
            found = np.minimum(found, self.velocity * period_s)
        return found

    def to_json(self) -> dict[str, Any]:
        """As JSON types, for reports."""

        def plain(x: Any) -> Any:
            if isinstance(x, np.ndarray):
                return [float(v) if np.isfinite(v) else None for v in x]
            return x

        return {key: plain(value) for key, value in vars(self).items()}


def limits_from_policy(
    robot: RobotSpec,
    policy: PolicySpec,
    description: PolicyDescription,
    control_hz: float,
    *,
    off: Collection[str] = (),
    **given: np.ndarray | float | None,
) -> Limits:
    """The limits that the policy's own statistics give, each replaced where `given` has one.

    `given` are fields of Limits, numbers for each dimension or one for all; `off` are kinds to
    leave out. A policy without statistics (an older folder) gives its declared range alone.
    """
    bad = sorted(set(off) - set(KINDS[1:]))
    if bad:
        raise ValueError(f"--limits-off {' '.join(bad)}: there are: {', '.join(KINDS[1:])}.")
    seen = description.action.seen
    rate = robot.control_hz if robot.stepped and robot.control_hz else control_hz
    logs_hz = policy.control_hz or rate
    # A loop faster than the logs sends smaller changes and shorter steps: the same a second.
    share = min(1.0, logs_hz / rate)
    low = np.maximum(robot.action_low, policy.action_low if seen is None else seen.low)
    high = np.minimum(robot.action_high, policy.action_high if seen is None else seen.high)
    steps = robot.is_displacement
    steps[list(robot.speeds)] = False
    low, high = (np.where(steps, np.asarray(x, np.float64) * share, x) for x in (low, high))
    found: dict[str, Any] = {"low": low, "high": np.maximum(low, high)}
    end = robot.end_effector
    still = robot.is_displacement
    if seen is not None:
        change = np.asarray(seen.largest_change, np.float64)
        found["change"] = change * share
        found["velocity"] = np.where(still, np.inf, change * logs_hz)
        if end is not None:
            largest = np.maximum(np.abs(seen.low), np.abs(seen.high))
            step = largest if end.action == "displacement" else change
            hz = rate if {0, 1, 2} <= {*robot.speeds} else logs_hz
            found["speed"] = float(np.linalg.norm(step[:3]) * end.scale * hz)
    box = description.state_range.get(end.key) if end is not None else None
    if box is not None:
        found["box_low"] = np.asarray(box.low, np.float64)[:3]
        found["box_high"] = np.asarray(box.high, np.float64)[:3]
    sizes = dict.fromkeys(("low", "high", "change", "velocity"), robot.action_dim)
    sizes |= {"box_low": 3, "box_high": 3}
    for name, value in given.items():
        if value is not None:
            found[name] = float(value) if name == "speed" else _row(name, value, sizes[name])
    if "box_low" in found and end is None:
        raise ValueError(
            f"--box-low, --box-high: robot {robot.name} reports no end-effector position to hold "
            "against a box (RobotSpec.end_effector)."
        )
    # No flag takes an arm beyond what it declares of itself.
    found["low"] = np.maximum(found["low"], robot.action_low)
    found["high"] = np.minimum(found["high"], robot.action_high)
    limits = Limits(**found)
    if "range" in off:
        limits = replace(limits, low=robot.action_low, high=robot.action_high)
    if "change" in off:
        limits = replace(limits, change=None)
    if "velocity" in off:
        limits = replace(limits, velocity=None, speed=None)
    if "workspace" in off:
        limits = replace(limits, box_low=None, box_high=None)
    return limits


class ActionLimiter:
    """Bends each action into the limits, and counts what it bent by kind.

    What `apply` returns is finite, in range, within the largest change and speed of the action
    before, and does not send the end effector out of the box; an arm that stands outside of range
    or box is led back at that rate. It also passes every `hold`. Nothing leaves the range that the
    robot declares, and nothing is sent to an arm that stands beyond it.
    """

    def __init__(
        self,
        limits: Limits,
        robot: RobotSpec,
        control_hz: float,
        clamps: Counter[str] | None = None,
    ) -> None:
        """`clamps`: counts that go on."""
        self.limits, self.robot = limits, robot
        # The action before, as far as the driver could be believed, float32 [d].
        self.last: np.ndarray | None = None
        self.clamps: Counter[str] = Counter() if clamps is None else clamps
        self._period = 1.0 / control_hz
        self._still = robot.is_displacement
        self._exempt = np.zeros(robot.action_dim, bool)
        self._exempt[list(robot.switches)] = True
        # A displacement of 0 is a hold, whatever the robot declares.
        declared = (robot.action_low.astype(np.float64), robot.action_high.astype(np.float64))
        self._declared_range = (
            np.where(self._still, np.minimum(declared[0], 0.0), declared[0]),
            np.where(self._still, np.maximum(declared[1], 0.0), declared[1]),
        )
        self._low, self._high = self._range()
        end = robot.end_effector
        self._point = CommandedPoint(0.0 if end is None else end.leash)
        self.reset()

    def reset(self, moved: bool = True) -> None:
        """An episode begins. `moved`: the robot may be elsewhere than it was sent last; else one
        that doesn't measure where it is counts as being there still."""
        if moved or self.robot.measured is not None:
            self.last = None
        # What was handed to the driver, which may have sent less.
        self._handed = self.last
        if moved:
            self._point.reset()

    def take_over(self, before: ActionLimiter) -> None:
        """Go on where the limits of another policy were."""
        self.last, self._point = before.last, before._point

    def sent(self, action: np.ndarray) -> None:
        """Tell what was handed to the driver, float32 [d]."""
        self._handed = self.last = np.asarray(action, np.float32)
        if self.robot.end_effector is not None:
            self._point.sent(self.robot.end_effector.scale * self.last[:3].astype(float))

    def told(self, really: np.ndarray) -> None:
        """Tell what the driver says that it sent instead, float32 [d], where that is `believed`."""
        self.last = np.asarray(really, np.float32)
        if self.robot.end_effector is not None:
            self._point.told(self.robot.end_effector.scale * self.last[:3].astype(float))

    def believed(self, action: np.ndarray, told: Any) -> np.ndarray | None:
        """The action that a driver `told` it sent instead of `action` [d], float32 [d]; None unless
        it is a finite row [d] of the declared range, as near as one change or nearer to a stop."""
        try:
            row = np.asarray(told)
        except Exception:  # an array of the driver's own kind may fail in any way
            return None
        if row.dtype.kind not in "fiu":
            return None
        row = row.astype(np.float64)
        if row.shape != action.shape or not np.isfinite(row).all():
            return None
        low, high, width = (*self._declared_range, self.limits.high - self.limits.low)
        reach = self.limits.reach(self._period)
        reach = np.where(np.isfinite(reach), reach, np.where(np.isfinite(width), 0.1 * width, 0.0))
        near = np.abs(row - action) <= reach + 1e-6 * np.maximum(1.0, np.abs(action))
        slower = self._still & (row * action >= 0) & (np.abs(row) <= np.abs(action))
        inside = (row >= low) & (row <= high)
        fine = inside & (near | slower | self._exempt)
        return row.astype(np.float32) if fine.all() else None

    def hold(self, observation: Observation | None) -> np.ndarray | None:
        """The action that keeps the robot where it is, float32 [d]; None to send nothing."""
        action = self.robot.hold(self.last, observation)
        return None if action is None else self._bend(action, observation, Counter())

    def apply(self, action: np.ndarray, observation: Observation) -> np.ndarray | None:
        """The action to send, float32 [d]; an action with NaN or Inf becomes a hold. None where
        nothing may be sent: an arm that stands beyond the range it declares."""
        action = np.asarray(action, np.float64)
        if action.shape != (self.robot.action_dim,):
            raise ValueError(
                f"an action of the policy has shape {action.shape}, the robot "
                f"{self.robot.name} takes ({self.robot.action_dim},)."
            )
        if not np.isfinite(action).all():
            self.clamps["nan"] += 1
            return self.hold(observation)
        return self._bend(action, observation, self.clamps)

    def _bend(
        self, action: np.ndarray, observation: Observation | None, clamps: Counter[str]
    ) -> np.ndarray | None:
        """Clip into one interval after the other. For each dimension all intervals hold one point
        in common (0 for a displacement, else the action before), so the order does not matter."""
        at = np.asarray(action, np.float64)
        limits, before = self.limits, self._before(observation)
        inside = np.clip(before, *self._declared_range)
        reach = limits.reach(self._period)
        if (np.abs(inside - before) > np.where(np.isfinite(reach), reach, 0.0) + 1e-6).any():
            return None
        before = inside
        bounds = [("range", *self._reaching(before, *self._declared))]
        if limits.change is not None:
            bounds.append(("change", *self._around(before, limits.change)))
        if limits.velocity is not None:
            speed = np.where(self._still, np.inf, limits.velocity * self._period)
            bounds.append(("velocity", *self._around(before, speed)))
        if (box := self._box_around(observation)) is not None:
            bounds.append(("workspace", *self._reaching(before, *box)))
        for kind, low, high in bounds:
            clipped = np.clip(at, low, high)
            if (np.abs(clipped - at) > 1e-6 * np.maximum(1.0, np.abs(at))).any():
                clamps[kind] += 1
            at = clipped
        at = self._slow_down(at, before, clamps)
        low, high = self._reaching(before, self._low, self._high)
        return _inside(at, *(np.clip(x, *self._declared_range) for x in (low, high)))

    def _reaching(
        self, before: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """An interval that reaches to where a place stood before: an arm that stands outside comes
        back in at the allowed rate, not at once."""
        free = self._still | self._exempt | np.isnan(before)
        return (
            np.where(free, low, np.fmin(low, before)),
            np.where(free, high, np.fmax(high, before)),
        )

    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        """The range, and where actions are positions the box as well."""
        low = np.asarray(self.limits.low, np.float64).copy()
        high = np.asarray(self.limits.high, np.float64).copy()
        # A displacement of 0 is a hold, whatever the logs showed.
        low[self._still] = np.minimum(low[self._still], 0.0)
        high[self._still] = np.maximum(high[self._still], 0.0)
        self._declared = (low, high)
        if (box := self._box_around(None)) is not None:
            low, high = np.maximum(low, box[0]), np.minimum(high, box[1])
            if (low > high).any():
                raise ValueError(
                    f"limits: the workspace box {self.limits.box_low} to {self.limits.box_high} m "
                    f"holds no action of robot {self.robot.name}."
                )
        return low, high

    def _before(self, observation: Observation | None) -> np.ndarray:
        """The action before, or where the robot stands when none was sent yet, float64 [d]; NaN for
        places that nobody knows."""
        before = self.last
        if before is None:
            before = self.robot.hold(None, observation)
        if before is None:
            before = np.where(self._still, 0.0, np.nan)
        return before.astype(float)

    def _around(self, before: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        free = self._exempt | np.isnan(before)
        # A driver that says that it sent something else may be wrong: near both is near either.
        other = before if self.last is None or self._handed is None else self._handed
        low = np.where(free, -np.inf, np.maximum(before, other) - reach)
        high = np.where(free, np.inf, np.minimum(before, other) + reach)
        low[self._still] = np.minimum(low[self._still], 0.0)
        high[self._still] = np.maximum(high[self._still], 0.0)
        return low, high

    def _box_around(self, observation: Observation | None) -> tuple[np.ndarray, np.ndarray] | None:
        """The range that the box leaves of the first three numbers, low and high; displacements
        need the observation."""
        end, corner, other = self.robot.end_effector, self.limits.box_low, self.limits.box_high
        if end is None or corner is None or other is None:
            return None
        low = np.full(self.robot.action_dim, -np.inf)
        high = np.full(self.robot.action_dim, np.inf)
        if end.action == "position":
            low[:3], high[:3] = corner / end.scale, other / end.scale
            return low, high
        if observation is None:
            return None
        at = np.array(observation.state[end.key][:3], np.float64)
        if not np.isfinite(at).all():
            low[:3] = high[:3] = 0.0  # nobody knows which way leads inwards
            return low, high
        lowest, highest = self._point.look(at)
        low[:3] = np.minimum((corner - lowest) / end.scale, 0.0)
        high[:3] = np.maximum((other - highest) / end.scale, 0.0)
        return low, high

    def _slow_down(self, at: np.ndarray, before: np.ndarray, clamps: Counter[str]) -> np.ndarray:
        """Shorten the end effector's way to what `speed` allows, in its own direction."""
        end, speed = self.robot.end_effector, self.limits.speed
        if end is None or speed is None:
            return at
        start = before[:3] if end.action == "position" else np.zeros(3)
        if np.isnan(start).any():
            return at
        way = at[:3] - start
        length, allowed = float(np.linalg.norm(way)) * end.scale, speed * self._period
        if length <= allowed * (1 + 1e-6):
            return at
        clamps["velocity"] += 1
        return np.concatenate([start + way * (allowed / length), at[3:]])


def _inside(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Round to float32 without leaving [low, high]."""
    rounded = action.astype(np.float32)
    rounded = np.where(rounded < low, np.nextafter(rounded, np.float32(np.inf)), rounded)
    return np.where(rounded > high, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _row(name: str, value: Any, size: int) -> np.ndarray:
    row = np.asarray(value, np.float64).ravel()
    if row.size not in (1, size):
        flag = name.replace("_", "-")
        raise ValueError(f"limits: {flag} has {row.size} numbers; give 1 or {size}.")
    return np.broadcast_to(row, size).copy()
