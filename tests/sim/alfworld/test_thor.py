"""The real AlfredThorEnv behind our face, over a stand-in of AI2-THOR's controller: its renderer
can't be had everywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("alfworld") is None or find_spec("cv2") is None:
    pytest.skip("needs: pip install 'qsft-robot[alfworld]' opencv-python", allow_module_level=True)

from qsft_robot.parts.simulators import build_env
from sim.alfworld.process import EngineError
from sim.alfworld.thor import AlfworldThorEnv, scaled

TASK = "pick_and_place_simple-Mug-None-CounterTop-1"
CABINET = "Cabinet|+00.68|+00.50|-02.20"
RGB = (200, 120, 40)


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One game in the official form, with the scene that AI2-THOR is set up from."""
    folder = tmp_path_factory.mktemp("json")
    trial = folder / "train" / TASK / "trial_T1"
    trial.mkdir(parents=True)
    told: dict[str, Any] = {
        "task_type": "pick_and_place_simple",
        "pddl_params": {
            "object_target": "Mug",
            "parent_target": "CounterTop",
            "toggle_target": "",
            "mrecep_target": "",
            "object_sliced": False,
        },
        "plan": {"high_pddl": [], "low_actions": []},
        "scene": {
            "floor_plan": "FloorPlan1",
            "scene_num": 1,
            "object_poses": [{"objectName": f"Mug_{CABINET}"}],
            "dirty_and_empty": False,
            "object_toggles": [],
            "init_action": {"action": "Pass"},
        },
    }
    (trial / "traj_data.json").write_text(json.dumps(told))
    (trial / "game.tw-pddl").write_text('{"solvable": true}')
    return folder


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this file says goes wrong in the stand-in."""
    file = tmp_path_factory.mktemp("fault") / "fault"
    file.touch()
    return file


@pytest.fixture(scope="module")
def env(
    games: Path, fault: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AlfworldThorEnv]:
    """Ours, with the stand-in as ai2thor.controller."""
    folder = tmp_path_factory.mktemp("packages")
    package = folder / "ai2thor"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(Path(__file__).parent / "thor_stand_in.py", package / "controller.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("THOR_STAND_IN", str(fault))
        made = AlfworldThorEnv(
            "train",
            task_types=["pick_and_place_simple"],
            data=str(games),
            image_size=16,
            screen_size=48,
            command_time_s=4.0,
        )
        yield made
        made.close()


def command(observation: dict[str, Any], start: str) -> str:
    """The first admissible command that begins so."""
    return next(x for x in observation["admissible_commands"].split("\n") if x.startswith(start))


def test_without_ai2thor_one_is_told_what_to_install(games: Path) -> None:
    if find_spec("ai2thor") is not None:  # before the stand-in is
        pytest.skip("ai2thor is installed here")
    with pytest.raises(ImportError, match=r"pip install 'alfworld\[vis\]'"):
        AlfworldThorEnv("train", data=str(games))


def test_a_game_is_played_to_its_end_with_colors_in_order(env: AlfworldThorEnv) -> None:
    observation, info = env.reset(seed=0)
    assert set(observation) == {"view_image", "feedback", "admissible_commands"}
    assert env.observation_space.contains(observation)
    assert (observation["view_image"] == RGB).all()
    assert "mug" in info["instruction"]
    assert "countertop" in info["instruction"]
    cabinets = [
        x for x in observation["admissible_commands"].split("\n") if x.startswith("go to cabinet")
    ]
    for go in cabinets:
        env.step(go)
        observation, *_ = env.step(go.replace("go to", "open"))
        if "mug 1" in observation["feedback"]:
            break
    for start in ("take mug 1", "go to countertop", "move mug 1"):
        observation, reward, terminated, _, info = env.step(command(observation, start))
        assert not info["invalid_command"]
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    assert (env.render() == RGB).all()
    assert env.render().shape == (48, 48, 3)


def test_its_env_args_build_it_again(env: AlfworldThorEnv) -> None:
    again = build_env(env.env_args)
    assert isinstance(again, AlfworldThorEnv)
    assert again.env_args == env.env_args
    again.close()


def open_a_cabinet(env: AlfworldThorEnv) -> None:
    observation, _ = env.reset(seed=0)
    observation, *_ = env.step(command(observation, "go to cabinet"))
    observation, *_ = env.step(command(observation, "open cabinet"))
    assert "is open" in observation["feedback"]


def test_a_game_without_a_scene_is_refused_and_the_engine_lives_on(
    env: AlfworldThorEnv, games: Path
) -> None:
    (file,) = games.rglob("traj_data.json")
    whole = file.read_text()
    told = json.loads(whole)
    del told["scene"]["object_poses"]
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"no object_poses of a scene.*official games"):
        env.reset(seed=0)
    file.write_text(whole)
    running = env.engine.pid
    open_a_cabinet(env)
    assert env.engine.pid == running


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("OpenObject:hang", "did not answer within 4 s"),
        ("OpenObject:die", "died"),
        ("SetObjectPoses:fail", "Unity said no"),
    ],
)
def test_an_engine_that_hangs_dies_or_fails_is_told_of(
    env: AlfworldThorEnv, fault: Path, what: str, said: str
) -> None:
    fault.write_text(what)
    with pytest.raises(EngineError, match=said):
        open_a_cabinet(env)
    assert env.engine.pid is None
    fault.write_text("")


def test_the_next_episode_goes_on(env: AlfworldThorEnv) -> None:
    open_a_cabinet(env)


def test_a_smaller_image_is_the_mean_of_what_its_pixels_cover() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    blocks = image.reshape(3, 4, 5, 4, 3).mean(axis=(1, 3))
    assert np.abs(scaled(image, (3, 5)) - blocks).max() <= 1
