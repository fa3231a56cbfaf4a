"""OGBench: seeds, spaces, names of tasks, play data, and success as its own code has it."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("ogbench")

from qsft_robot.parts.simulators import build_env
from sim.ogbench.labels import Labels
from sim.ogbench.play import PlayRecorder
from sim.ogbench.tasks import SCENES, task_names

ACTIONS = np.random.default_rng(0).uniform(-1, 1, (20, 5)).astype(np.float32)


def ogbench(**kwargs):
    return build_env({"env_name": "ogbench", "env_kwargs": kwargs})


def test_there_are_four_scenes_of_five_tasks():
    assert set(SCENES) == {"cube-single", "cube-double", "scene", "puzzle-3x3"}
    assert len(task_names()) == 4 + 4 * 5


@pytest.mark.parametrize("task", ["cube-single", "scene-task5"])
def test_an_episode_follows_from_its_seed_alone(task):
    def play(env, seed):
        first, _ = env.reset(seed=seed)
        rows = [first, *(env.step(action)[0] for action in ACTIONS)]
        return np.stack([row["observation"] for row in rows])

    one, other = ogbench(task=task), ogbench(task=task)
    play(other, 8)  # leaves its traces in the simulator
    np.testing.assert_array_equal(play(one, 7), play(other, 7))
    assert (play(one, 7) != play(one, 8)).any()


def test_it_is_a_gymnasium_environment_with_the_published_limits():
    env = ogbench(max_steps=3)
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    assert [env.step(ACTIONS[0])[3] for _ in range(3)] == [False, False, True]
    assert env.env_args["env_kwargs"]["max_steps"] == 3
    for scene in SCENES:
        spec = gymnasium.spec(f"{scene}-singletask-v0")
        assert SCENES[scene].max_steps == spec.max_episode_steps
        default = gymnasium.make(spec, disable_env_checker=True).unwrapped
        assert SCENES[scene].default_task == default._reward_task_id


@pytest.mark.parametrize("terminate", [True, False])
def test_a_success_is_told_paid_once_and_ends_the_episode_where_asked(terminate):
    env = ogbench(terminate_on_success=terminate)
    env.reset(seed=0)
    scene = env.scene
    scene._data.joint("object_joint_0").qpos[:3] = scene._data.mocap_pos[0]
    told = []
    for _ in range(4):
        _, reward, terminated, _, info = env.step(np.zeros(5))
        told.append((info["success"], reward, terminated))
    # The first step tells of the state that it began in, which was judged before the cube moved.
    assert told[0] == (False, 0.0, False)
    assert told[1] == (True, 1.0, terminate)
    if not terminate:
        assert told[2] == (True, 0.0, False)


def test_the_visual_variant_shows_an_image_by_its_key():
    env = ogbench(cameras=["front"], image_size=[32, 48])
    seen, _ = env.reset(seed=0)
    assert set(seen) == {"front_image"}
    assert seen["front_image"].shape == (32, 48, 3)
    assert seen["front_image"].dtype == np.uint8
    assert seen["front_image"].std() > 0
    env.close()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"task": "cube-singel"}, "Did you mean 'cube-single'?"),
        ({"task": "cube-single-task6"}, "unknown OGBench task"),
        ({"cameras": ["wrist"]}, "there is: front"),
        ({"tsk": "scene"}, "Did you mean 'task'?"),
    ],
)
def test_wrong_names_are_answered_with_those_there_are(kwargs, words):
    with pytest.raises(ValueError, match=words.replace("?", r"\?")):
        ogbench(**kwargs)


@pytest.mark.parametrize("scene", SCENES)
def test_rows_are_judged_as_the_benchmark_relabels_them(scene):
    from ogbench.relabel_utils import relabel_dataset

    rows = PlayRecorder(scene, steps=30).record(5)
    for number in (1, 4):
        theirs = gymnasium.make(f"{scene}-singletask-task{number}-v0", disable_env_checker=True)
        theirs.reset(seed=0)
        goal, planted = theirs.unwrapped, {key: x.copy() for key, x in rows.items()}
        for i in range(getattr(goal, "_num_cubes", 0)):
            planted["qpos"][10:20, 14 + 7 * i : 17 + 7 * i] = goal._data.mocap_pos[i]
        if scene == "scene":
            planted["qpos"][10:20, -2] = goal._target_drawer_pos
            planted["qpos"][10:20, -1] = goal._target_window_pos
        if "button_states" in planted:
            planted["button_states"][10:20] = goal._target_button_states
        labeled = dict(planted)
        relabel_dataset(f"{scene}-singletask-task{number}-v0", theirs, labeled)
        found = Labels(f"{scene}-task{number}").successes(planted)
        np.testing.assert_array_equal(found, labeled["masks"] == 0)
        assert found[10:20].all()


def test_rows_of_another_scene_are_refused():
    rows = PlayRecorder("puzzle-3x3", steps=5).record(0)
    with pytest.raises(ValueError, match="another one"):
        Labels("cube-single").successes(rows)


def test_play_data_follow_from_the_seed_and_leave_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    recorder = PlayRecorder("cube-double", steps=60)
    first, second = recorder.record(1), recorder.record(2)
    again = PlayRecorder("cube-double", steps=60).record(2)
    assert set(first) == {"observations", "actions", "terminals", "qpos", "qvel"}
    for key in first:
        np.testing.assert_array_equal(second[key], again[key])
    assert (first["actions"] != second["actions"]).any()
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert first["terminals"].tolist() == [False] * 59 + [True]
    # Observations begin with the joints of the arm, as the state does.
    np.testing.assert_allclose(first["observations"][:, :6], first["qpos"][:, :6], atol=1e-6)


def test_the_oracle_of_play_data_moves_the_cube():
    episode = PlayRecorder("cube-single", steps=150).record(0)
    assert np.ptp(episode["qpos"][:, 14:16], axis=0).max() > 0.05
    assert episode["qpos"][:, 16].max() > 0.05
