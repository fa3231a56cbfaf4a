"""Scripted experts of the tabletop tasks, with noise and named ways to fail."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.tabletop.arm import ACTION_SCALE
from sim.tabletop.env import TabletopEnv
from sim.tabletop.scene import NEUTRAL, NEUTRAL_SPREAD, OBJECTS, RECEPTACLES

# name -> what goes wrong, in plain words
FAILURE_MODES: dict[str, str] = {
    "miss_grasp": "closes the fingers beside the object and goes on with empty hands",
    "early_close": "closes the fingers above the object, before they are around it",
    "drop_early": "grasps well, then lets go on the way",
    "wrong_object": "does the task with another object than the one asked for",
    "wrong_receptacle": "puts the object in the other receptacle",
    "overshoot": "carries the object past the receptacle and lets go there",
    "hesitate": "begins well, then stops somewhere on the way and stays",
    "wander": "drifts from place to place and grasps nothing",
    "miss_handle": "closes the fingers beside the drawer's handle and pulls nothing",
    "short_pull": "lets go of the handle before the drawer is open wide enough",
    "sloppy": "aims badly and never tries again: success is luck, about every second time",
    "cut_short": "does well, but the recording stops at a random moment (a truncated log)",
}
_GRASPING = (
    "miss_grasp",
    "early_close",
    "drop_early",
    "wrong_object",
    "hesitate",
    "wander",
    "sloppy",
    "cut_short",
)
# task -> range of the step after which a cut_short log ends; a good episode takes about as long
_CUT_AFTER = {"pick": (4, 14), "place": (6, 26), "drawer": (6, 34)}
# task -> the failure modes that make sense there
TASK_FAILURES: dict[str, tuple[str, ...]] = {
    "pick": _GRASPING,
    "place": (*_GRASPING, "wrong_receptacle", "overshoot"),
    "drawer": (*_GRASPING, "miss_handle", "short_pull"),
}

_HOVER = 0.09  # meters above an object where the hand lines up
_CARRY = 0.15  # meters above the table on the way to a receptacle
_RELEASE = {"blue bowl": 0.062, "white tray": 0.048}  # hand height when letting go, meters
_WIDE_OPEN = 0.112  # meters of drawer opening at which the expert lets go
_ENOUGH = 0.09  # meters of drawer opening that the expert grasps through
_HELD = 0.02  # a closed hand that stays open wider than this holds something, meters

Move = Iterator[np.ndarray]


def _up(height: float) -> np.ndarray:
    return np.array([0.0, 0.0, height])


class TabletopExpert:
    """Plays one episode of a TabletopEnv from the true state of its simulation.

    `act()` gives the next action, float32 [4]; `done` says that the log may end here: the drawer
    was opened and the hand is back at neutral, where the episode's `phase` option is "open", or the
    recording of a "cut_short" log stops.
    """

    def __init__(
        self, env: TabletopEnv, failure: str | None, noise: float, rng: np.random.Generator
    ) -> None:
        self.env, self.noise, self.rng = env, noise, rng
        cut = failure == "cut_short"
        self.failure = None if cut else failure
        self._left = int(rng.integers(*_CUT_AFTER[env.task])) if cut else None
        self.scene = env.scene
        self.done = False
        self._moves: Move | None = None
        self._grip = -1.0

    def act(self) -> np.ndarray:
        """The next action, float32 [4] in [-1, 1]; the first call looks at the episode's layout."""
        if self._moves is None:
            self._moves = self._play()
        action = next(self._moves)
        if self._left is not None:
            self._left -= 1
            self.done = self.done or self._left <= 0
        action = action + self.noise * self.rng.standard_normal(4)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    # What follows are generators: each `yield` is one action, and a move ends when it is finished.

    def _play(self) -> Move:
        task = self.env.task
        if self.failure == "wander":
            yield from self._wander()
        if task == "drawer":
            if self.scene.drawer_opening < _ENOUGH:
                yield from self._open_drawer()
                yield from self._reach(NEUTRAL, NEUTRAL_SPREAD)
                yield from self._rest(1)
            if self.env.phase == "open":
                self.done = True
                yield from self._stay()
        name = self.env.target_object
        if self.failure == "wrong_object":
            name = str(self.rng.choice([other for other in OBJECTS if other != name]))
        while True:  # the environment ends the episode at success; the expert tries until then
            yield from self._grasp(name)
            if self.env.target_receptacle is not None:
                yield from self._carry()
            elif self.failure == "drop_early":
                yield from self._rise(float(self.rng.uniform(0.03, 0.05)))
                yield from self._fingers(-1.0)
                yield from self._rise(0.06)
            else:
                yield from self._rise(0.15)
            if self.failure is not None:
                yield from self._stay()
            yield from self._rest(2)
            self._grip = -1.0
            yield from self._rise(0.06)

    def _grasp(self, name: str) -> Move:
        """Take an object; with no failure to show, look whether it is held and try again."""
        missing = np.zeros(3)
        if self.failure == "miss_grasp":
            missing[0] = self.rng.choice([-1, 1]) * self.rng.uniform(0.042, 0.055)
            missing[1] = self.rng.normal(0, 0.008)
        elif self.failure == "sloppy":
            missing[:2] = self.rng.normal(0, [0.02, 0.026])
        at = self.scene.object_position(name)  # a view: it follows the object
        if self.failure == "hesitate" and (
            self.env.target_receptacle is None or self.rng.random() < 0.5
        ):
            start = self.scene.arm.position.copy()
            stop = start + self.rng.uniform(0.3, 0.9) * (at + _up(_HOVER) - start)
            yield from self._reach(stop, 0.01)
            yield from self._stay()
        while True:
            yield from self._reach(at, 0.012, 0.03, missing + _up(_HOVER))
            if self.failure == "early_close":
                above = _up(float(self.rng.uniform(0.045, 0.06)))
                yield from self._reach(at, 0.01, offset=above)
            else:
                # The spot is fixed here, so that a touched object is not pushed along.
                spot = at + missing
                spot[2] = max(float(at[2]), 0.02)
                yield from self._reach(spot, 0.006)
            yield from self._fingers(1.0)
            if self.failure is not None:
                return
            yield from self._rise(0.06)
            if self.scene.arm.opening > _HELD:
                return
            self._grip = -1.0
            yield from self._rise(0.07)

    def _carry(self) -> Move:
        """Bring what the hand holds to the receptacle and let go there."""
        name = str(self.env.target_receptacle)
        if self.failure == "wrong_receptacle":
            name = next(other for other in RECEPTACLES if other != name)
        goal = self.scene.receptacle_position(name).copy()
        if self.failure == "overshoot":
            goal[:2] += self._past(goal[:2])
        elif self.failure == "sloppy":
            goal[:2] += self.rng.normal(0, 0.02, 2)
        start = self.scene.arm.position.copy()
        over = goal + _up(_CARRY)
        if self.failure in ("drop_early", "hesitate"):
            part = float(self.rng.uniform(0.25, 0.6))
            stop = start + part * (over - start)
            stop[2] = max(stop[2], 0.09)
            yield from self._rise(0.08)
            yield from self._reach(stop, 0.02)
            if self.failure == "hesitate":
                yield from self._stay()
            yield from self._fingers(-1.0)
        yield from self._rise(0.10)
        yield from self._reach(over, 0.015, 0.03)
        down = goal + _up(_RELEASE[name])
        yield from self._reach(down, 0.012)
        yield from self._fingers(-1.0)
        yield from self._rise(0.12)

    def _past(self, goal: np.ndarray) -> np.ndarray:
        """A displacement [2] beyond the receptacle, as seen from the hand, clear of the others."""
        away = goal - self.scene.arm.position[:2]
        heading = np.arctan2(away[1], away[0])
        others = [self.scene.receptacle_position(name)[:2] for name in RECEPTACLES]
        for spread in np.linspace(0, np.pi, 12):
            angle = heading + spread * self.rng.choice([-1, 1])
            step = self.rng.uniform(0.085, 0.11) * np.array([np.cos(angle), np.sin(angle)])
            spot = goal + step
            inside = abs(spot[1]) < 0.22 and 0.23 < spot[0] < 0.49
            if inside and min(np.hypot(*(spot - other)) for other in others) > 0.08:
                break
        return step

    def _open_drawer(self) -> Move:
        """Grasp the handle and pull it along x until the drawer is open."""
        handle = self.scene.handle_position
        if handle is None:
            raise ValueError(f"Task {self.env.task} has no drawer to open.")
        missing = np.zeros(3)
        wide = _WIDE_OPEN + float(self.rng.uniform(-0.004, 0.004))
        if self.failure == "miss_handle":
            missing[1] = self.rng.choice([-1, 1]) * self.rng.uniform(0.065, 0.08)
        elif self.failure == "short_pull":
            wide = float(self.rng.uniform(0.01, 0.04))
        elif self.failure == "sloppy":
            missing[:2] = self.rng.normal(0, 0.012, 2)
        stops = self.failure == "hesitate" and (self.env.phase == "open" or self.rng.random() < 0.5)
        while True:
            yield from self._reach(handle, 0.012, 0.03, missing + _up(0.075))
            if stops:
                yield from self._stay()
            spot = handle + missing
            yield from self._reach(spot, 0.008)
            yield from self._fingers(1.0)
            line = self.scene.arm.position.copy()
            pulled = line[0]
            while self.scene.drawer_opening < wide and pulled < line[0] + 0.13:
                pulled = self.scene.arm.position[0] + 0.04
                yield self._towards(np.array([pulled, line[1], line[2]]))
            yield from self._fingers(-1.0)
            yield from self._rise(0.13)
            if self.failure is not None or self.scene.drawer_opening > _ENOUGH:
                return

    def _wander(self) -> Move:
        """Drift between random places, opening and closing now and then, for ever."""
        while True:
            low, high = [0.26, -0.2, 0.06], [0.48, 0.2, 0.2]
            place = self.rng.uniform(low, high)
            yield from self._reach(place, 0.02)
            self._grip = float(self.rng.choice([-1.0, -1.0, 1.0]))
            yield from self._rest(int(self.rng.integers(0, 4)))

    def _towards(self, goal: np.ndarray) -> np.ndarray:
        """The action whose commanded point comes closest to `goal` [3], along a straight line."""
        move = (goal - self.scene.arm.command) / ACTION_SCALE
        largest = float(np.abs(move).max())
        return np.append(move / max(largest, 1.0), self._grip)

    def _reach(
        self,
        anchor: np.ndarray,
        tolerance: float,
        height_tolerance: float | None = None,
        offset: np.ndarray | None = None,
    ) -> Move:
        """Move until the hand is within `tolerance` meters of anchor + offset (height: its own).

        An anchor that is a view of the simulation's state is followed as it moves.
        """
        offset = np.zeros(3) if offset is None else offset
        noise = self.noise * ACTION_SCALE  # meters; with noise the hand never stands still
        up = max(tolerance if height_tolerance is None else height_tolerance, noise)
        tolerance = max(tolerance, noise)
        for _ in range(25):
            off = np.abs(anchor + offset - self.scene.arm.position)
            if off[:2].max() < tolerance and off[2] < up:
                return
            yield self._towards(anchor + offset)

    def _rise(self, height: float) -> Move:
        """Move straight up until the hand is `height` meters above the table."""
        goal = self.scene.arm.command.copy()
        goal[2] = height + 0.02
        while self.scene.arm.position[2] < height:
            yield self._towards(goal)

    def _fingers(self, grip: float) -> Move:
        """Close (1) or open (-1) in place, until the fingers have stopped."""
        self._grip = grip
        place = self.scene.arm.command.copy()
        for _ in range(3):
            yield self._towards(place)

    def _rest(self, steps: int) -> Move:
        place = self.scene.arm.command.copy()
        for _ in range(steps):
            yield self._towards(place)

    def _stay(self) -> Move:
        place = self.scene.arm.command.copy()
        while True:
            yield self._towards(place)


def build_expert(
    env: TabletopEnv, failure: str | None, noise: float, rng: np.random.Generator
) -> TabletopExpert:
    """A scripted expert for the episode that `env` starts next (or has just started).

    `failure` is None or a key of FAILURE_MODES that the task knows (TASK_FAILURES; else
    ValueError); `noise` is the standard deviation of Gaussian noise on the actions.
    """
    bare = env.unwrapped
    if not isinstance(bare, TabletopEnv):
        raise ValueError(f"The tabletop expert needs a TabletopEnv, got {type(bare).__name__}.")
    if failure is not None and failure not in TASK_FAILURES[bare.task]:
        raise ValueError(
            f"Task {bare.task} has no failure mode {failure!r}; it has: "
            f"{', '.join(TASK_FAILURES[bare.task])}."
        )
    return TabletopExpert(bare, failure, noise, rng)
