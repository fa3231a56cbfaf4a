"""Plausibility of sensor readings: whole, in range, near the reading before, not frozen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import inf

import numpy as np

from qsft_robot.control.limits import Limits
from qsft_robot.control.robot import RobotSpec
from qsft_robot.policy.description import Span
from qsft_robot.types import Observation

# Readings in a row that agree with each other before a place far from the last one is believed.
AGREE = 5
# A reading may differ from the one before by so many times the largest change of a command once
# commands move the arm (it lags and catches up), and by one change before.
MOVING = 3.0
# Slack of a place where the logs never moved it: share of the range, else a plain number.
SHARE, LEAST = 0.005, 1e-3
# Meters between two readings of a hand that stands, and at least of one that moves.
HAND_M = 0.02
# A reading this many times the logs' span away from them is another unit or another order.
FAR = 3.0
# Seconds after which a sensor is frozen whose reading is the same to the last bit, the arm having
# been sent elsewhere in half of the ticks since.
FROZEN_S = 1.0


class ReadingCheck:
    """The judge of one robot's readings; told of every observation and every command."""

    def __init__(
        self,
        robot: RobotSpec,
        limits: Limits,
        hz: float,
        *,
        cameras: Collection[str] | None = None,
        state: Collection[str] | None = None,
        ranges: Mapping[str, Span] | None = None,
        accept: Collection[str] = (),
    ) -> None:
        """`cameras` and `state` are the keys that the policy reads (None: all); `ranges` the range
        of each state key in the logs; `accept` as of the start-up check, and frozen."""
        self._robot, self._hz, end = robot, hz, robot.end_effector
        own = {robot.measured} if robot.measured else set()
        own |= {end.key} if end is not None else set()
        self._cameras = list(robot.cameras if cameras is None else cameras)
        self._state = sorted({*(robot.state if state is None else state), *own})
        self._free = robot.is_displacement.copy()
        self._free[list(robot.switches)] = True
        # How far numbers may move in one command, and a robot that was laid out anew before it.
        self._slack = self._slack_of(limits, inf if (speed := limits.speed) is None else speed / hz)
        self._rest = self._slack_of(limits, 0.0)
        self._stands = True
        self._ranges = {} if "state" in accept else {k: (ranges or {}).get(k) for k in own}
        self._refuses_frozen = "frozen" not in accept
        # Sensors that froze, for the report.
        self.frozen: set[str] = set()
        # The last reading believed and the last one at all, of what is compared; how many of the
        # newest agree with each other; seconds since the believed one.
        self._believed: dict[str, np.ndarray] | None = None
        self._raw: dict[str, np.ndarray] | None = None
        self._agreed, self._gap_s = 0, 0.0
        self._last_sent: np.ndarray | None = None
        self._ticks = self._moved = 0
        # Sensor -> what it read when it last changed, in which tick, the ticks of motion until
        # then, and where the arm was.
        self._since: dict[str, tuple[bytes, int, int, dict[str, np.ndarray] | None]] = {}

    @property
    def anchored(self) -> bool:
        """Whether there is a reading to compare the next one with."""
        return self._believed is not None

    def begin(self, anchor: Observation | None) -> None:
        """An episode begins. `anchor`: what was read just before, None: an arm stands where it was
        sent last, or else was seen last."""
        sent, key = self._last_sent, self._robot.measured
        if anchor is None and sent is not None and key is not None and self._believed is not None:
            seen = self._believed.get(key, sent)
            self._believed = {**self._believed, key: np.where(self._free, seen, sent).astype(float)}
        # Readings of the episode before are not in a row with those of this one.
        self._last_sent, self._agreed, self._stands = None, 0, anchor is not None
        if anchor is not None:
            self._believed = self._raw = self._rows(anchor)
            self._agreed, self._gap_s = 1, 0.0

    def take_over(self, before: ReadingCheck) -> None:
        """Go on where another judge of the same robot was."""
        for name in ("frozen", "_believed", "_raw", "_agreed", "_gap_s", "_last_sent", "_ticks",
                     "_moved", "_since"):  # fmt: skip
            setattr(self, name, getattr(before, name))

    def sent(self, action: np.ndarray) -> None:
        """Tell of every command that went out, float32 [d]."""
        # A first command may move the arm: it stands on a reading, not on a command.
        before = action - 1 if self._last_sent is None else self._last_sent
        moves = np.where(self._robot.is_displacement, np.abs(action), np.abs(action - before))
        moves[list(self._robot.switches)] = 0.0
        self._moved += bool((moves > 1e-6).any())
        self._last_sent = np.array(action)

    def look(self, seen: Observation, passed_s: float) -> str | None:
        """Why a reading taken `passed_s` seconds after the one before is not to be acted on, in
        words; None for a sound one."""
        self._ticks += 1
        frozen = self._frozen(seen)
        problem = self._whole(seen) or self._near(seen, passed_s)
        return problem or (frozen if self._refuses_frozen else None)

    def believes(self, seen: Observation) -> bool:
        """Whether `seen` is the reading that was believed last."""
        rows = self._rows(seen)
        if rows is None or self._believed is None:
            return not self._slack and self._whole(seen) is None
        return all(np.array_equal(rows[k], x) for k, x in self._believed.items() if k in rows)

    def _whole(self, seen: Observation) -> str | None:
        for key in self._cameras:
            image = seen.images.get(key)
            if image is None or image.shape != (*self._robot.cameras.get(key, ()), 3):
                got = "gave no image" if image is None else f"gave an image {image.shape}"
                return f"camera {key!r} {got}"
        for key in self._state:
            row = seen.state.get(key)
            if row is None or row.shape != (self._robot.state.get(key),):
                got = "is missing" if row is None else f"has shape {row.shape}"
                return f"state {key!r} {got}"
            if not np.isfinite(row).all():
                return f"state {key!r} reads NaN or Inf"
        return None

    def _near(self, seen: Observation, passed_s: float) -> str | None:
        """Whether places that the robot measures are where it can be."""
        rows = self._rows(seen)
        if not rows or self._robot.stepped:
            return None
        for key, row in rows.items():
            if (problem := self._possible(key, row)) is not None:
                self._agreed = 0
                return problem
        self._gap_s += passed_s
        slack, wide, since = self._rest if self._stands else self._slack, 1.0, 1.0
        if self._last_sent is not None:
            slack = self._slack
            wide, since = (MOVING * max(1.0, t * self._hz) for t in (passed_s, self._gap_s))
        raw, self._raw = self._raw, rows
        near_raw = raw is None or _differ(rows, raw, slack, wide) is None
        self._agreed = self._agreed + 1 if near_raw else 1
        was = self._believed
        far = None if was is None else _differ(rows, was, slack, since)
        if was is not None and far is not None and (self._agreed < AGREE or self._stuck(far[0])):
            key, i = far
            return f"state {key!r}[{i}] jumped from {was[key][i]:.4g} to {rows[key][i]:.4g}"
        self._believed, self._gap_s = rows, 0.0
        return None

    def _stuck(self, key: str) -> bool:
        """Whether a sensor has not changed since commands last moved the arm."""
        since = self._since.get(f"state {key!r}")
        return since is not None and since[2] < self._moved

    def _possible(self, key: str, row: np.ndarray) -> str | None:
        if key == self._robot.measured:
            low, high = self._robot.action_low, self._robot.action_high
            free = self._free | np.isinf(self._slack[key])
            out = ~free & ((row < low - self._slack[key]) | (row > high + self._slack[key]))
            if out.any():
                i = int(np.flatnonzero(out)[0])
                taken = f"the robot takes {low[i]:.4g} to {high[i]:.4g}"
                return f"state {key!r}[{i}] reads {row[i]:.4g}, {taken}"
        span = self._ranges.get(key)
        if span is None or np.shape(span.low) != row.shape:
            return None
        far = far_from(row, span)
        if far is None:
            return None
        return f"state {key!r}[{far}] reads {row[far]:.4g}, far from all that the logs had"

    def _slack_of(self, limits: Limits, hand_m: float) -> dict[str, np.ndarray]:
        """How far each number may move between two readings, by key, Inf where nothing is known;
        the hand by `hand_m` and what is left of its leash, or HAND_M."""
        robot, found = self._robot, dict[str, np.ndarray]()
        if robot.measured is not None:
            width, seen = robot.action_high - robot.action_low, limits.high - limits.low
            width = np.where(np.isfinite(width), width, seen)
            least = np.where(np.isfinite(width), SHARE * width, LEAST)
            reach = limits.reach(1.0 / self._hz)
            slack = np.maximum(np.where(np.isfinite(reach), reach, 20 * least), least)
            found[robot.measured] = np.where(self._free, inf, slack)
        if (end := robot.end_effector) is not None:
            # It may stand among what is measured, where displacements alone say nothing of it.
            row = found.setdefault(end.key, np.full(3, inf))
            far = max(HAND_M, hand_m + end.leash if hand_m else 0.0)
            row[:3] = np.where(np.isinf(row[:3]), far, row[:3])
        return found

    def _rows(self, seen: Observation | None) -> dict[str, np.ndarray] | None:
        """The rows compared from one reading to the next: measured places and the hand."""
        if seen is None:
            return None
        found = {}
        for key, slack in self._slack.items():
            row = seen.state.get(key)
            if row is not None and len(row) >= len(slack) and np.isfinite(row).all():
                found[key] = row.astype(np.float64)
        return found or None

    def _frozen(self, seen: Observation) -> str | None:
        """Which sensor reads the same, to the last bit, although the arm is sent elsewhere."""
        if self._robot.stepped:
            return None
        found, rows = None, self._rows(seen)
        images = {f"camera {k!r}": seen.images[k] for k in self._cameras if k in seen.images}
        # Other state than that of the arm itself need not move with it.
        arm = [k for k in (self._slack or self._state) if k in seen.state]
        for name, x in {**{f"state {k!r}": seen.state[k] for k in arm}, **images}.items():
            now, was = x.tobytes(), self._since.get(name)
            if was is None or was[0] != now:
                self._since[name] = (now, self._ticks, self._moved, rows)
                continue
            waited, moved = self._ticks - was[1], self._moved - was[2]
            if waited < FROZEN_S * self._hz or 2 * moved < waited:
                continue
            if name in images and not self._turned(was[3], rows):
                continue  # an arm that something holds shows the same picture
            self.frozen.add(name)
            found = found or f"{name} has not changed for {waited / self._hz:.1f} s of motion"
        return found

    def _turned(
        self, then: Mapping[str, np.ndarray] | None, now: Mapping[str, np.ndarray] | None
    ) -> bool:
        """Whether the arm is seen to have moved; True where no sensor of its own tells."""
        if not self._slack or then is None or now is None:
            return not self._slack
        return _differ(now, then, self._slack, 1.0) is not None


def far_from(row: np.ndarray, span: Span) -> int | None:
    """The first number of `row` that lies far from the range `span` (low, high), or None."""
    low, high = np.asarray(span.low), np.asarray(span.high)
    width = np.maximum(high - low, 1e-3)
    far = np.maximum(low - row, row - high) > FAR * width
    return int(np.flatnonzero(far)[0]) if far.any() else None


def _differ(
    a: Mapping[str, np.ndarray],
    b: Mapping[str, np.ndarray],
    slack: Mapping[str, np.ndarray],
    wide: float,
) -> tuple[str, int] | None:
    """Key and number in which two readings differ by more than `slack`, or None."""
    for key, bound in slack.items():
        if key not in a or key not in b:
            continue
        far = np.abs(a[key][: len(bound)] - b[key][: len(bound)]) > bound * wide + 1e-6
        if far.any():
            return key, int(np.flatnonzero(far)[0])
    return None
