"""Each check finds the fault that it is named after, in the right logs, and is silent without."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from qsft_robot.logs.doctor.actions import action_offset, saturated_action
from qsft_robot.logs.doctor.cameras import black_camera, frozen_camera, swapped_cameras
from qsft_robot.logs.doctor.checks import CHECKS, examine
from qsft_robot.logs.doctor.finding import Finding, reaches
from qsft_robot.logs.doctor.frames import digest_frames
from qsft_robot.logs.doctor.identity import is_junk, junk_instruction
from qsft_robot.logs.doctor.log import Log, LogSet
from qsft_robot.logs.doctor.motion import frozen_action, frozen_state, state_jump
from qsft_robot.logs.doctor.outcomes import coverage, cut_against_terminal, reward_after_end
from qsft_robot.logs.doctor.timing import short_log, timestamp_gap, wrong_rate

FAULTS = 18


def test_clean_recordings_are_silent(clean_logs):
    assert examine(clean_logs) == []


@pytest.mark.parametrize("number", range(FAULTS))
def test_every_planted_fault_is_found_in_its_logs(number, planted, clean, clean_logs, log_of):
    fault, spoiled = planted.FAULTS[number], copy.deepcopy(clean)
    names = {f"episode_{i}" for i in fault.plant(spoiled)}
    seen = [
        log_of(i, log) if f"episode_{i}" in names else clean_logs.logs[i]
        for i, log in enumerate(spoiled)
    ]
    found = [x for x in examine(replace(clean_logs, logs=seen)) if x.check == fault.check]
    assert {name for x in found for name in x.logs} == names
    assert all(x.severity in ("warning", "error") for x in found)


def test_the_planted_faults_are_18_and_their_checks_exist(planted):
    assert len(planted.FAULTS) == FAULTS
    assert {fault.check for fault in planted.FAULTS} <= CHECKS.keys()


def walks(rng, count=12, steps=60):
    """Logs of a point that actions push along, noise in its sensor."""
    logs = []
    for i in range(count):
        actions = rng.normal(0, 0.3, (steps, 3)) + np.sin(np.arange(steps) / 9 + i)[:, None]
        path = np.cumsum(np.concatenate([np.zeros((1, 3)), actions]), 0)[:-1]
        state = path + rng.normal(0, 1e-3, path.shape)
        logs.append(Log(f"demo_{i}", "go", {"state": state}, actions, rewards=np.zeros(steps)))
    return logs


def with_log(logs, number, **changes):
    return LogSet([replace(x, **changes) if i == number else x for i, x in enumerate(logs)])


def test_steps_of_a_fault_are_those_that_it_has(rng):
    logs = walks(rng)
    held = logs[4].state["state"].copy()
    held[20:33] = held[20]
    (found,) = frozen_state(with_log(logs, 4, state={"state": held}))
    assert found.logs == {"demo_4": [(20, 32)]}
    off = logs[2].state["state"].copy()
    off[17] += 30
    (found,) = state_jump(with_log(logs, 2, state={"state": off}))
    assert found.logs == {"demo_2": [(17, 17)]}


def test_a_clock_among_the_state_does_not_hide_a_frozen_state(rng):
    logs = walks(rng)
    held = logs[4].state["state"].copy()
    held[20:33] = held[20]
    spoiled = with_log(logs, 4, state={"state": held}).logs
    clocks = [
        replace(x, state={"state": np.column_stack([x.state["state"], np.arange(len(x)) * 0.1])})
        for x in spoiled
    ]
    assert [x.check for x in examine(LogSet(clocks))] == ["frozen-state"]


def test_a_robot_that_rests_is_no_frozen_one(rng):
    rests = [
        replace(
            log,
            state={"state": np.concatenate([x := log.state["state"], np.repeat(x[-1:], 30, 0)])},
            actions=np.concatenate([log.actions, np.zeros((30, 3))]),
            rewards=np.zeros(len(log) + 30),
        )
        for log in walks(rng)
    ]
    assert not frozen_state(LogSet(rests))
    assert not frozen_action(LogSet(rests))


def test_one_sensor_of_many_that_hangs_is_found_and_an_object_at_rest_is_not(rng):
    logs = walks(rng, count=24)
    held = logs[4].state["state"].copy()
    held[10:, 1] = held[10, 1]
    (found,) = frozen_state(with_log(logs, 4, state={"state": held}))
    assert found.logs == {"demo_4": [(10, 59)]}
    assert "dimension 1" in found.message
    resting = [
        replace(x, state={**x.state, "object": np.repeat(rng.normal(size=(1, 3)), len(x), 0)})
        for x in logs
    ]
    assert not frozen_state(LogSet(resting))


@pytest.mark.parametrize("shift", [-2, 1, 3])
def test_actions_that_are_shifted_are_told_by_how_far(rng, shift):
    logs = walks(rng)
    moved = np.roll(logs[7].actions, shift, 0)
    (found,) = action_offset(with_log(logs, 7, actions=moved))
    assert list(found.logs) == ["demo_7"]
    assert f"{abs(shift)} step" in found.message
    assert ("late" if shift > 0 else "early") in found.message
    everywhere = [replace(x, actions=np.roll(x.actions, 1, 0)) for x in logs]
    (found,) = action_offset(LogSet(everywhere))
    assert (found.severity, found.logs) == ("error", {})


def test_a_gripper_at_its_ends_is_not_saturated_and_clipped_actions_are(rng):
    logs = [
        replace(x, actions=np.column_stack([x.actions, np.sign(x.actions[:, 0])]))
        for x in walks(rng)
    ]
    assert not saturated_action(LogSet(logs))
    clipped = [replace(x, actions=np.clip(100 * x.actions, -1, 1)) for x in logs]
    (found,) = saturated_action(LogSet(clipped))
    assert "0, 1, 2" in found.message


def pictures(rng, steps, low, high):
    return rng.integers(low, high, (steps, 12, 16, 3), dtype=np.uint8)


def test_cameras_that_change_places_or_are_one_are_told(rng):
    logs = []
    for log in walks(rng, steps=20):
        frames = {"a": pictures(rng, 20, 0, 90), "b": pictures(rng, 20, 120, 255)}
        logs.append(replace(log, frames={k: digest_frames(x) for k, x in frames.items()}))
    assert not swapped_cameras(LogSet(logs))
    crossed = {"a": logs[3].frames["b"], "b": logs[3].frames["a"]}
    (found,) = swapped_cameras(with_log(logs, 3, frames=crossed))
    assert list(found.logs) == ["demo_3"]
    same = {"a": logs[3].frames["a"], "b": logs[3].frames["a"]}
    (found,) = swapped_cameras(with_log(logs, 3, frames=same))
    assert "twice" in found.message


def test_a_camera_that_never_changes_is_an_error_in_all_logs_and_in_a_single_one(rng):
    still = digest_frames(np.repeat(pictures(rng, 1, 0, 255), 30, 0))
    logs = [replace(x, frames={"front": still}) for x in walks(rng, count=3, steps=30)]
    for several in (logs, logs[:1]):
        (found,) = frozen_camera(LogSet(several))
        assert (found.severity, found.logs) == ("error", {})
    dark = digest_frames(np.zeros((30, 12, 16, 3), np.uint8))
    (found,) = black_camera(LogSet([replace(logs[0], frames={"front": dark})]))
    assert "every pixel of every frame is 0" in found.message


def test_a_single_log_is_told_of_its_camera_that_stalls(rng):
    (log,) = walks(rng, count=1)
    frames = pictures(rng, 60, 0, 255)
    assert not frozen_camera(LogSet([replace(log, frames={"front": digest_frames(frames)})]))
    frames[20:50] = frames[20]
    (found,) = frozen_camera(LogSet([replace(log, frames={"front": digest_frames(frames)})]))
    assert found.logs == {"demo_0": [(20, 49)]}


@pytest.mark.parametrize(
    ("text", "junk"),
    [
        ("<unk>", True),
        ("qwertyuiop", True),
        ("asdfgh", True),
        ("put < 3 > cups", False),
        ("property", False),
        ("put the red cube in the bowl", False),
        ("把红色方块放进碗里", False),
        ("拿", False),
        ("поставь куб", False),
        ("reach", False),
        ("test the valve", False),
        ("TEST", True),
        ("asdf", True),
        ("???", True),
        ("123", True),
        ("aaaa", True),
        ("to-do", True),
        ("a\x1b]0;title\x07", True),
        ("n/a", True),
    ],
)
def test_what_is_an_instruction(text, junk):
    assert is_junk(text) is junk


def test_an_empty_instruction_counts_where_others_have_one(rng):
    logs = walks(rng, count=3)
    assert not junk_instruction(LogSet([replace(x, instruction="") for x in logs]))
    (found,) = junk_instruction(with_log(logs, 1, instruction=" "))
    assert list(found.logs) == ["demo_1"]


def marked(log, **marks):
    return replace(log, marks={k: np.isin(np.arange(len(log)), v) for k, v in marks.items()})


def test_ends_that_contradict_themselves(rng):
    a, b, c, d = walks(rng, count=4)
    last = len(a) - 1
    won = replace(d, success=True)
    logs = LogSet(
        [
            marked(a, terminated=[last], truncated=[last]),
            marked(b, terminated=[], truncated=[]),
            marked(c, terminated=[last], truncated=[]),
            marked(won, terminated=[], truncated=[last]),
        ]
    )
    found = cut_against_terminal(logs)
    assert [list(x.logs) for x in found] == [["demo_0"], ["demo_1"], ["demo_3"]]


def test_a_success_that_lasts_may_be_rewarded_to_the_end(rng):
    (log,) = walks(rng, count=1)
    paid = replace(log, rewards=(np.arange(len(log)) >= 40).astype(float))
    assert not reward_after_end(LogSet([marked(paid, success=range(40, 60), dones=[59])]))
    (found,) = reward_after_end(LogSet([marked(paid, success=[40], dones=[40, 59])]))
    assert found.logs == {"demo_0": [(41, 59)]}


def test_rare_instructions_count_where_others_have_many_logs(rng):
    logs = walks(rng, count=24)
    every = [replace(x, instruction=f"goal {i}") for i, x in enumerate(logs)]
    assert not coverage(LogSet(every))
    three = [replace(x, instruction=f"goal {i % 2}") for i, x in enumerate(logs)]
    (found,) = coverage(LogSet([*three, replace(logs[0], name="demo_99", instruction="goal O")]))
    assert list(found.logs) == ["demo_99"]


def test_times_of_any_unit_have_gaps_and_only_seconds_have_a_rate(rng):
    (log,) = walks(rng, count=1)
    nanoseconds = replace(log, timestamps=np.arange(60) * 5e7)
    assert not timestamp_gap(LogSet([nanoseconds], control_hz=20.0))
    assert not wrong_rate(LogSet([nanoseconds], control_hz=20.0))
    late = np.arange(60) * 5e7 + 3e8 * (np.arange(60) >= 30)
    (found,) = timestamp_gap(LogSet([replace(log, timestamps=late)]))
    assert found.logs == {"demo_0": [(30, 30)]}
    (found,) = wrong_rate(LogSet([replace(log, timestamps=np.arange(60) / 15)], 30.0, seconds=True))
    assert "15 Hz" in found.message


def test_a_game_that_is_won_by_few_commands_is_not_short(rng):
    logs = [
        Log(f"demo_{i}", "find it", actions=np.zeros((n, 0)), rewards=np.zeros(n))
        for i, n in enumerate([4, 50, 50, 50, 50, 50])
    ]
    assert not short_log(LogSet(logs))


def test_findings_say_where_and_how_grave():
    found = Finding("frozen-state", "warning", "stands still", {"demo_3": [(4, 9)], "demo_5": []})
    assert found.where == "demo_3 (steps 4-9), demo_5"
    assert found.to_json()["logs"] == {"demo_3": [[4, 9]], "demo_5": []}
    assert reaches([found], "warning")
    assert not reaches([found], "error")
    assert not reaches([], "warning")


def test_a_frozen_camera_is_told_from_a_video_whose_encoder_repeats_frames(rng):
    """Every second frame is the one before again, as between two key frames of a slow picture."""
    logs = []
    for i, log in enumerate(walks(rng, count=12, steps=60)):
        frames = pictures(rng, 60, 0, 255)
        frames[1::2] = frames[0::2]
        if i == 4:
            frames[:] = frames[0]
        if i == 5:
            frames[20:45] = frames[20]
        logs.append(replace(log, frames={"front": digest_frames(frames)}))
    assert not frozen_camera(LogSet([*logs[:4], *logs[6:]], videos=True))
    (found,) = frozen_camera(LogSet(logs, videos=True))
    assert sorted(found.logs) == sorted([logs[4].name, logs[5].name])
