"""Whatever comes in, what goes out is finite, in range, within the step change, inside the box."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from served_description import served

from qsft_robot.control.limits import ActionLimiter, Limits, limits_from_policy
from qsft_robot.control.robot import EndEffector, RobotSpec
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.types import Observation

HZ = 10.0
LOW, HIGH = np.array([0.2, -0.2, 0.0]), np.array([0.5, 0.2, 0.25])
ANYTHING = st.floats(allow_nan=True, allow_infinity=True, width=64)
PLACES = st.floats(-1.0, 1.0)
CHANGE = np.array([0.3, 0.2, 0.5, 2.0])


def displacing(scale: float = 0.04) -> RobotSpec:
    """A hand that is displaced, with a gripper."""
    return RobotSpec(
        "hand", {}, {"pose": 8}, np.full(4, -1.0), np.full(4, 1.0), HZ, (0, 1, 2), (3,),
        end_effector=EndEffector("pose", "displacement", scale),
    )  # fmt: skip


def joints() -> RobotSpec:
    """Joints that are sent to places, and measured."""
    return RobotSpec("joints", {}, {"q": 4}, np.full(4, -2.0), np.full(4, 2.0), measured="q")


def positions() -> RobotSpec:
    """A hand that is sent to a position, in millimeters."""
    return RobotSpec(
        "position", {}, {"pose": 3, "q": 4}, np.full(4, -2000.0), np.full(4, 2000.0),
        measured="q", end_effector=EndEffector("pose", "position", 0.001),
    )  # fmt: skip


def seen(key: str, row) -> Observation:
    return Observation({}, {key: np.asarray(row, np.float32)})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(arrays(np.float64, 4, elements=ANYTHING), min_size=1, max_size=8),
    st.lists(arrays(np.float64, 3, elements=PLACES), min_size=8, max_size=8),
    st.sampled_from([0.0, 0.05, 0.2, 10.0]),
)
def test_a_displaced_hand_is_never_sent_beyond_any_limit(actions, hands, speed) -> None:
    spec = displacing()
    limits = Limits(
        np.full(4, -0.8), np.full(4, 0.9), CHANGE, None, speed, box_low=LOW, box_high=HIGH
    )
    limiter = ActionLimiter(limits, spec, HZ)
    before = np.zeros(4)
    for action, hand in zip(actions, hands, strict=False):
        at = np.concatenate([hand, np.zeros(5)])
        sent = limiter.apply(action, seen("pose", at))
        if sent is None:
            assert not np.isfinite(action).all()
            continue
        assert sent.dtype == np.float32
        assert np.isfinite(sent).all()
        assert (sent >= -0.8).all()
        assert (sent <= 0.9).all()
        assert np.linalg.norm(0.04 * sent[:3].astype(float)) * HZ <= speed + 1e-6
        # What speeds up is limited; to stop is always allowed.
        turned = np.abs(sent[:3] - before[:3])
        braked = (np.abs(sent[:3]) <= np.abs(before[:3]) + 1e-6) & (sent[:3] * before[:3] >= 0)
        assert ((turned <= CHANGE[:3] + 1e-6) | braked).all()
        hand32 = hand.astype(np.float32).astype(float)
        target = hand32 + 0.04 * sent[:3]
        # Inside the box, or nearer to it than the hand was.
        outside = np.maximum(np.maximum(LOW - hand32, hand32 - HIGH), 0)
        assert (np.maximum(LOW - target, target - HIGH) <= outside + 1e-6).all()
        limiter.sent(sent)
        before = sent.astype(float)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(arrays(np.float64, 4, elements=ANYTHING), min_size=1, max_size=8),
    arrays(np.float64, 4, elements=st.floats(-3, 3)),
    st.booleans(),
)
def test_joints_never_jump_and_never_leave_their_range(actions, start, by_velocity) -> None:
    low, high = np.full(4, -1.5), np.full(4, 1.0)
    limits = Limits(low, high, None if by_velocity else CHANGE, CHANGE * HZ)
    limiter = ActionLimiter(limits, joints(), HZ)
    before = start.astype(np.float32)
    hold = limiter.hold(seen("q", start))
    if (np.abs(start) > 2 + CHANGE).any():
        # Beyond the range that the robot declares: nothing is sent.
        assert hold is None
        assert limiter.apply(np.zeros(4), seen("q", start)) is None
        return
    np.testing.assert_array_equal(hold, np.clip(before, -2, 2))  # wherever it stands
    before = np.clip(before, -2, 2)
    for action in actions:
        sent = limiter.apply(action, seen("q", start))
        assert sent is not None  # the measured joints tell how to hold
        assert np.isfinite(sent).all()
        # A joint outside of the range may come back in, and not go further out.
        assert ((sent >= np.fmin(low, before)) & (sent <= np.fmax(high, before))).all()
        assert (np.abs(sent - before) <= CHANGE + 1e-6).all()
        limiter.sent(sent)
        before = sent


@settings(max_examples=100, deadline=None)
@given(st.lists(arrays(np.float64, 4, elements=ANYTHING), min_size=1, max_size=8))
def test_a_hand_that_is_sent_to_positions_stays_in_the_box_under_the_top_speed(actions) -> None:
    spec, speed = positions(), 0.3
    limits = Limits(spec.action_low, spec.action_high, speed=speed, box_low=LOW, box_high=HIGH)
    limiter = ActionLimiter(limits, spec, HZ)
    now = Observation({}, {"pose": np.zeros(3, np.float32), "q": np.full(4, 240, np.float32)})
    before = limiter.hold(now)
    for action in actions:
        sent = limiter.apply(action, now)
        assert sent is not None
        # It begins outside of the box, and may come in.
        at, was = sent[:3] / 1000, before[:3] / 1000
        assert (at >= np.fmin(LOW, was) - 1e-6).all()
        assert (at <= np.fmax(HIGH, was) + 1e-6).all()
        moved = np.linalg.norm(sent[:3].astype(float) - before[:3]) / 1000
        assert moved * HZ <= speed + 1e-4
        limiter.sent(sent)
        before = sent


SHARES = arrays(np.float64, 2, elements=st.floats(0, 1))
# What happens at a tick: a command at a reading, a hold in the dark, or a driver that says that it
# sent a share of what it got.
TICK = st.one_of(st.just("seen"), st.just("dark"), st.floats(0, 1))


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.tuples(arrays(np.float64, 4, elements=st.floats(-1, 1)), SHARES, TICK), max_size=30
    ),
    st.sampled_from([0.0, 0.02, 0.1]),
)
def test_a_commanded_point_that_runs_ahead_of_the_hand_stays_in_the_box_too(ticks, leash) -> None:
    spec = displacing()
    spec = replace(spec, end_effector=replace(spec.end_effector, leash=leash))
    limits = Limits(spec.action_low, spec.action_high, box_low=LOW, box_high=HIGH)
    limiter = ActionLimiter(limits, spec, HZ)
    hand = goal = ((LOW + HIGH) / 2).astype(np.float32).astype(float)
    for action, (thinking, moving), tick in ticks:
        shown = seen("pose", [*hand, 0, 0, 0, 0, 0])
        sent = limiter.hold(None) if tick == "dark" else limiter.apply(action, shown)
        if sent is None:
            continue
        limiter.sent(sent)
        if isinstance(tick, float) and (told := limiter.believed(sent, tick * sent)) is not None:
            limiter.told(told)
        # The hand goes on while the policy thinks, and after the command came.
        hand = hand + thinking * (goal - hand)
        goal = hand + np.clip(goal - hand, -leash, leash) + 0.04 * sent[:3].astype(float)
        assert (goal >= LOW - 1e-6).all()
        assert (goal <= HIGH + 1e-6).all()
        hand = (hand + moving * (goal - hand)).astype(np.float32).astype(float)


def test_a_hand_that_something_keeps_from_its_goal_can_still_be_pushed_on() -> None:
    spec = displacing()
    spec = replace(spec, end_effector=replace(spec.end_effector, leash=0.02))
    limits = Limits(spec.action_low, spec.action_high, box_low=LOW, box_high=HIGH)
    limiter = ActionLimiter(limits, spec, HZ)
    for _ in range(50):
        sent = limiter.apply(np.array([1.0, 0, 0, 0]), seen("pose", [0.3, *np.zeros(7)]))
        limiter.sent(sent)
    assert sent[0] == 1.0


@settings(deadline=None)
@given(arrays(np.float64, 4, elements=st.floats(-0.4, 0.4)))
def test_what_is_within_all_limits_goes_out_as_it_is(action) -> None:
    limits = Limits(np.full(4, -0.5), np.full(4, 0.5), np.full(4, 1.0), None, 1.0, LOW, HIGH)
    limiter = ActionLimiter(limits, displacing(), HZ)
    sent = limiter.apply(action, seen("pose", [*(LOW + HIGH) / 2, 0, 0, 0, 0, 0]))
    assert sent == pytest.approx(action, abs=1e-6)
    assert not limiter.clamps


@pytest.mark.parametrize(
    ("kind", "action"),
    [("nan", [np.nan, 0, 0, 0]), ("range", [0, 0, 0, 1.5]), ("change", [0.4, 0, 0, 0]),
     ("velocity", [0.3, 0.2, 0.45, 0]), ("workspace", [0, 0, -0.4, 0])],
)  # fmt: skip
def test_every_clamp_is_counted_by_its_kind(kind, action) -> None:
    limits = Limits(np.full(4, -1.0), np.full(4, 1.0), CHANGE, None, 0.2, LOW, HIGH)
    limiter = ActionLimiter(limits, displacing(), HZ)
    limiter.apply(np.array(action, float), seen("pose", [0.35, 0, 0.01, 0, 0, 0, 0, 0]))
    assert dict(limiter.clamps) == {kind: 1}


def test_a_hand_whose_position_is_unknown_is_not_displaced() -> None:
    limits = Limits(np.full(4, -1.0), np.full(4, 1.0), box_low=LOW, box_high=HIGH)
    limiter = ActionLimiter(limits, displacing(), HZ)
    sent = limiter.apply(np.full(4, 0.5), seen("pose", np.full(8, np.nan)))
    assert np.array_equal(sent, np.array([0, 0, 0, 0.5], np.float32))


def test_a_hold_keeps_the_gripper_and_displaces_nothing() -> None:
    spec = displacing()
    limiter = ActionLimiter(Limits(spec.action_low, spec.action_high, CHANGE), spec, HZ)
    assert limiter.hold(None) is None  # nobody knows yet what the gripper does
    limiter.sent(np.array([0.9, 0.1, -0.7, 1.0]))
    assert np.array_equal(limiter.hold(None), np.array([0, 0, 0, 1], np.float32))


def described():
    """A policy's description with statistics, and its interface."""
    seen = {"low": [-0.5] * 4, "high": [0.25] * 4, "largest_change": [0.1, 0.2, 0.3, 0.4]}
    box = {"pose": {"low": [0.1] * 8, "high": [0.6] * 8}}
    description = served(action={"control_hz": HZ, "seen": seen}, state_range=box)
    return description, PolicySpec.of(description)


