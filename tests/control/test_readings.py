"""Plausibility of readings: a hand that stands, and one among what is measured."""

from __future__ import annotations

import numpy as np
import pytest

from qsft_robot.control.limits import Limits
from qsft_robot.control.readings import HAND_M, ReadingCheck
from qsft_robot.control.robot import EndEffector, RobotSpec
from qsft_robot.types import Observation

HZ, SPEED = 20.0, 1.0
ROW = np.ones(4)
HAND = np.array([0.3, 0.0, 0.1, 0.5])  # and a gripper's place
LIMITS = Limits(-ROW, ROW, change=0.1 * ROW, speed=SPEED)


def check(measured: bool, leash: float = 0.0) -> ReadingCheck:
    """The judge of a hand that is displaced and stands at HAND."""
    end = EndEffector("pose", "displacement", 0.04, leash)
    spec = RobotSpec(
        "hand", {}, {"pose": 4}, -ROW, ROW, HZ, (0, 1, 2),
        measured="pose" if measured else None, end_effector=end,
    )  # fmt: skip
    found = ReadingCheck(spec, LIMITS, HZ)
    found.begin(at(0.0))
    return found


def at(meters: float) -> Observation:
    """A reading of a hand that stands elsewhere along x."""
    return Observation({}, {"pose": (HAND + np.array([meters, 0, 0, 0])).astype(np.float32)})


@pytest.mark.parametrize("measured", [True, False])
def test_a_hand_that_jumps_is_not_believed_wherever_it_is_reported(measured) -> None:
    judge = check(measured)
    assert judge.look(at(0.0), 1 / HZ) is None
    judge.sent(np.array([1, 0, 0, 0.5], np.float32))
    assert judge.look(at(SPEED / HZ), 1 / HZ) is None
    judge.sent(np.array([1, 0, 0, 0.5], np.float32))
    assert "jumped" in judge.look(at(-0.4), 1 / HZ)
    assert judge.look(at(2 * SPEED / HZ), 1 / HZ) is None


@pytest.mark.parametrize("measured", [True, False])
def test_a_hand_that_was_laid_out_stands_until_a_command_moves_it(measured) -> None:
    judge = check(measured, leash=0.05)
    assert judge.look(at(0.9 * HAND_M), 1 / HZ) is None
    assert "jumped" in judge.look(at(-0.5 * HAND_M), 1 / HZ)


@pytest.mark.parametrize("measured", [True, False])
def test_a_hand_may_go_on_for_one_command_between_two_episodes(measured) -> None:
    judge = check(measured)
    assert judge.look(at(0.0), 1 / HZ) is None
    judge.sent(np.array([1, 0, 0, 0.5], np.float32))
    judge.begin(None)
    assert judge.look(at(SPEED / HZ), 1 / HZ) is None
    assert "jumped" in judge.look(at(3 * SPEED / HZ), 1 / HZ)
