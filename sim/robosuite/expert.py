"""Scripted experts of the robosuite tasks, with noise and named ways to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from sim.robosuite.env import RobosuiteEnv

# name -> what goes wrong, in plain words
FAILURE_MODES: dict[str, str] = {
    "miss_grasp": "closes the fingers beside the object and goes on with empty hands",
    "early_close": "closes the fingers above the object, before they are around it",
    "drop_early": "grasps well, then lets go on the way",
    "wrong_place": "carries the object to a wrong place (Lift: drags it along the table)",
    "hesitate": "begins well, then stops somewhere on the way and stays",
    "wander": "drifts from place to place and grasps nothing",
    "sloppy": "aims badly and never tries again: success is luck",
}

_OPEN, _CLOSE = -1.0, 1.0
_UP = np.array([0.0, 0.0, 1.0])
# What an action of 1 means under robosuite's OSC_POSE: meters, radians
_REACH, _TURN = 0.05, 0.5
_GAIN = 1.4  # above 1 the goal leads the target, which makes up for the controller's lag
_HOVER = 0.07  # meters above the object where the hand lines up
_TRIES = 3
# Meters from the compartment's center to where the can is let go: an arm that points straight down
# does not reach the center.
_CAN_AIM = (-0.03, -0.035)
_YAWS = (-0.3, 4.4)  # radians: the hand yaws that the arm's last joint reaches
_NUT_HANDLE = 0.062  # meters from the nut's center to where the fingers close

Script = Iterator[tuple[np.ndarray, float, float]]


class RobosuiteExpert:
    """Plays one episode of a RobosuiteEnv from the true state of its simulation.

    `act()` gives the next action, float32 [7]. A failed script holds still to the step limit, so
    that its log ends as a known failure; `done` is true only once a success was left alone.
    """

    def __init__(
        self, env: RobosuiteEnv, failure: str | None, noise: float, rng: np.random.Generator
    ) -> None:
        scripts: dict[str, Callable[[], Script]] = {
            "Lift": self._lift,
            "PickPlaceCan": self._place_can,
            "Stack": self._stack,
            "NutAssemblySquare": self._assemble,
        }
        name = env.settings.env_name
        if name not in scripts:
            raise ValueError(f"no scripted expert for {name!r}; there are: {', '.join(scripts)}.")
        if failure is not None and failure not in FAILURE_MODES:
            raise ValueError(
                f"unknown failure mode {failure!r}; there are: {', '.join(FAILURE_MODES)}."
            )
        action = env.simulator.robots[0].composite_controller.action_limits[0]
        if len(action) != 7 or env.settings.control_hz != 20:
            raise ValueError("the scripted experts drive OSC_POSE (7 numbers) at 20 Hz only.")
        self._simulator = env.simulator
        self._env = env
        self._failure, self._noise, self._rng = failure, noise, rng
        self._grasp_error, self._place_error = self._draw_errors()
        # before any task can be done: Lift takes some 30 steps, the others 55 and more
        latest = 24 if name == "Lift" else 50
        self._stop = int(rng.integers(6, latest)) if failure == "hesitate" else None
        self._steps = 0
        self._command: tuple[np.ndarray, float, float] | None = None
        self._ended = False
        self._script = self._wander() if failure == "wander" else scripts[name]()

    @property
    def done(self) -> bool:
        return self._ended and self._env.is_success()

    def act(self) -> np.ndarray:
        """The next action, float32 [7] in [-1, 1]."""
        self._steps += 1
        frozen = self._stop is not None and self._steps > self._stop
        if not self._ended and not frozen:
            try:
                self._command = next(self._script)
            except StopIteration:
                self._ended = True
        action = np.zeros(7)
        if self._command is None:
            action[6] = _OPEN
        else:
            position, yaw, action[6] = self._command
            if not (self._ended or frozen):
                action[:3] = (position - self._hand()) * (_GAIN / _REACH)
                action[3:6] = self._turn_to(yaw) * (_GAIN / _TURN)
        # one scale for all of a vector keeps its direction
        action[:3] /= max(1.0, np.abs(action[:3]).max())
        action[3:6] /= max(1.0, np.abs(action[3:6]).max())
        if self._noise > 0:
            action += self._rng.normal(0.0, self._noise, 7)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    # What the simulation says -----------------------------------------------------------------

    def _hand(self) -> np.ndarray:
        robot = self._simulator.robots[0]
        return np.array(self._simulator.sim.data.site_xpos[robot.eef_site_id["right"]])

    def _hand_rotation(self) -> np.ndarray:
        robot = self._simulator.robots[0]
        flat = self._simulator.sim.data.site_xmat[robot.eef_site_id["right"]]
        return np.array(flat).reshape(3, 3)

    def _hand_yaw(self) -> float:
        """The direction in which the fingers open, radians from the world's x axis."""
        x, y, _ = self._hand_rotation()[:, 0]
        return float(np.arctan2(y, x))

    def _body(self, number: int) -> tuple[np.ndarray, float]:
        """Position and yaw of a body."""
        data = self._simulator.sim.data
        rotation = data.body_xmat[number].reshape(3, 3)
        return np.array(data.body_xpos[number]), float(np.arctan2(rotation[1, 0], rotation[0, 0]))

    def _turn_to(self, yaw: float) -> np.ndarray:
        """Rotation vector, radians, from the hand to pointing straight down with that yaw."""
        c, s = np.cos(yaw), np.sin(yaw)
        wanted = np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])
        error = wanted @ self._hand_rotation().T
        axis = np.array(
            [error[2, 1] - error[1, 2], error[0, 2] - error[2, 0], error[1, 0] - error[0, 1]]
        )
        sine = np.linalg.norm(axis) / 2
        angle = np.arctan2(sine, (np.trace(error) - 1) / 2)
        return axis / 2 * (angle / sine if sine > 1e-9 else 1.0)

    def _nearest_yaw(self, yaw: float, period: float) -> float:
        """The yaw equal to `yaw` up to whole periods that is nearest to the hand's start."""
        return yaw + period * np.round((np.pi / 2 - yaw) / period)

    # Moves ------------------------------------------------------------------------------------

    def _draw_errors(self) -> tuple[np.ndarray, np.ndarray]:
        """How far the aim is off at the grasp and at the place, meters [3] each."""
        rng = self._rng
        angle = rng.uniform(0, 2 * np.pi)
        direction = np.array([np.cos(angle), np.sin(angle), 0.0])
        zero = np.zeros(3)
        if self._failure == "miss_grasp":
            return direction * rng.uniform(0.05, 0.09), zero
        if self._failure == "wrong_place":
            return zero, direction * rng.uniform(0.12, 0.18)
        if self._failure == "sloppy":
            scale = np.array([1.0, 1.0, 0.3])
            return rng.normal(0, 0.028, 3) * scale, rng.normal(0, 0.035, 3) * scale
        return zero, zero

    def _go(
        self,
        target: np.ndarray | Callable[[], np.ndarray],
        yaw: float,
        grip: float,
        tolerance: float,
        limit: int = 50,
    ) -> Script:
        """Move to a point, or after a point that moves, until within `tolerance` meters of it."""
        for _ in range(limit):
            position = target() if callable(target) else target
            near = np.linalg.norm(position - self._hand()) < tolerance
            if near and np.linalg.norm(self._turn_to(yaw)) < 0.12:
                return
            yield position, yaw, grip

    def _hold(self, position: np.ndarray, yaw: float, grip: float, steps: int) -> Script:
        for _ in range(steps):
            yield position, yaw, grip

    def _wander(self) -> Script:
        start, yaw = self._hand(), self._hand_yaw()
        while True:
            point = start + self._rng.uniform([-0.12, -0.15, -0.12], [0.12, 0.15, 0.02])
            yield from self._go(point, yaw, self._rng.choice([_OPEN, _CLOSE]), 0.02, 25)

    def _grasp(
        self, where: Callable[[], np.ndarray], yaw: float, held: Callable[[], bool], rise: float
    ) -> Script:
        """Take what is at `where` (the point between the fingers) and rise; try again if empty."""
        for attempt in range(_TRIES if self._failure is None else 1):
            if attempt:
                back = self._hand() + 0.05 * _UP
                yield from self._go(back, yaw, _OPEN, 0.03, 15)
                yield from self._hold(back, yaw, _OPEN, 5)
            yield from self._try_grasp(where, yaw, rise)
            if held():
                return

    def _try_grasp(self, where: Callable[[], np.ndarray], yaw: float, rise: float) -> Script:
        def aim() -> np.ndarray:
            return where() + self._grasp_error

        yield from self._go(lambda: aim() + _HOVER * _UP, yaw, _OPEN, 0.02)
        if self._failure == "early_close":
            high = aim() + _HOVER * _UP
            yield from self._hold(high, yaw, _CLOSE, 8)
            yield from self._go(high - 0.03 * _UP, yaw, _CLOSE, 0.01, 10)
        else:
            yield from self._go(aim, yaw, _OPEN, 0.008, 25)
        # Where the fingers begin to close the hand stays: the object must not lead it.
        place = self._hand()
        yield from self._hold(place, yaw, _CLOSE, 10)
        if self._failure == "drop_early":
            # Lift succeeds 2 cm above the table, so the fingers open before that.
            low = 0.005 if rise <= 0.1 else rise * self._rng.uniform(0.3, 1.0)
            yield from self._go(place + low * _UP, yaw, _CLOSE, 0.02, 30)
            yield from self._hold(place + low * _UP, yaw, _OPEN, 10)
        elif rise > 0:
            yield from self._go(place + rise * _UP, yaw, _CLOSE, 0.02, 30)

    # Tasks ------------------------------------------------------------------------------------

    def _lift(self) -> Script:
        cube = self._simulator.cube_body_id
        yaw = self._nearest_yaw(self._body(cube)[1], np.pi / 2)

        def held() -> bool:
            return bool(np.linalg.norm(self._body(cube)[0] - self._hand()) < 0.03)

        drag = self._failure == "wrong_place"
        yield from self._grasp(lambda: self._body(cube)[0], yaw, held, 0 if drag else 0.1)
        if drag:
            end = self._hand() + self._place_error
            yield from self._go(end, yaw, _CLOSE, 0.02, 40)
            yield from self._hold(end, yaw, _OPEN, 8)
            yield from self._hold(end + 0.1 * _UP, yaw, _OPEN, 8)

    def _place_can(self) -> Script:
        simulator = self._simulator
        can = simulator.obj_body_id["Can"]
        yaw = np.pi / 2

        def held() -> bool:
            return bool(np.linalg.norm(self._body(can)[0] - self._hand()) < 0.05)

        yield from self._grasp(lambda: self._body(can)[0] + 0.015 * _UP, yaw, held, 0.14)
        goal = np.array(simulator.target_bin_placements[simulator.object_id])
        goal += np.array([*_CAN_AIM, 0.2])
        if self._failure == "wrong_place":  # one of the other compartments
            width, length, _ = simulator.bin_size / 2
            goal -= np.array([(width, 0, 0), (0, length, 0), (width, length, 0)])[
                self._rng.integers(3)
            ]
        else:
            goal += self._place_error
        yield from self._carry(can, goal, yaw, 0.025)
        yield from self._carry(can, goal - 0.1 * _UP, yaw, 0.02, 25)
        yield from self._let_go(yaw)

    def _stack(self) -> Script:
        simulator = self._simulator
        red, green = simulator.cubeA_body_id, simulator.cubeB_body_id
        position, angle = self._body(red)
        apart = (self._body(green)[0] - position)[:2]
        yaw = self._nearest_yaw(angle, np.pi / 2)
        if np.linalg.norm(apart) < 0.11:
            # The open fingers must not come down on the green cube.
            options = [yaw, yaw - np.pi / 2, yaw + np.pi / 2]
            beside = [abs(np.cos(o) * apart[0] + np.sin(o) * apart[1]) for o in options]
            best = min(beside)
            fit = [o for o, b in zip(options, beside, strict=True) if b < best + 1e-6]
            yaw = min(fit, key=lambda o: abs(o - np.pi / 2))

        def held() -> bool:
            return bool(np.linalg.norm(self._body(red)[0] - self._hand()) < 0.03)

        yield from self._grasp(lambda: self._body(red)[0], yaw, held, 0.11)
        place = self._body(green)[0] + self._place_error
        yield from self._carry(red, place + 0.1 * _UP, yaw, 0.008)
        yield from self._carry(red, place + 0.049 * _UP, yaw, 0.006)
        yield from self._let_go(yaw)

    def _assemble(self) -> Script:
        simulator = self._simulator
        nut, peg = simulator.obj_body_id["SquareNut"], simulator.peg1_body_id
        yaw, final = self._plan_nut(self._body(nut)[1])

        def handle() -> np.ndarray:
            center, angle = self._body(nut)
            return center + _NUT_HANDLE * np.array([np.cos(angle), np.sin(angle), 0.0])

        def held() -> bool:
            return bool(np.linalg.norm(handle() - self._hand()) < 0.04)

        yield from self._grasp(handle, yaw, held, 0.16)
        goal = self._body(peg)[0] + self._place_error
        goal[2] = 1.0
        yield from self._carry(nut, goal, final, 0.008, 70)
        goal[2] = 0.86
        yield from self._carry(nut, goal, final, 0.006, 40)
        yield from self._let_go(final)

    @staticmethod
    def _plan_nut(nut: float) -> tuple[float, float]:
        """The hand's yaw at the handle and over the peg, for a nut that lies at yaw `nut`.

        The fingers fit on the handle in two ways and the nut on the peg in four. With the handle
        away from the robot the peg is out of reach; towards it is best. The least turning wins.
        """
        best = (np.inf, 0.0, 0.0)
        for grasp in nut + np.pi / 2 + np.pi * np.arange(-3, 4):
            for quarter, cost in ((-1, 0.4), (1, 0.4), (2, 0.0)):
                turn = np.pi / 2 * quarter - nut
                for final in grasp + turn + 2 * np.pi * np.arange(-2, 3):
                    if not all(_YAWS[0] < y < _YAWS[1] for y in (grasp, final)):
                        continue
                    total = abs(grasp - np.pi / 2) + abs(final - grasp) + cost
                    best = min(best, (total, grasp, final))
        return best[1], best[2]

    def _carry(
        self, body: int, goal: np.ndarray, yaw: float, tolerance: float, limit: int = 60
    ) -> Script:
        """Bring the body in the hand to `goal`, meters, by watching the body itself."""
        aim = np.array(goal)

        def target() -> np.ndarray:
            here = self._body(body)[0]
            slipped = np.linalg.norm(here - self._hand()) > 0.12
            return aim if slipped else self._hand() + aim - here

        yield from self._go(target, yaw, _CLOSE, tolerance, limit)

    def _let_go(self, yaw: float) -> Script:
        place = self._hand()
        yield from self._hold(place, yaw, _OPEN, 6)
        yield from self._hold(place + 0.1 * _UP, yaw, _OPEN, 12)


def build_expert(
    env: RobosuiteEnv, failure: str | None, noise: float, rng: np.random.Generator
) -> RobosuiteExpert:
    """The scripted expert for the episode that `env` has just begun.

    `failure` is None or a name of FAILURE_MODES; `noise` is the standard deviation of the Gaussian
    noise on each action. Raises ValueError on an unknown name or task.
    """
    if env.absolute_actions:
        raise ValueError(
            f"{env.settings.env_name}: the scripted expert acts by displacements, but "
            "controller_configs names an absolute controller: leave it out."
        )
    return RobosuiteExpert(env, failure, noise, rng)