def test_limits_come_from_the_policys_own_statistics_unless_they_are_given() -> None:
    description, policy = described()
    limits = limits_from_policy(displacing(), policy, description, HZ)
    assert limits.low.tolist() == [-0.5] * 4
    assert limits.high.tolist() == [0.25] * 4
    assert limits.change.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert limits.speed == pytest.approx(np.sqrt(3) * 0.5 * 0.04 * HZ)
    assert limits.box_low.tolist() == [0.1] * 3
    given_ = limits_from_policy(
        displacing(), policy, description, HZ, change=(0.05,), speed=0.1, box_low=LOW, box_high=HIGH
    )
    assert given_.change.tolist() == [0.05] * 4
    assert given_.speed == 0.1
    assert given_.box_low.tolist() == LOW.tolist()
    off = limits_from_policy(
        displacing(), policy, description, HZ, off=("change", "velocity", "workspace", "range")
    )
    assert (off.change, off.velocity, off.speed, off.box_low) == (None,) * 4
    assert off.low.tolist() == [-1.0] * 4


def test_a_policy_without_statistics_still_bounds_by_its_declared_range() -> None:
    description = served(action={"control_hz": HZ})
    policy = PolicySpec.of(description)
    limits = limits_from_policy(displacing(), policy, description, HZ)
    assert limits.low.tolist() == [-1.0] * 4
    assert (limits.change, limits.box_low) == (None, None)


