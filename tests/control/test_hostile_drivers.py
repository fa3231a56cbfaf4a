"""Drivers that change the process around the loop, and ends that can't be reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress

import numpy as np
import pytest
from promised_world import HZ, STOP_AFTER, World, described

from qsft_robot.control.driver import Driver, Told
from qsft_robot.control.loop import LoopSettings
from qsft_robot.control.run import run_robot
from qsft_robot.control.run_report import RunSettings
from qsft_robot.control.supervisor import Supervisor, end_after
from qsft_robot.policy.logged_ranges import WatchedReadings
from qsft_robot.types import Observation

# A driver as libraries are: it has numpy raise, changes the folder, takes Ctrl-C for itself, closes
# stdin, forks, and shows a sensor's own type that is no array.
RUN = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from promised_world import HZ, World, described
from qsft_robot.control.loop import LoopSettings
from qsft_robot.control.run import run_robot
from qsft_robot.control.run_report import RunSettings

world, sent = World("displaced", False, 1, 0), 0
ENDING = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGTSTP", "SIGUSR1", "SIGUSR2", "SIGALRM")

class Arm(type(world.arm)):
    def connect(self):
        left = [s for s in ENDING if signal.getsignal(getattr(signal, s)) == signal.SIG_DFL]
        print("unhandled at connect:", *left, flush=True)
        np.seterr(all="raise")
        os.chdir("/")
        signal.signal(signal.SIGINT, lambda number, frame: None)
        sys.stdin.close()
        super().connect()
    def get_observation(self):
        seen = super().get_observation()
        if sent == 2:  # as asyncio does when it is through
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.set_wakeup_fd(-1)
        if sent == 3:
            seen.state["ragged"] = [[1], [1, 2]]
        return seen
    def send_action(self, action):
        global sent
        print("sent", *action[:3], flush=True)
        super().send_action(action)
        sent += 1
        if sent == 4 and os.fork() == 0:
            return None
        if sent == 6:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                os.kill(os.getpid(), number)
    def disconnect(self):
        print("disconnect", flush=True)

settings = RunSettings(Path("out"), LoopSettings(HZ, stop_after_s=20), record=False)
result = run_robot(Arm(world), world.policy, described(1), settings, say=lambda text: None)
sys.exit(result.status)
"""


def environment(repository) -> dict[str, str]:
    return {"PYTHONPATH": f"{repository}:{repository / 'tests' / 'shared'}"}


