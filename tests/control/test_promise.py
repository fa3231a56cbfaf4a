"""Whatever driver, policy, server and signals do: the commands and the end are as promised."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import warnings
from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from promised_end import check_end
from promised_world import (
    FOREVER,
    HZ,
    KINDS,
    STOP_AFTER,
    World,
    check_commands,
    described,
)  # fmt: skip

from qsft_robot.control.loop import LoopSettings
from qsft_robot.control.run import run_robot
from qsft_robot.control.run_report import RunSettings
from qsft_robot.types import Observation

# scripts/soak_promise.py is the long run of docs/safety.md.
RUNS = int(os.environ.get("QSFT_PROMISE_RUNS", "120"))
# What fails shrinks for minutes: --hypothesis-seed and the printed rules tell it as well.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
HAPPENED: Counter[str] = Counter()

ERRORS = st.sampled_from(
    [OSError("bus"), TimeoutError(), RuntimeError("[x]"), ValueError("v"), KeyError("k"),
     MemoryError(), TypeError("t"), SystemExit(0), KeyboardInterrupt(), GeneratorExit()]
)  # fmt: skip
NUMBERS = st.sampled_from([float("nan"), float("inf"), -np.inf, 1e30, 1e6, 2.5, -2.9, 0.3, 0.0])
SECONDS = st.sampled_from([0.02, 0.2, 0.6, 1.1, 4.0, FOREVER])
GARBAGE = st.one_of(
    st.sampled_from([24, True, "OK", b"\x00", {"a": 1}, object(), (), [[1]], 1j, np.ma.masked]),
    NUMBERS.map(lambda x: np.full(4, x)),
    NUMBERS.map(lambda x: np.full((1, 4), x, np.float32)),
    st.sampled_from(
        [np.zeros((0, 4)), np.zeros(3), np.zeros((2, 3)), np.full((1, 4), 1e300), np.array("x"),
         np.full((1, 4), 2**62), np.full((1, 4), None), np.full((5, 4), 0.2)[::-1, ::-1]]
    ),
)  # fmt: skip
IMAGE = np.zeros((2, 2, 3), np.uint8)
SHOWN = st.one_of(
    GARBAGE,
    NUMBERS.map(lambda x: Observation({"eye": IMAGE}, {"q": np.full(4, x), "hand": np.full(3, x)})),
    st.sampled_from(
        [Observation({}, {}), Observation({"eye": IMAGE}, {"q": None, "hand": None}),
         Observation({"eye": None}, {"q": np.zeros(4)}), Observation(None, None),
         Observation({"eye": IMAGE / 2}, {"q": np.zeros((1, 4)), "hand": np.zeros(5)}),
         Observation({"eye": IMAGE}, {"q": ["a"] * 4}, None), Observation([1], [2])]
    ),
)  # fmt: skip
NAMES = ["INT", "TERM", "HUP", "TSTP", "QUIT", "USR1", "USR2", "VTALRM", "XCPU", "RTMIN"]
SIGNALS = [getattr(signal, f"SIG{name}") for name in NAMES if hasattr(signal, f"SIG{name}")]
VERBS = ("connect", "observe", "send", "disconnect", "sleep", "infer", "reset")


class Promise(RuleBasedStateMachine):
    """Rules write what will happen; the run at the end meets it, in this order, verb by verb."""

    @initialize(
        kind=st.sampled_from(KINDS), stoppable=st.booleans(), horizon=st.sampled_from([1, 4]),
        episodes=st.integers(1, 3), seed=st.integers(0, 2**16),
    )  # fmt: skip
    def meet(self, kind, stoppable, horizon, episodes, seed) -> None:
        self.world = World(kind, stoppable, horizon, seed)
        self.episodes, self.ticks = episodes, 4
        # The start-up check and the warm-up, most often without a fault.
        self.put("observe", "fine", None)
        for _ in range(3):
            self.put("infer", "fine", None)
        self.put("reset", "fine", None)

    def put(self, verb, what, value) -> None:
        self.world.script.setdefault(verb, deque()).append((what, value))

    @rule(n=st.integers(1, 25))
    def goes_well(self, n) -> None:
        self.ticks += n
        for verb in ("observe", "send", "infer", "sleep"):
            for _ in range(n):
                self.put(verb, "fine", None)

    @rule(verb=st.sampled_from(VERBS), error=ERRORS)
    def raises(self, verb, error) -> None:
        if verb != "sleep":
            self.put(verb, "raises", error)

    @rule(verb=st.sampled_from(VERBS), seconds=SECONDS)
    def blocks(self, verb, seconds) -> None:
        self.put(verb, "takes", seconds)

    @rule(verb=st.sampled_from(VERBS), numbers=st.lists(st.sampled_from(SIGNALS), max_size=6))
    def is_signalled(self, verb, numbers) -> None:
        self.put(verb, "signals", numbers)

    @rule(shown=SHOWN, n=st.sampled_from([1, 1, 2, 5]))
    def shows_garbage(self, shown, n) -> None:
        for _ in range(n):
            self.put("observe", "shows", shown)

    @rule(offset=st.floats(-3, 3), n=st.sampled_from([1, 1, 2]))
    def reads_wrong(self, offset, n) -> None:
        for _ in range(n):
            self.put("observe", "offset", offset)

    @rule(n=st.integers(1, 50))
    def freezes(self, n) -> None:
        for _ in range(n):
            self.put("observe", "freezes", None)

    @rule(told=GARBAGE)
    def says_that_it_sent(self, told) -> None:
        self.put("send", "returns", told)

    @rule(share=st.floats(0, 1))
    def clips(self, share) -> None:
        self.put("send", "clips", share)

    @rule(error=ERRORS)
    def sends_and_then_raises(self, error) -> None:
        self.put("send", "fails after", error)

    @rule(verb=st.sampled_from(["send", "infer"]))
    def writes_into_what_it_got(self, verb) -> None:
        self.put(verb, "scribbles", None)

    @rule(answer=GARBAGE)
    def answers(self, answer) -> None:
        self.put("infer", "answers", answer)

    @rule()
    def another_policy_answers(self) -> None:
        self.put("infer", "changes", None)

    @rule(fails=st.booleans())
    def has_no_second_path(self, fails) -> None:
        self.put("stop", "raises" if fails else "does nothing", OSError("stop"))

    @rule(seconds=SECONDS)
    def blocks_its_second_path(self, seconds) -> None:
        self.put("stop", "takes", seconds)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world, result, failure = self.world, None, None
        loop = LoopSettings(HZ, max_steps=self.ticks, stop_after_s=STOP_AFTER)
        with tempfile.TemporaryDirectory() as out, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = RunSettings(Path(out), loop, self.episodes, record=False)
            try:
                result = run_robot(
                    world.arm, world.policy, described(world.horizon), settings,
                    say=lambda text: None, surroundings=world.surroundings(),
                )  # fmt: skip
            except BaseException as error:
                if isinstance(error, AssertionError):
                    raise
                failure = error
        check_commands(world)
        HAPPENED[check_end(world, result, failure)] += 1
        HAPPENED["runs"] += 1
        HAPPENED["commands"] += sum(e[0] == "sent" for e in world.events)
        HAPPENED.update({k: n for k, n in world.counts.items() if not k.endswith(" fine")})


TestPromise = Promise.TestCase
TestPromise.settings = settings(
    max_examples=RUNS, stateful_step_count=12, deadline=None,
    suppress_health_check=list(HealthCheck), phases=PHASES,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tell():
    yield
    if path := os.environ.get("QSFT_PROMISE_COUNTS"):
        Path(path).write_text(json.dumps(HAPPENED))


def test_wrong_readings_of_two_episodes_are_not_in_a_row() -> None:
    """Two runs that the long run found: four wrong readings that agree end an episode and a fifth
    begins the next, whose first command stood on it, .867 and .5 from where the arm was."""
    state = Promise()
    state.meet(kind="measured", stoppable=False, horizon=4, seed=225, episodes=2)
    state.answers(answer=np.full((1, 4), -np.inf, np.float32))
    for _ in range(3):
        state.reads_wrong(n=2, offset=0.867013427656091)
    state.another_policy_answers()
    state.writes_into_what_it_got(verb="infer")
    state.answers(answer=np.full(4, 0.0))
    state.reads_wrong(n=1, offset=2.6340289818909355)
    state.sends_and_then_raises(error=GeneratorExit())
    state.says_that_it_sent(told=np.full((1, 4), 1e30, np.float32))
    state.freezes(n=47)
    state.teardown()
    state = Promise()
    state.meet(episodes=3, stoppable=True, kind="measured", horizon=4, seed=393)
    state.another_policy_answers()
    state.reads_wrong(n=1, offset=0.5)
    state.freezes(n=3)
    state.reads_wrong(n=1, offset=0.5)
    state.answers(answer=())
    state.reads_wrong(n=1, offset=0.5)
    state.writes_into_what_it_got(verb="infer")
    state.teardown()
