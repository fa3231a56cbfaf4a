"""A world for the control loop in which everything may go wrong, and what was promised of it."""

from __future__ import annotations

import signal
from collections import Counter, deque
from contextlib import contextmanager
from functools import cache

import numpy as np
from served_description import served

from qsft_robot.control.decisions import Answer, wait_for
from qsft_robot.control.operator_input import OperatorInput
from qsft_robot.control.readings import AGREE
from qsft_robot.control.robot import EndEffector, RobotSpec
from qsft_robot.control.supervisor import Supervisor
from qsft_robot.control.surroundings import Surroundings, Watch
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.types import Observation, PolicyChanged

D, HZ, CHANGE, SCALE, STOP_AFTER = 4, 20.0, 0.1, 0.04, 0.5
DECLARED, SEEN = 3.0, 1.0
BOX = np.array([0.2, -0.2, 0.0]), np.array([0.5, 0.2, 0.25])
# A driver or a policy that never comes back; the operator loses patience after a while.
FOREVER, PATIENCE = 1e9, 8.0
KINDS = ("measured", "unmeasured", "displaced")


class ProcessEnded(BaseException):
    """The process has ended; nothing that runs after it counts."""


class World:
    """A clock that moves as calls take time, an arm, a policy, and a script of what they do.

    `script` has a queue for each verb; a call takes the next entry, and is fine without one.
    """

    def __init__(self, kind: str, stoppable: bool, horizon: int, seed: int) -> None:
        self.kind, self.horizon = kind, horizon
        self.time = 100.0
        self.script: dict[str, deque] = {}
        self.counts: Counter[str] = Counter()
        self.draw = np.random.default_rng(seed)
        # What happened to the arm, in order: (what, value, extra).
        self.events: list[tuple] = []
        self.dead: str | None = None
        self.supervisor: Supervisor | None = None
        self.version = 0
        self.arm = (StoppableArm if stoppable else Arm)(self)
        self.policy = ScriptedPolicy(self)

    # the clock

    def now(self) -> float:
        return self.time

    def sleep_until(self, moment: float) -> None:
        self.do("sleep", None)
        self.pass_to(moment)

    def pass_to(self, moment: float) -> None:
        """Let time pass, the supervisor looking on."""
        self.alive()
        asked = self.time + PATIENCE
        while self.time < moment:
            self.time = min(moment, self.time + 0.1)
            if self.supervisor is not None:
                self.supervisor.check()
            if self.time > asked and moment > 1e8:
                self.counts["operator"] += 1
                signal.raise_signal(signal.SIGTERM)
                asked = FOREVER
            # One that hangs without a command in force may take until somebody asks for the end.
            assert self.time < 1e4, "nothing ends a run that hangs"

    def end(self, line: str) -> None:
        self.dead = line
        raise ProcessEnded(line)

    def alive(self) -> None:
        if self.dead is not None:
            raise ProcessEnded(self.dead)

    # the script

    def do(self, verb: str, default):
        """The next entry of a verb's script: signals are raised, time passes, errors too; what it
        answers instead."""
        self.alive()
        queue = self.script.get(verb)
        what, value = queue.popleft() if queue else ("fine", default)
        self.counts[f"{verb} {what}"] += 1
        if what == "signals":
            self.counts["signals raised"] += len(value)
            for number in value:
                signal.raise_signal(number)
        elif what == "takes":
            self.pass_to(self.time + value if value < FOREVER else FOREVER)
        elif what == "raises":
            raise value
        elif what != "fine":
            return what, value
        return "fine", default

    def no_time(self, verb: str) -> None:
        """Skip what only takes time: a policy is waited for before it is called."""
        queue = self.script.get(verb)
        while queue and queue[0][0] == "takes":
            queue.popleft()

    def surroundings(self) -> Surroundings:
        @contextmanager
        def watch(driver, stop_after_s):
            self.supervisor = Supervisor(
                driver, stop_after_s, self, end=self.end, beside=lambda work: work()
            )
            with OperatorInput(self.supervisor.ask) as operator:
                yield Watch(operator, self.supervisor)

        return Surroundings(self, lambda policy: ScriptedDecider(self, policy), watch, print)