def test_what_a_driver_does_to_the_process_changes_no_command_and_no_end(repository, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, timeout=240, cwd=tmp_path,
        env=environment(repository), check=False,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert said[0].strip() == "unhandled at connect:"
    assert said.count("disconnect") == 1
    assert said[-1] == "disconnect"
    assert [float(x) for x in said[-2].split()[1:]] == [0, 0, 0]
    assert len([line for line in said if line.startswith("sent")]) == 7
    report = json.loads((tmp_path / "out" / "cadence.json").read_text())
    assert report["episodes"][0]["reason"] == "quit"


FORKS = """
import os, signal, sys, time
from qsft_robot.control.guard import Guard
with Guard("arm", 0.5) as guard:
    guard.beat(sys.argv[1] == "moving")
    child = os.fork()
    if not child:
        os.close(1)  # whoever reads it would wait for the fork
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["moving", "resting"])
def test_the_guard_tells_of_a_death_though_a_fork_of_the_driver_lives_on(repository, tmp_path, how):
    path = tmp_path / "stderr"
    with path.open("wb") as stderr:
        done = subprocess.run(
            [sys.executable, "-c", FORKS, how], stdout=subprocess.PIPE, stderr=stderr, text=True,
            env=environment(repository), timeout=120, check=False,
        )  # fmt: skip
    try:
        patience = time.monotonic() + 60
        while "killed" not in path.read_text() and time.monotonic() < patience:
            time.sleep(0.05)
        (line,) = path.read_text().strip().splitlines()
        assert "the process was killed" in line
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(done.stdout), signal.SIGKILL)


def run(world, out, policy=None, **others):
    loop = LoopSettings(HZ, max_steps=5, stop_after_s=STOP_AFTER)
    settings = RunSettings(out, loop, record=False, **others)
    return run_robot(
        world.arm, policy or world.policy, described(world.horizon), settings,
        say=lambda text: None, surroundings=world.surroundings(),
    )  # fmt: skip


def test_how_the_arm_was_left_is_said_though_no_report_can_be_written(tmp_path):
    world = World("displaced", False, 1, 0)
    world.script["disconnect"] = deque([("raises", OSError("torque"))])
    (tmp_path / "cadence.json").mkdir()
    with pytest.raises(RuntimeError, match="disconnect failed") as caught:
        run(world, tmp_path)
    assert "cadence.json" in str(caught.value)


def test_far_readings_stand_in_the_report_and_beside_their_episode(tmp_path):
    world = World("displaced", False, 1, 0)
    world.arm.at = np.full(4, 9.0)
    policy = WatchedReadings(world.policy, described(1), refuse=False)
    with pytest.warns(UserWarning, match="--refuse-far"):
        result = run(world, tmp_path, policy, accept=("state",))
    report = json.loads((tmp_path / "cadence.json").read_text())
    assert report["far_readings"] == dict(policy.counts) == result.report["far_readings"]
    (episode,) = report["episodes"]
    assert 0 < episode["far_readings"]["q"] <= report["far_readings"]["q"]


def test_a_sensor_that_is_no_array_is_a_missing_one():
    class Own:
        def __array__(self, *arguments, **others):
            raise KeyError("frame dropped")

    world = World("measured", False, 1, 0)
    world.arm.get_observation = lambda: Observation(
        {"eye": Own()}, {"q": Own(), "r": [[1], [2, 3]]}
    )
    seen = Driver(world.arm, world).observe()
    assert not seen.images
    assert not seen.state


def test_a_supervisor_without_threads_left_still_ends_the_process():
    def beside(work):
        raise RuntimeError("can't start new thread")

    world, said = World("displaced", True, 1, 0), []
    supervisor = Supervisor(
        Driver(world.arm, world), STOP_AFTER, world, end=said.append, beside=beside
    )
    supervisor.feed()
    for passed in (STOP_AFTER, end_after(STOP_AFTER)):
        world.time = 100 + passed
        supervisor.check()
    (line,) = said
    assert "can't start new thread" in line
    assert "not left holding" in line


class Failing:
    """Numbers whose every look at them fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def fail(self, *arguments, **others):
        raise self.error

    __array__ = __len__ = __repr__ = __iter__ = __getitem__ = fail


def driver_that(world, said=None, seen=None) -> Driver:
    world.arm.send_action = lambda action: said
    world.arm.get_observation = lambda: seen
    return Driver(world.arm, world)


@pytest.mark.parametrize(
    "said",
    [Failing(RuntimeError("grad")), Failing(KeyError("k")), [10**400] * 4, [True] * 4, [1j] * 4,
     [Failing(RuntimeError("x"))] * 4, ["0.1"] * 4, np.zeros(4, "m8[s]"), {1: 2}, "4444", b"4444"],
)  # fmt: skip
def test_whatever_a_driver_says_that_it_sent_ends_no_run(said):
    told = driver_that(World("measured", False, 1, 0), said).send(np.zeros(4, np.float32))
    assert isinstance(told, Told)
    assert told.row is None
    assert 0 < len(told.words) <= 80


def test_an_exit_in_what_a_driver_gives_is_an_error_of_the_driver():
    world = World("measured", False, 1, 0)
    for error in (SystemExit(0), KeyboardInterrupt()):
        with pytest.raises(RuntimeError, match="send_action failed"):
            driver_that(world, Failing(error)).send(np.zeros(4, np.float32))
        lazy = Observation({}, {"q": Failing(error)})
        with pytest.raises(RuntimeError, match="get_observation failed"):
            driver_that(world, seen=lazy).observe()


def test_a_hold_that_fails_and_a_second_path_that_blocks_end_the_process(tmp_path):
    world = World("displaced", True, 1, 0)
    world.script["send"] = deque([("fine", None)] * 5 + [("raises", OSError("bus"))] * 3)
    world.script["stop"] = deque([("takes", 1e9), ("raises", OSError("stop"))])
    run(world, tmp_path)
    assert "stop has not come back" in world.dead
    assert "not left holding" in world.dead


def test_a_loop_that_is_slower_than_its_watchdog_is_not_stuck(tmp_path):
    world = World("displaced", True, 1, 0)
    loop = LoopSettings(0.2, max_steps=3, stop_after_s=STOP_AFTER)
    result = run_robot(
        world.arm, world.policy, described(1),
        RunSettings(tmp_path, loop, record=False, accept=("rate",)), say=lambda text: None,
        surroundings=world.surroundings(),
    )  # fmt: skip
    assert world.dead is None
    assert [end.reason for end in result.ends] == ["steps"]


@pytest.mark.parametrize("settings", [(20.0, 0.0), (20.0, -1.0), (1e-9, 2.0), (0.0, 2.0)])
def test_a_loop_without_a_watchdog_is_refused(settings):
    hz, seconds = settings
    with pytest.raises(ValueError, match=r"--(control-hz|stop-after)"):
        LoopSettings(hz, stop_after_s=seconds)


def test_a_process_that_was_stopped_may_still_hold():
    """SIGSTOP stops the supervisor with the loop: it can't tell which of them is stuck."""
    world, said = World("displaced", False, 1, 0), []
    supervisor = Supervisor(Driver(world.arm, world), STOP_AFTER, world, end=said.append)
    limit = end_after(STOP_AFTER)
    with supervisor:
        supervisor.feed()
        time.sleep(0.2)
        world.time += 10 * limit
        wait_until(lambda: supervisor.tripped)
        time.sleep(0.3)
        assert not said
        # A loop that stays stuck ends it all the same.
        for _ in range(20):
            world.time += 0.1
            time.sleep(0.1)
        wait_until(lambda: said)


def wait_until(true):
    patience = time.monotonic() + 60
    while not true():
        assert time.monotonic() < patience
        time.sleep(0.01)