@pytest.mark.parametrize(
    ("given_", "says"),
    [({"change": (1, 2)}, "1 or 4"), ({"box_low": LOW}, "two corners"), ({"low": (2.0,)}, "above"),
     ({"change": (-1.0,)}, "negative"), ({"off": ("speed",)}, "There are|there are")],
)  # fmt: skip
def test_wrong_limits_are_refused_with_what_would_be_right(given_, says) -> None:
    description, policy = described()
    if "box_low" in given_:
        description = replace(description, state_range={})
    with pytest.raises(ValueError, match=says):
        limits_from_policy(displacing(), policy, description, HZ, **given_)


def test_a_box_needs_a_robot_that_reports_its_end_effector() -> None:
    description, policy = described()
    with pytest.raises(ValueError, match="end-effector"):
        limits_from_policy(joints(), policy, description, HZ, box_low=LOW, box_high=HIGH)


def test_a_hand_above_the_box_comes_down_at_the_allowed_speed() -> None:
    spec, speed = positions(), 0.25
    limits = Limits(spec.action_low, spec.action_high, speed=speed, box_low=LOW, box_high=HIGH)
    limiter = ActionLimiter(limits, spec, HZ)
    start = np.array([300.0, 0.0, 600.0, 0.0], np.float32)
    now = Observation({}, {"pose": start[:3] / 1000, "q": start})
    np.testing.assert_array_equal(limiter.hold(now), start)
    heights = []
    for _ in range(30):
        sent = limiter.apply(np.array([300.0, 0.0, 0.0, 0.0]), now)
        limiter.sent(sent)
        heights.append(float(sent[2]))
    falls = -np.diff([600.0, *heights])
    assert falls.max() <= 1000 * speed / HZ + 1e-3
    assert heights[-1] == 0.0