class Arm:
    """It is where it was last sent; a hand that is displaced moves by SCALE a command of 1."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.at = np.zeros(D)
        self.hand = (BOX[0] + BOX[1]) / 2
        shown, row = {"q": D}, np.full(D, DECLARED)
        extra = {"measured": "q"} if world.kind == "measured" else {}
        if world.kind == "displaced":
            shown = {"q": D, "hand": 3}
            end = EndEffector("hand", "displacement", SCALE)
            extra = {"displacements": (0, 1, 2), "switches": (3,), "end_effector": end}
        self.spec = RobotSpec("arm", {"eye": (2, 2)}, shown, -row, row, HZ, **extra)
        self._shown: Observation | None = None
        self.wrong = 0

    def connect(self) -> None:
        self.world.do("connect", None)
        self.world.events.append(("connect", None, None))

    def disconnect(self) -> None:
        self.world.do("disconnect", None)
        self.world.events.append(("disconnect", None, None))

    def get_observation(self):
        world = self.world
        state = {"q": self.at.astype(np.float32)}
        if world.kind == "displaced":
            state["hand"] = self.hand.astype(np.float32)
        image = world.draw.integers(0, 255, (2, 2, 3), np.uint8)
        seen = Observation({"eye": image}, state, "go")
        what, value = world.do("observe", seen)
        # A wrong place that so many readings agree on can't be told from a right one.
        # One that freezes shows again what it showed, right or wrong.
        self.wrong = (
            self.wrong + 1
            if what not in ("fine", "freezes") or (what == "freezes" and self.wrong)
            else 0
        )
        if self.wrong >= AGREE:
            self.wrong, what = 0, "fine"
        if what == "shows":
            seen = value
        elif what == "offset":
            rows = {k: (x + value).astype(np.float32) for k, x in state.items()}
            seen = Observation(seen.images, rows, "go")
        elif what == "freezes" and self._shown is not None:
            seen = self._shown
        self._shown = seen if isinstance(seen, Observation) else self._shown
        world.events.append(("seen", seen, what == "fine"))
        return seen

    def send_action(self, action):
        world = self.world
        world.alive()
        before = len(world.events)
        world.events.append(("tried", action.copy(), None))
        what, value = world.do("send", None)
        given, told = action.copy(), None
        if what == "clips":  # as a driver that knows better, and says so
            given = told = (value * action).astype(np.float32)
        world.events[before] = ("sent", action.copy(), given if what == "clips" else None)
        if world.kind == "displaced":
            self.hand = self.hand + SCALE * given[:3]
        else:
            self.at = given.astype(float)
        if what == "fails after":
            raise value
        if what == "scribbles":
            action[:] = np.nan
        if what == "returns":
            world.events.append(("told", value, given))
        return value if what == "returns" else told


class StoppableArm(Arm):
    """With a second path to stand still."""

    def stop(self) -> None:
        queue = self.world.script.get("stop")
        what, value = queue.popleft() if queue else ("fine", None)
        self.world.counts[f"stop {what}"] += 1
        if what == "raises":
            raise value
        if what == "takes":
            self.world.pass_to(self.world.time + value)
        if what == "fine":
            self.world.events.append(("stopped", None, None))


class ScriptedPolicy:
    """Random chunks, unless the script has something else."""

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def description(self):
        return described(self.world.horizon, self.world.version)

    def reset(self, seed: int = 0) -> None:
        self.world.no_time("reset")
        self.world.do("reset", None)
        self.world.events.append(("begin", None, None))

    def infer(self, observation: Observation):
        world = self.world
        chunk = world.draw.uniform(-2, 2, (world.horizon, D)).astype(np.float32)
        world.no_time("infer")
        what, value = world.do("infer", chunk)
        if what == "scribbles":
            for x in (*observation.images.values(), *observation.state.values()):
                x[:] = 77
        if what == "changes":
            world.version += 1
            raise PolicyChanged("another policy")
        return value if what == "answers" else chunk


class ScriptedDecider:
    """The policy on the world's clock: its answer is there once its time has passed."""

    def __init__(self, world: World, policy: ScriptedPolicy) -> None:
        self.world, self.policy = world, policy
        self.pending = None

    @property
    def busy(self) -> bool:
        return self.pending is not None

    def ask(self, observation, tick):
        queue = self.world.script.get("infer")
        late = queue.popleft()[1] if queue and queue[0][0] == "takes" else 0.01
        self.pending = (lambda: self.policy.infer(observation), tick, self.world.time + late)

    def reset(self, seed, timeout_s, cancelled):
        world = self.world
        give_up = world.now() + timeout_s
        while self.busy:
            wait_for(self, give_up, cancelled, "no answer", world)
        queue = world.script.get("reset")
        late = queue.popleft()[1] if queue and queue[0][0] == "takes" else 0.01
        self.pending = (lambda: self.policy.reset(seed), -1, world.time + late)
        done = wait_for(self, give_up, cancelled, "no reset", world)
        if done.error is not None:
            raise done.error

    def answer(self, until):
        if self.pending is None:
            return None
        work, tick, ready = self.pending
        if ready > max(until, self.world.time):
            self.world.pass_to(until)
            return None
        self.world.pass_to(ready)
        self.pending = None
        try:
            return Answer(tick, work(), None, 0.01)
        except ProcessEnded:
            raise
        except BaseException as error:
            return Answer(tick, None, error, 0.01)

    def close(self):
        pass


