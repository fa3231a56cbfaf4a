"""The start-up check refuses a robot that is not the policy's, in one message with the fix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from served_description import served

from qsft_robot.control.robot import EndEffector, RobotSpec
from qsft_robot.control.start_up_check import check_start
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.types import Observation

POLICY = PolicySpec(
    {"front": (64, 64)}, {"q": 3}, 1, 4, np.full(4, -1.0), np.full(4, 1.0), 10.0, ("go",)
)
ROBOT = RobotSpec(
    "arm", {"front": (64, 64), "side": (8, 8)}, {"q": 3, "force": 1}, np.full(4, -1.0),
    np.full(4, 1.0), 10.0, units=("m", "m", "m", "1"),
)  # fmt: skip
RANGE = {"q": {"low": [0, 0, -3.0], "high": [1, 1, 3.0]}}
DESCRIPTION = served(state_range=RANGE)
SEEN = Observation(
    {"front": np.zeros((64, 64, 3), np.uint8)}, {"q": np.array([0.5, 0.5, 0], np.float32)}
)


def check(robot=ROBOT, policy=POLICY, hz=10.0, seen=SEEN, description=DESCRIPTION, accept=()):
    return check_start(robot, policy, hz, description=description, observation=seen, accept=accept)


def test_a_robot_that_fits_passes_with_cameras_and_keys_to_spare() -> None:
    assert check() == []


DIFFERENT = {
    "no camera": ({"robot": replace(ROBOT, cameras={"side": (8, 8)})}, "camera 'front'.*side"),
    "camera of another size": (
        {"robot": replace(ROBOT, cameras={"front": (48, 64)})},
        "48x64 on the robot, 64x64 in the policy",
    ),
    "no state": ({"robot": replace(ROBOT, state={"force": 1})}, r"state 'q'.*force\[1\]"),
    "state of another size": ({"robot": replace(ROBOT, state={"q": 4})}, "4 numbers.*3 in the"),
    "action of another size": (
        {"policy": replace(POLICY, action_dim=7)},
        "4 numbers on the robot, 7 in the policy",
    ),
    "image missing": ({"seen": replace(SEEN, images={})}, "camera 'front' is missing"),
    "image of floats": (
        {"seen": replace(SEEN, images={"front": np.zeros((64, 64, 3))})},
        "is float64",
    ),
    "reading missing": ({"seen": replace(SEEN, state={})}, "state 'q' is missing"),
    "reading of NaN": (
        {"seen": replace(SEEN, state={"q": np.full(3, np.nan)})},
        "state 'q' reads nan",
    ),
}
MENDABLE = {
    "rate": ({"hz": 20.0}, "loop runs at 20 Hz, the policy's logs at 10"),
    "range": (
        {"policy": replace(POLICY, action_high=np.array([1.0, 1.0, 3.0, 1.0]))},
        "dimension 2 beyond",
    ),
    "units": (
        {"robot": replace(ROBOT, action_low=np.full(4, -180.0), action_high=np.full(4, 180.0))},
        "another unit",
    ),
    "state": (
        {"seen": replace(SEEN, state={"q": np.array([0.5, 57.3, 0], np.float32)})},
        r"state 'q'\[1\] reads 57.3, the logs had 0 to 1",
    ),
}


@pytest.mark.parametrize("what", [*DIFFERENT, *MENDABLE])
def test_what_differs_is_named_with_its_mend(what) -> None:
    changed, says = {**DIFFERENT, **MENDABLE}[what]
    with pytest.raises(ValueError, match=says) as refused:
        check(**changed)
    message = str(refused.value)
    assert " -> " in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", MENDABLE)
def test_some_differences_may_be_accepted_and_are_told(kind) -> None:
    passed = check(**MENDABLE[kind][0], accept=(kind,))
    assert {difference.kind for difference in passed} == {kind}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_can_not_run_is_never_accepted(what) -> None:
    with pytest.raises(ValueError, match="differ"):
        check(**DIFFERENT[what][0], accept=("rate", "range", "units", "state"))


def test_all_differences_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"\(1\).*\(2\).*\(3\)"):
        check(hz=5.0, robot=replace(ROBOT, cameras={}, state={}))


def test_units_are_compared_where_both_name_them() -> None:
    said = served(action={"units": ["mm", "mm", "mm", "1"]}, state_range=RANGE)
    with pytest.raises(ValueError, match="m, m, m, 1 on the robot, mm, mm, mm, 1"):
        check(description=said)
    assert check(description=said, robot=replace(ROBOT, units=None)) == []


def test_an_unknown_word_to_accept_is_refused() -> None:
    with pytest.raises(ValueError, match="there are: rate"):
        check(accept=("speed",))


def test_a_robot_of_unknown_range_and_rate_is_compared_in_the_rest() -> None:
    free = replace(
        ROBOT, action_low=np.full(4, -np.inf), action_high=np.full(4, np.inf), control_hz=None
    )
    assert check(robot=free) == []


@pytest.mark.parametrize(
    "wrong",
    [{"action_low": np.full(4, 2.0)}, {"displacements": (4,)}, {"units": ("m",)},
     {"measured": "q"}, {"end_effector": EndEffector("force")}],
)  # fmt: skip
def test_a_specification_that_contradicts_itself_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="robot arm"):
        replace(ROBOT, **wrong)
