"""Logs of text commands: written, read, replayed, merged and refused where text has no place."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from text_environments import TRUSTED, Corridor, play

from qsft_robot.logs.inspection import summarize
from qsft_robot.logs.merge import merge_files
from qsft_robot.logs.reader import iter_episodes, read_episodes
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.rollouts import worker as rollout_worker
from qsft_robot.rollouts.array_messages import pack, unpack
from qsft_robot.rollouts.evaluate import evaluate
from qsft_robot.rollouts.playback import playback
from qsft_robot.rollouts.video import draw_overlay
from qsft_robot.types import ADMISSIBLE, Decision, Episode, Observation

ENV_ARGS = Corridor().env_args
# What HDF5 keeps: it ends strings at a NUL, and UTF-8 has no surrogates.
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30)


@pytest.fixture
def logs(tmp_path):
    path = tmp_path / "logs.hdf5"
    args = {**ENV_ARGS, "env_kwargs": {"image": True}}
    write_demonstrations(path, [play(i) for i in range(4)], args, {"train": ["demo_0"]})
    return path


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6), texts, st.booleans())
def test_any_text_comes_back_as_it_was_written(tmp_path, steps, last, cut):
    said = np.array([*(said for said, _ in steps), last], object)
    given_ = np.array([command for _, command in steps], object)
    rewards = np.ones(len(steps), np.float32)
    log = Episode("demo_0", {}, given_, rewards, not cut, cut, not cut, texts={"said": said})
    write_demonstrations(tmp_path / "a.hdf5", [log], {})
    (back,) = read_episodes(tmp_path / "a.hdf5")
    assert back.actions.tolist() == given_.tolist()
    assert back.texts["said"].tolist() == said.tolist()
    assert back.has_commands
    message = unpack(pack({"actions": given_, "texts": {"said": said}}))
    assert message["actions"].tolist() == given_.tolist()
    assert message["texts"]["said"].dtype == object


def test_the_keys_of_a_text_environment_come_back_by_their_kind(logs):
    for seed, log in enumerate(read_episodes(logs)):
        played = play(seed)
        assert log.actions.tolist() == played.actions.tolist()
        assert log.texts.keys() == {"feedback", ADMISSIBLE}
        assert all(log.texts[k].tolist() == played.texts[k].tolist() for k in log.texts)
        assert log.observations.keys() == {"view_image"}
        np.testing.assert_array_equal(
            log.observations["view_image"], played.observations["view_image"]
        )
    (only,) = iter_episodes(logs, keys=["feedback"], names=["demo_2"])
    assert only.texts.keys() == {"feedback"}
    assert not only.observations


def test_an_observation_takes_texts_images_and_state_apart():
    seen, info = Corridor(image=True).reset(seed=3)
    found = Observation.from_env({**seen, "x": np.zeros(2)}, info["instruction"])
    assert found.texts == {"feedback": seen["feedback"], ADMISSIBLE: seen[ADMISSIBLE]}
    assert found.images.keys() == {"view_image"}
    assert found.state.keys() == {"x"}


def test_playback_accepts_the_log_and_tells_a_changed_text(logs):
    assert playback(logs, "demo_1", env_overrides=TRUSTED).accepted
    with h5py.File(logs, "r+") as file:
        file["data/demo_1/obs/feedback"][1] = "Something else."
    report = playback(logs, "demo_1", env_overrides=TRUSTED)
    assert report.text_differences == {"feedback": 1, ADMISSIBLE: 0}
    assert any("feedback differs in 1" in reason for reason in report.reasons)


def test_merged_files_keep_texts_and_refuse_arms_beside_commands(logs, tmp_path):
    other = tmp_path / "other.hdf5"
    write_demonstrations(other, [play(9)], {**ENV_ARGS, "env_kwargs": {"image": True}})
    merged = read_episodes(merge_files([logs, other], tmp_path / "both.hdf5"))
    assert merged[-1].actions.tolist() == play(9).actions.tolist()
    assert merged[-1].texts["feedback"].tolist() == play(9).texts["feedback"].tolist()
    arm = replace(play(9), actions=np.zeros((len(play(9)), 2), np.float32))
    write_demonstrations(other, [arm], {**ENV_ARGS, "env_kwargs": {"image": True}})
    with pytest.raises(ValueError, match=r"other.hdf5.*text commands 0"):
        merge_files([logs, other], tmp_path / "both.hdf5")


def test_inspect_tells_texts_and_commands_that_were_not_admissible(logs):
    summary = summarize(logs)
    assert summary.keys["feedback"].dtype == "text"
    assert summary.foreign_commands == 0
    log = play(0)
    log.actions[0] = "fly away"
    write_demonstrations(logs, [log], ENV_ARGS)
    assert any("1 of" in warning and "not among" in warning for warning in summarize(logs).warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": {"feedback": np.array(["a", "b"], object)}}, "'feedback' has 2 rows"),
        ({"texts": {"feedback": np.array([None] * 4, object)}}, r"'feedback' is text.*None"),
        ({"actions": np.array(["look", 3, "look"], object)}, r"'actions' is text.*3"),
        ({"observations": {}, "texts": {}}, "no observations"),
    ],
)
def test_an_unsound_text_log_is_refused_by_key(tmp_path, change, message):
    log = Episode(
        "demo_0", {"x": np.zeros((4, 1), np.float32)}, np.array(["look"] * 3, object),
        np.ones(3, np.float32), True, False, True, texts={"feedback": np.array(["a"] * 4, object)},
    )  # fmt: skip
    write_demonstrations(tmp_path / "good.hdf5", [log], {})
    with pytest.raises(ValueError, match=message):
        write_demonstrations(tmp_path / "bad.hdf5", [replace(log, **change)], {})


def test_a_scale_for_text_commands_and_an_export_to_lerobot_are_refused(logs, tmp_path):
    with pytest.raises(ValueError, match="text commands, which have no scale"):
        read_episodes(logs, action_scale=(0.0, 2.0))
    pytest.importorskip("pyarrow")
    from qsft_robot.lerobot.exporting import export_lerobot

    with pytest.raises(ValueError, match=r"demo_0.*hold text"):
        export_lerobot(logs, tmp_path / "lerobot", codec="png", fps=2.0)


class Stubborn:
    """A policy that gives the goal's commands blindly, and one that no environment takes first."""

    def begin_episode(self, seed):
        return {"step": 0}

    def infer_batch(self, observations, memories):
        found = []
        for observation, memory in zip(observations, memories, strict=True):
            item = observation.instruction.split()[2]
            plan = ["fly", "go to room 2", f"take {item}", "go to room 1", f"drop {item}"]
            command = plan[memory["step"]] if memory["step"] < len(plan) else "look"
            memory["step"] += 1
            found.append(Decision(np.array([command], object)))
        return found


