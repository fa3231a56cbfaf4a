"""Recordings of an arm by hand, clean, and as the checks see them."""

import importlib.util
import sys
from pathlib import Path

import pytest

from qsft_robot.logs.doctor.frames import digest_frames
from qsft_robot.logs.doctor.log import Log, LogSet

SCRIPTS = Path(__file__).parents[3] / "scripts"


def module_of(name):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def planted():
    return module_of("planted_faults")


@pytest.fixture(scope="session")
def clean(planted):
    return planted.record()


@pytest.fixture(scope="session")
def log_of():
    def log(number, recording):
        return Log(
            name=f"episode_{number}",
            instruction=recording.task,
            state={"state": recording.state},
            actions=recording.actions,
            frames={camera: digest_frames(x) for camera, x in recording.frames.items()},
            rewards=recording.rewards,
            success=bool(recording.success.any()),
            marks={
                "dones": recording.done,
                "success": recording.success,
                "truncated": recording.truncated,
                "terminated": recording.done & ~recording.truncated,
            },
            timestamps=recording.timestamps,
        )

    return log


@pytest.fixture(scope="session")
def clean_logs(clean, planted, log_of):
    logs = [log_of(i, x) for i, x in enumerate(clean)]
    return LogSet(logs, planted.HZ, wants_instructions=True, seconds=True)
