"""The ALFWorld environment over the real engine: its contract, its seeds, and what it survives."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from qsft_robot.parts.simulators import build_env, build_expert
from qsft_robot.rollouts.collect_worker import play_demonstration, play_surely
from sim.alfworld.env import AlfworldEnv
from sim.alfworld.process import EngineError

pytestmark = pytest.mark.usefixtures("alfworld_data")


@pytest.fixture(scope="module")
def env(alfworld_games):
    env = AlfworldEnv("train", data=str(alfworld_games / "generated"), cameras=())
    yield env
    env.close()


def walk(env: AlfworldEnv, commands: list[str]) -> list[object]:
    """What is seen and told along some commands."""
    told: list[object] = [env.reset(seed=1)]
    return told + [env.step(command) for command in commands]


def test_gymnasium_accepts_it_with_images():
    env = AlfworldEnv(
        "train",
        task_types=["look_at_obj_in_light"],
        image_size=(32, 48),
        render_mode="rgb_array",
    )
    check_env(env)
    observation, _ = env.reset(seed=0)
    assert observation["view_image"].shape == (32, 48, 3)
    assert env.render().shape == (256, 256, 3)
    env.close()


def test_walkthroughs_of_all_types_end_in_success_with_reward_one(env):
    for turn in range(6):
        _, info = env.reset(seed=turn)
        assert not info["success"]
        commands = json.loads(env.game.file.read_text())["walkthrough"]
        rewards = []
        for command in commands:
            assert command in env.commands
            _, reward, terminated, truncated, info = env.step(command)
            rewards.append(reward)
        assert rewards == [0.0] * (len(commands) - 1) + [1.0]
        assert terminated
        assert not truncated
        assert info["success"]
        assert info["task_type"] == env.game.task_type


@pytest.mark.parametrize("value", ["12", True])
def test_a_reset_option_of_another_kind_is_named(env, value):
    with pytest.raises(ValueError, match=f"max_steps is {value!r}, where a whole number"):
        env.reset(options={"max_steps": value})


def test_consecutive_seeds_play_every_game_once_types_taking_turns(env):
    games = [env.reset(seed=100_000 + i)[1] for i in range(6)]
    assert len({info["game"] for info in games}) == 6
    assert len({info["task_type"] for info in games}) == 6


def test_the_same_seed_gives_the_same_episode_in_a_fresh_engine(env):
    commands = ["look", "inventory", "nonsense", "go to drawer 1"]
    env.reset(seed=4)  # one that has played before
    first = walk(env, commands)
    env.engine.close()
    assert walk(env, commands) == first
    rebuilt = build_env(env.env_args)
    assert walk(rebuilt, commands) == first
    rebuilt.close()


def test_commands_and_answers_are_the_engines_own(env, rng):
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv

    from sim.alfworld.engine import AlfworldPddlEnv

    env.reset(seed=1)
    infos = textworld.EnvInfos(admissible_commands=True)
    plain, quick = (AlfredDemangler(kind(infos)) for kind in (PddlEnv, AlfworldPddlEnv))
    for engine in (plain, quick):
        engine.load(str(env.game.file))
    ours, theirs = quick.reset(), plain.reset()
    for step in range(8):
        assert ours.feedback == theirs.feedback
        assert ours["admissible_commands"] == theirs["admissible_commands"]
        assert {str(f) for f in ours["_facts"]} == {str(f) for f in theirs["_facts"]}
        commands = ours["admissible_commands"]
        change = [c for c in commands if c.startswith(("open", "take", "move", "use", "go to"))]
        command = str(rng.choice(change if step % 4 else commands))
        (ours, *_), (theirs, *_) = quick.step(command), plain.step(command)


def test_a_command_that_is_not_admissible_changes_nothing_but_the_count(env):
    before, info = env.reset(seed=0, options={"max_steps": 2})
    assert info["invalid_command"] is False
    after, reward, terminated, truncated, info = env.step("dance on the fridge 1")
    assert after["admissible_commands"] == before["admissible_commands"]
    assert after["feedback"] == "Nothing happens."
    assert (reward, terminated, truncated, info["invalid_command"]) == (0.0, False, False, True)
    *_, truncated, info = env.step("look")
    assert (truncated, info["invalid_command"]) == (True, False)


def test_options_name_games_and_types(env):
    _, info = env.reset(seed=9, options={"task_type": "look_at_obj_in_light"})
    assert info["task_type"] == "look_at_obj_in_light"
    assert "desklamp" in info["instruction"]
    assert env.reset(options={"game": info["game"]})[1]["game"] == info["game"]
    assert env.reset(options={"game": 3})[1]["game"] == env.games[3].id
    for options, message in (
        ({"game": "nowhere"}, "No game 'nowhere'"),
        ({"task_type": "fly"}, "pick_and_place_simple"),
        ({"object": "mug"}, "Unknown reset options"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)


@pytest.mark.parametrize("what", [signal.SIGSTOP, signal.SIGKILL])
def test_an_engine_that_hangs_or_dies_costs_one_episode(env, what):
    first = env.reset(seed=1)
    env.engine.time_limit_s = 1.0
    os.kill(env.engine.pid, what)
    with pytest.raises(EngineError, match="next reset starts a fresh engine"):
        env.step("look")
    env.engine.time_limit_s = 30.0
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step("look")
    assert env.reset(seed=1) == first


def test_an_engine_ends_after_its_games_and_the_next_one_plays_the_same(env, monkeypatch):
    monkeypatch.setattr(AlfworldEnv, "games_of_an_engine", 2)
    short = AlfworldEnv("train", data=env.env_args["env_kwargs"]["data"], cameras=())
    pids = []
    for seed in (0, 1, 2, 1, 2):
        assert short.reset(seed=seed) == env.reset(seed=seed)
        pids.append(short.engine.pid)
    assert [pids.index(pid) for pid in pids] == [0, 0, 2, 2, 4]
    short.close()


class Fragile(AlfworldEnv):
    """Its engine is killed at the third step of all; counts resets."""

    deaths = resets = 0

    def reset(self, **arguments):
        self.resets += 1
        return super().reset(**arguments)

    def step(self, action):
        if self._steps == 3 and not self.deaths:
            self.deaths = 1
            os.kill(self.engine.pid, signal.SIGKILL)
        return super().step(action)


def test_a_log_whose_engine_dies_is_played_again_and_comes_out_the_same(env):
    order = {"seed": 1, "expert_seed": [0], "expert": "random_command", "noise": 0.0}
    order |= {"reset_options": {"max_steps": 12}, "expert_options": {}}
    fragile = Fragile("train", cameras=())
    log, same = play_surely(fragile, **order), play_demonstration(env, **order)
    assert fragile.resets == 2
    assert list(log["actions"]) == list(same["actions"])
    assert {k: list(v) for k, v in log["texts"].items()} == {
        k: list(v) for k, v in same["texts"].items()
    }
    fragile.close()


def test_a_corrupt_game_is_named_and_the_next_one_goes_on(alfworld_games, tmp_path):
    shutil.copytree(alfworld_games / "generated", tmp_path / "games")
    env = AlfworldEnv("train", data=str(tmp_path / "games"), cameras=())
    file = env.games[0].file
    whole = file.read_text()
    problem = json.loads(whole) | {"pddl_problem": "(define (problem nothing"}
    keyless = {key: value for key, value in json.loads(whole).items() if key != "grammar"}
    unsolvable = json.loads(whole) | {"solvable": False}
    for broken, message in (
        (whole[: len(whole) // 2], "not valid JSON"),
        (json.dumps(keyless), "no grammar"),
        (json.dumps(unsolvable), "marked as unsolvable"),
        (json.dumps(problem), "the engine can't start it.*generate or download it again"),
    ):
        file.write_text(broken)
        with pytest.raises(ValueError, match=f"{env.games[0].folder.name}.*{message}"):
            env.reset(seed=0)
    assert env.reset(seed=1)[1]["game"] == env.games[1].id
    for broken in ("{", "[]", '{"task_type": "fly", "pddl_params": {}}'):
        (env.games[2].folder / "traj_data.json").write_text(broken)
        env.reset(seed=2)
        with pytest.raises(ValueError, match=r"traj_data.json: it tells the expert no task"):
            env.ask_expert({}, 0)
    env.close()


def test_bad_arguments_are_named():
    for arguments, message in (
        ({"cameras": ("front",)}, "view"),
        ({"image_size": 4}, "8 or more"),
        ({"max_steps": 0}, "at least 1"),
        ({"split": "test"}, "valid_unseen"),
        ({"task_types": "pick_and_place_simple"}, "give a list of names"),
    ):
        with pytest.raises(ValueError, match=message):
            AlfworldEnv(**arguments)
    with pytest.raises(ValueError, match=r"argument of the environment alfworld 'splt'.*'split'"):
        build_env({"env_name": "alfworld", "env_kwargs": {"splt": "train"}})


def play(env: AlfworldEnv, failure: str | None, noise: float, seed: int) -> tuple[list[str], bool]:
    _, info = env.reset(seed=seed)
    expert = build_expert(env, failure, noise, np.random.default_rng(seed))
    commands: list[str] = []
    over = False
    while not over and not expert.done:
        commands.append(expert.act())
        *_, terminated, truncated, info = env.step(commands[-1])
        over = terminated or truncated
    return commands, info["success"]


def test_the_expert_solves_every_type_and_the_same_seed_gives_the_same_log(env):
    for turn in range(6):
        commands, success = play(env, None, 0.0, turn)
        assert success, env.game.id
        if turn == 5:  # two objects: the engine says "move" where its expert listens for "put"
            assert len([c for c in commands if c.startswith("move ")]) >= 2
            assert play(env, None, 0.0, turn)[0] == commands


def test_named_failures_fail_in_their_own_way(env):
    for turn in (1, 3):
        target = env.reset(seed=turn)[1]["instruction"]
        commands, success = play(env, "wrong_object", 0.0, turn)
        taken = [c.split()[1] for c in commands if c.startswith("take ")]
        assert not success
        assert taken
        assert taken[0] not in target
        commands, success = play(env, "give_up", 0.0, turn)
        assert success or not any(c.startswith(("go", "take", "move")) for c in commands[14:])
        commands, success = play(env, "cut_short", 0.0, turn)
        assert success or 3 <= len(commands) < 16
    assert not play(env, "wrong_receptacle", 0.0, 1)[1]


def test_noise_is_the_share_of_chance_and_unknown_failures_are_refused(env):
    assert play(env, None, 1.0, 1)[0] != play(env, None, 0.0, 1)[0]
    with pytest.raises(ValueError, match="wrong_object"):
        build_expert(env, "wrong_objekt", 0.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="noise"):
        build_expert(env, None, 2.0, np.random.default_rng(0))