def test_an_evaluation_counts_refused_commands_and_tells_success_by_task(tmp_path):
    args = {**ENV_ARGS, "env_kwargs": {"rooms": 2}}
    result = evaluate(
        Stubborn(),
        args,
        range(8),
        workers=1,
        videos=1,
        out=tmp_path,
        progress=False,
        env_overrides=TRUSTED,
    )
    assert result.success_any.rate == 1.0  # with two rooms both things are in room 2
    assert [e.refused_commands for e in result.episodes] == [1] * 8
    assert result.summary["refused_commands"] == {"count": 8, "rate": 8 / 40}
    tasks = result.summary["tasks"]
    assert sum(row["n"] for row in tasks.values()) == 8
    for task, row in tasks.items():
        assert f"{task}: {row['successes']} of {row['n']}" in str(result)
    assert "8 commands were refused (share 0.200)" in str(result)
    assert {e.task for e in result.episodes} == set(tasks)
    assert len(result.videos) == 1


def test_a_frame_shows_its_command_and_the_value_of_the_decision_made_in_it(tmp_path, monkeypatch):
    drawn = []

    def draw(frame, instruction, values, outcome, command, refused):
        drawn.append((values[-1], outcome, command, refused))
        return draw_overlay(frame, instruction, values, outcome, command, refused)

    monkeypatch.setattr(rollout_worker, "draw_overlay", draw)
    settings = {
        "env_args": ENV_ARGS,
        "env_overrides": {**TRUSTED, "max_steps": 3},
        "reset_options": None,
    }
    slot = rollout_worker._Slot(
        {**settings, "video_folder": str(tmp_path), "episode_timeout_s": 60.0}
    )
    slot.build()
    slot.clear(0)
    slot.begin(record=True)
    for value, command in ((0.1, "look"), (0.2, "dance"), (0.3, "look")):
        reply = slot.act(np.array([command], object), value)
    assert reply["result"]["video"] == "seed_0_fail.mp4"
    assert drawn == [
        (0.1, None, "", False), (0.2, None, "look", False), (0.3, None, "dance", True),
        (0.3, False, "look", False),
    ]  # fmt: skip
    slot.drop()