def test_no_flag_takes_an_arm_beyond_its_own_range() -> None:
    spec = joints()
    policy = PolicySpec({}, {"q": 4}, 1, 4, np.full(4, -1.0), np.full(4, 1.0), HZ, ())
    low, high = np.array(-5.0), np.array(5.0)
    found = limits_from_policy(spec, policy, served(), HZ, low=low, high=high)
    assert (found.low.tolist(), found.high.tolist()) == ([-2.0] * 4, [2.0] * 4)


def test_a_drivers_word_counts_only_where_it_can_be_true() -> None:
    limits = Limits(np.full(4, -1.5), np.full(4, 1.5), CHANGE)
    limiter = ActionLimiter(limits, joints(), HZ)
    sent = np.full(4, 0.5, np.float32)
    strange_ones = [24, True, "OK", {"a": 1}, None, np.full(3, 0.5), np.full((1, 4), 0.5)]
    strange_ones += [sent * np.nan, sent + np.inf, sent * 57.3, sent + 1, [object()] * 4]
    for strange in strange_ones:
        assert limiter.believed(sent, strange) is None, strange
    np.testing.assert_allclose(limiter.believed(sent, sent - CHANGE / 2), sent - CHANGE / 2)
    hand = ActionLimiter(Limits(np.full(4, -1.0), np.full(4, 1.0), CHANGE / 10), displacing(), HZ)
    assert hand.believed(sent, sent * 0.1) is not None  # nearer to a stop, as a robot may


def test_the_next_command_is_near_what_was_handed_over_whatever_the_driver_says() -> None:
    limiter = ActionLimiter(Limits(np.full(4, -1.5), np.full(4, 1.5), CHANGE), joints(), HZ)
    at, start = np.zeros(4), seen("q", np.zeros(4))
    for i in range(20):
        sent = limiter.apply(np.full(4, 9.0 if i % 2 else -9.0), start)
        assert (np.abs(sent - at) <= CHANGE + 1e-6).all()
        # It says that it went back by a whole change, which is near enough to be believed.
        limiter.sent(sent)
        limiter.told(limiter.believed(sent, sent - CHANGE * np.sign(sent)))
        at = sent


@pytest.mark.parametrize("hz", [5.0, 10.0, 20.0, 50.0])
def test_speed_and_change_are_those_of_the_logs_whatever_the_rate_of_the_loop(hz) -> None:
    description, policy = described()
    limits = limits_from_policy(displacing(0.05), policy, description, hz)
    assert limits.speed == pytest.approx(np.sqrt(3) * 0.5 * 0.05 * HZ)
    # A second of the longest steps and changes goes no further than in the logs.
    faster = max(1.0, hz / HZ)
    assert limits.low[:3] * faster == pytest.approx([-0.5] * 3)
    assert limits.change * faster == pytest.approx([0.1, 0.2, 0.3, 0.4])
    # A speed is the same number whatever the rate.
    speeds = replace(displacing(0.05), speeds=(0, 1, 2))
    assert limits_from_policy(speeds, policy, description, hz).low[0] == -0.5


@pytest.mark.parametrize("corner", [[], [0.1], [0.1, 0.2]])
def test_a_box_without_x_y_z_is_refused(corner) -> None:
    row = np.asarray(corner)
    with pytest.raises(ValueError, match="not x, y, z"):
        Limits(-np.ones(4), np.ones(4), box_low=row - 1, box_high=row)
