"""A process that runs a robot: its driver blocks, signals come, two want one arm."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from promised_world import HZ, World, described
from served_description import served

from qsft_robot.control.locks import arm_lock, arm_name, folder_lock
from qsft_robot.control.loop import EpisodeEnd, LoopSettings
from qsft_robot.control.run import run_robot
from qsft_robot.control.run_log import RunLog
from qsft_robot.control.run_report import RunSettings
from qsft_robot.robots.choose import open_robot
from qsft_robot.types import Observation

# The arm of tests/shared, alive: commands are printed as they come.
RUN = """
import ctypes, os, signal, sys, time
from pathlib import Path
import numpy as np
from promised_world import D, HZ, World, described
from qsft_robot.control.loop import LoopSettings
from qsft_robot.control.run import run_robot
from qsft_robot.control.run_report import RunSettings

world, how = World("displaced", False, 1, 0), sys.argv[2]
sent = 0

class Arm(type(world.arm)):
    def send_action(self, action):
        global sent
        print("sent", *action[:3], flush=True)
        super().send_action(action)
        sent += 1
        if sent == 5:
            if how == "blocks":
                time.sleep(100)
            elif how == "keeps the lock":
                ctypes.PyDLL(None).sleep(100)
            else:
                for name in how.split():
                    os.kill(os.getpid(), getattr(signal, name))
    def disconnect(self):
        print("disconnect", flush=True)

arm = Arm(world)
loop = LoopSettings(HZ, stop_after_s=20 if "SIG" in how else 0.4)
settings = RunSettings(Path(sys.argv[1]), loop, record=False)
result = run_robot(arm, world.policy, described(1), settings, say=lambda text: None)
sys.exit(result.status)
"""


def run(repository, out, how) -> tuple[int, list[str], str]:
    words = [sys.executable, "-c", RUN, str(out), how]
    path = f"{repository}:{repository / 'tests' / 'shared'}"
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, env={"PYTHONPATH": path}, check=False
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("how", ["SIGTSTP", "SIGQUIT SIGUSR1", "SIGALRM", "SIGINT " * 40])
def test_signals_of_any_kind_and_number_leave_the_arm_holding(repository, tmp_path, how):
    status, said, _ = run(repository, tmp_path / "out", how)
    assert (status, said[-1]) == (0, "disconnect")
    assert [float(x) for x in said[-2].split()[1:]] == [0, 0, 0]


@pytest.mark.parametrize(("how", "status"), [("blocks", 3), ("keeps the lock", -9)])
def test_a_driver_that_blocks_ends_the_process_with_one_line(repository, tmp_path, how, status):
    found, said, told = run(repository, tmp_path / "out", how)
    assert found == status
    assert "disconnect" not in said
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert "not disconnected" in line


def test_one_arm_and_one_folder_belong_to_one_run(tmp_path):
    name = arm_name(f"{tmp_path}/arm.py:Arm", {"port": "/dev/null"})
    assert name == arm_name("other.py:Arm", {"device": "/dev/null", "speed": "1"})
    with arm_lock(name), folder_lock(tmp_path / "out"):
        with pytest.raises(ValueError, match="another run drives it"), arm_lock(name):
            pass
        with pytest.raises(ValueError, match="another run writes"), folder_lock(tmp_path / "out"):
            pass
    with arm_lock(name), folder_lock(tmp_path / "out"):
        pass


def test_a_device_that_a_robot_declares_belongs_to_one_run(tmp_path):
    world = World("measured", False, 1, 0)
    world.arm.spec = replace(world.arm.spec, device="/dev/null")
    loop = LoopSettings(HZ, max_steps=2)
    settings = RunSettings(tmp_path, loop, record=False, arm=arm_name(None, {"port": "/dev/null"}))
    given = {"say": lambda text: None, "surroundings": world.surroundings()}
    assert run_robot(world.arm, world.policy, described(1), settings, **given).status == 0
    settings = replace(settings, arm="another name of it")
    with arm_lock("/dev/null"), pytest.raises(ValueError, match="another run drives it"):
        run_robot(world.arm, world.policy, described(1), settings, **given)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**63 - 1])
def test_a_seed_that_no_log_can_keep_is_refused(tmp_path, seed):
    with pytest.raises(ValueError, match="--seed"):
        RunSettings(tmp_path, LoopSettings(HZ), seed=seed)


@pytest.mark.parametrize("code", ["x = (", "1 / 0", "import no_such_driver", "raise KeyError(1)"])
def test_a_robot_file_that_fails_is_named(tmp_path, code):
    path = tmp_path / "arm.py"
    for text in (code, f"class Arm:\n    def __init__(self):\n        {code}"):
        path.write_text(text)
        with pytest.raises((ValueError, ImportError), match=r"arm\.py|no_such_driver"):
            open_robot("own", served(), 10.0, source=f"{path}:Arm")


def test_a_robot_file_takes_the_name_of_no_module(tmp_path):
    path = tmp_path / "json.py"
    path.write_text("class Arm:\n    pass\n")
    open_robot("own", served(), 10.0, source=f"{path}:Arm")
    assert sys.modules["json"] is json


def test_rows_of_an_episode_go_to_disk_as_they_come(tmp_path):
    log = RunLog(tmp_path, {"env_name": "arm"}).episode({})
    for i in range(50):
        seen = Observation({"eye": np.full((64, 64, 3), i, np.uint8)}, {"q": np.zeros(2)}, "go")
        log.step(seen, np.zeros(2), False)
    log._spool.close()
    (rows, *_) = sorted(tmp_path.glob("episodes/.*.rows/*"), key=lambda f: -f.stat().st_size)
    assert rows.stat().st_size == 50 * 64 * 64 * 3
    log.finish(seen, EpisodeEnd("robot", False, 50))
    assert not list(tmp_path.glob("episodes/.*"))