@cache
def described(horizon: int, version: int = 0) -> PolicyDescription:
    """The policy of such an arm."""
    row = [SEEN] * D
    return served(
        D,
        {"horizon": horizon, "low": [-SEEN] * D, "high": row, "control_hz": HZ,
         "seen": {"low": [-SEEN] * D, "high": row, "largest_change": [CHANGE] * D}},
        norm_stats={"state": {"q": {"mean": [0] * D, "std": [1] * D}},
                    "actions": {"low": [-SEEN] * D, "high": row}},
        cameras={"eye": [2, 2]}, state_keys=["q"], method="scripted",
        data={"file": "logs.hdf5", "sha256": "0" * 64, "instructions": ["go"]},
        policy_sha256=f"{version:064}",
        state_range={"q": {"low": [-SEEN] * D, "high": row},
                     "hand": {"low": BOX[0].tolist(), "high": BOX[1].tolist()}},
    )  # fmt: skip


# What was promised


def check_commands(world: World) -> None:
    """Every command lies within range, box and rate of change."""
    still = np.zeros(D, bool)
    still[:3] = world.kind == "displaced"
    free = np.zeros(D, bool)
    free[3] = world.kind == "displaced"
    before, first, honest = None, True, True
    hand = (BOX[0] + BOX[1]) / 2
    place = np.zeros(D)
    shown: deque[np.ndarray] = deque(maxlen=AGREE)
    believed: np.ndarray | None = None
    for what, value, extra in world.events:
        if what == "seen":
            honest = extra
            state = value.state if isinstance(value, Observation) else None
            row = state.get("q") if isinstance(state, dict) else None
            if isinstance(row, np.ndarray) and row.shape == (D,) and np.isfinite(row).all():
                shown.append(row)
                if len(shown) == AGREE and np.ptp(shown, 0).max() <= CHANGE:
                    believed = row
            else:
                shown.clear()
        if what == "begin":
            first = True
            shown.clear()
        if what not in ("sent", "tried"):
            continue
        assert value.dtype == np.float32
        assert value.shape == (D,)
        assert np.isfinite(value).all()
        assert (np.abs(value) <= DECLARED).all()
        reach = CHANGE + 1e-6
        was = np.zeros(D) if before is None else before
        # An arm beyond the logs' range may come back in, and go no further out.
        at = np.maximum(np.abs(was), np.abs(place)) if first else np.abs(was)
        assert (np.abs(value) <= np.maximum(SEEN, at + reach)).all()
        # A first command stands on a reading, which may be off by one change and still be believed.
        allowed = 2 * reach if first else reach
        near = np.abs(value - was) <= allowed
        if first and world.kind == "measured":
            # An arm that measures where it is may count from there, or from where it was sent.
            near |= np.abs(value - place) <= allowed
        if world.kind == "measured" and believed is not None:
            # A sensor that shows one place so often in a row is believed (docs/safety.md).
            near |= np.abs(value - believed) <= allowed
        slower = still & (np.abs(value) <= np.abs(was) + 1e-6) & (value * was >= -1e-9)
        if not (before is None and world.kind == "unmeasured"):
            assert (near | slower | free | (still & (value == 0))).all(), (value, was)
        if world.kind == "displaced":
            if honest:
                target = hand + SCALE * value[:3]
                outside = np.maximum(np.maximum(BOX[0] - hand, hand - BOX[1]), 0)
                beyond = np.maximum(BOX[0] - target, target - BOX[1])
                assert (beyond <= outside + 1e-5).all()
            if what == "sent":
                hand = hand + SCALE * (value if extra is None else extra)[:3]
        if what == "sent":
            place = (value if extra is None else extra).astype(float)
        before, first, believed = value.astype(float), False, None
