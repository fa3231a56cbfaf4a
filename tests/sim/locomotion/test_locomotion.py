"""Hopper, HalfCheetah and Walker2d: gymnasium's own steps, agents from files, normalized scores."""

from __future__ import annotations

import json
import warnings

import h5py
import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="pip install 'qsft-robot[train]'")

import gymnasium

from qsft_robot.cli import main
from qsft_robot.logs.reader import iter_episodes
from qsft_robot.parts.simulators import build_env, reference_returns
from qsft_robot.rollouts.summary import normalized
from sim.locomotion.agents import find_agents, read_agent
from sim.locomotion.env import SIZES

SMALL = ["--model.width", "16", "--model.depth", "1", "--optim.batch-size", "8",
         "--optim.behavior-steps", "2", "--optim.value-steps", "2", "--device", "cpu"]  # fmt: skip


def agent_arrays(robot: str, **changes) -> dict[str, np.ndarray]:
    """Weights of a small agent that hardly strays from its mean."""
    rng, (inputs, outputs) = np.random.default_rng(3), SIZES[robot]
    arrays = {
        "hidden_0_weight": rng.normal(size=(5, inputs)), "hidden_0_bias": rng.normal(size=5),
        "hidden_1_weight": rng.normal(size=(4, 5)), "hidden_1_bias": rng.normal(size=4),
        "mean_weight": rng.normal(size=(outputs, 4)), "mean_bias": rng.normal(size=outputs),
        "log_std": np.full(outputs, -20.0), "activation": np.array("tanh"),
        "squash": np.array(False), "obs_mean": rng.normal(size=inputs),
        "obs_var": rng.uniform(0.5, 2.0, inputs),
    }  # fmt: skip
    return {name: x for name, x in (arrays | changes).items() if x is not None}


def saved(path, **changes):
    np.savez(path, **agent_arrays(path.stem.partition("_")[2], **changes))
    return path


@pytest.mark.parametrize("robot", SIZES)
def test_a_step_is_gymnasiums_own_and_a_limit_cuts(robot: str) -> None:
    env = build_env({"env_name": f"gymnasium/{robot}"}, max_steps=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it praises its version 5
        plain = gymnasium.make(f"{robot}-v4")
    seen, _ = env.reset(seed=4)
    wanted, _ = plain.reset(seed=4)
    rng = np.random.default_rng(0)
    for step in range(6):
        np.testing.assert_allclose(seen["observation"], wanted, rtol=1e-6)
        assert seen["observation"].shape == (SIZES[robot][0],)
        action = rng.uniform(-1, 1, SIZES[robot][1])
        seen, reward, terminated, truncated, info = env.step(action)
        wanted, paid, fell, _, _ = plain.step(action)
        assert (reward, terminated, truncated) == (paid, fell, step == 5 and not fell)
        assert "success" not in info
    with pytest.raises(ValueError, match="wants finite numbers"):
        env.step(np.full(SIZES[robot][1], np.nan))


def test_an_agent_acts_by_its_weights(tmp_path) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=11).astype(np.float32) * 100
    arrays = agent_arrays("Hopper")
    normal = (x - arrays["obs_mean"]) / np.sqrt(arrays["obs_var"] + 1e-8)
    hidden = np.tanh(arrays["hidden_0_weight"] @ normal.clip(-10, 10) + arrays["hidden_0_bias"])
    hidden = np.tanh(arrays["hidden_1_weight"] @ hidden + arrays["hidden_1_bias"])
    mean = arrays["mean_weight"] @ hidden + arrays["mean_bias"]
    plain = read_agent(str(saved(tmp_path / "a_Hopper.npz")), 11, 3)
    np.testing.assert_allclose(plain.act(x, rng), mean, atol=1e-6)
    squashed = read_agent(str(saved(tmp_path / "b_Hopper.npz", squash=np.array(True))), 11, 3)
    np.testing.assert_allclose(squashed.act(x, rng), np.tanh(mean), atol=1e-6)
    wide = {"log_std": None, "log_std_weight": np.zeros((3, 4)), "log_std_bias": np.zeros(3)}
    drawn = read_agent(str(saved(tmp_path / "c_Hopper.npz", **wide)), 11, 3)
    spread = np.std([drawn.act(x, rng) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(spread, 1.0, atol=0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean_bias": None}, "has no 'mean_bias'"),
        ({"hidden_0_weight": np.zeros((5, 17))}, r"'hidden_0_weight' is .* \[n, 11\]"),
        ({"log_std": np.zeros(2)}, r"'log_std' is .* \[3\]"),
        ({"obs_var": None}, "has no 'obs_var'"),
        ({"mean_bias": np.full(3, np.nan)}, "finite numbers"),
        ({"activation": np.array("gelu")}, "there are: tanh, relu"),
        ({"squash": None}, "'squash' is missing"),
        ({"activation": np.array([{}], object)}, "no .npz file of plain arrays"),
    ],
)
def test_a_file_that_is_no_agent_of_the_robot_is_refused_by_name(changes, words, tmp_path) -> None:
    path = saved(tmp_path / "ppo_Hopper.npz", **changes)
    with pytest.raises(ValueError, match=words) as refused:
        find_agents("gymnasium/Hopper", ["ppo"], [tmp_path])
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hopper/medium"], "named by --agents"),
        (["hopper/medium", "--agents", "nowhere"], "nowhere: there is no such file or folder"),
        (["hopper/medium", "--agents", "."], "no file of 'a2c' (a2c_Hopper.npz or a2c.npz) among"),
        (["hopper/medium", "--agents", ".", "--mixture", "ppo=1"], "no file of 'ppo'"),
        (["reacher2d/medium", "--agents", "."], "takes no agents"),
    ],
)
def test_agents_that_are_not_there_are_told_before_anything_is_played(
    words, said, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["collect", *words, "--out", "logs.hdf5"]) == 2
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert said in told
    assert not (tmp_path / "logs.hdf5").exists()


def test_the_mean_return_is_scaled_between_a_random_and_an_expert_policy() -> None:
    random, expert = reference_returns("gymnasium/Hopper") or (0.0, 0.0)
    ends = {"mean_return": expert, "mean_return_low": random, "mean_return_high": None}
    score = normalized("gymnasium/Hopper", ends)
    assert score["normalized_score"] == pytest.approx(100.0)
    assert score["normalized_score_low"] == pytest.approx(0.0)
    assert score["normalized_score_high"] is None
    assert normalized("reacher2d", ends) == {}


def as_d4rl(logs, path, timeouts: bool = True) -> None:
    """The logs in the layout of D4RL's files."""
    episodes = list(iter_episodes(logs))
    ends = [np.arange(len(x)) == len(x) - 1 for x in episodes]
    columns = {
        "observations": [x.observations["observation"][:-1] for x in episodes],
        "next_observations": [x.observations["observation"][1:] for x in episodes],
        "actions": [x.actions for x in episodes],
        "rewards": [x.rewards for x in episodes],
        "terminals": [end & x.terminated for end, x in zip(ends, episodes, strict=True)],
        "timeouts": [end & x.truncated for end, x in zip(ends, episodes, strict=True)],
    }
    with h5py.File(path, "w") as file:
        for name, parts in columns.items():
            if timeouts or name != "timeouts":
                file[name] = np.concatenate(parts)
        file["metadata/algorithm"] = "any"
        file["infos/qpos"] = np.zeros((len(file["rewards"]), 6))


def test_d4rls_files_train_as_our_own_logs_do(tmp_path, capsys) -> None:
    saved(tmp_path / "mine_Hopper.npz")
    logs, flat = tmp_path / "logs.hdf5", tmp_path / "hopper_medium.hdf5"
    words = ["collect", "--env", "gymnasium/Hopper", "--agents", str(tmp_path / "mine_Hopper.npz")]
    words += ["--episodes", "8", "--workers", "1", "--env-kwargs", "max_steps=12"]
    assert main([*words, "--out", str(logs)]) == 0
    played = list(iter_episodes(logs))
    # A limit of steps says nothing of a task that tells no success; a fall does.
    assert all(x.truncated == (len(x) == 12) != x.terminated for x in played)
    as_d4rl(logs, flat)
    words = ["import-npz", str(flat), "--env", "gymnasium/Hopper", "--out"]
    assert main([*words, str(tmp_path / "read.hdf5")]) == 0
    for one, other in zip(played, iter_episodes(tmp_path / "read.hdf5"), strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.rewards, other.rewards)
        np.testing.assert_array_equal(*(x.observations["observation"] for x in (one, other)))
        assert (one.terminated, one.truncated) == (other.terminated, other.truncated)
    asked = ["train", "--preset", "hopper/states", "--data.path", str(tmp_path / "read.hdf5")]
    lamo = ["lamo", "--lamo.head", "continuous", "--model.history", "3"]
    for method in (lamo, ["qsft"]):
        run = tmp_path / method[0]
        assert main([*asked, "--method", *method, *SMALL, "--out", str(run)]) == 0
        capsys.readouterr()
        words = ["evaluate", str(run), "--episodes", "2", "--workers", "1", "--seed", "5000"]
        assert main([*words, "--env", "hopper/medium", "--env-kwargs", "max_steps=6"]) == 0
        told = capsys.readouterr().out
        (path,) = run.glob("evaluation/*/summary.json")
        summary = json.loads(path.read_text())
        assert f"normalized score {summary['normalized_score']:.4g}" in told
        assert summary["reference_returns"]["expert"] == 3234.3
        assert summary["success_rate"] is None


def test_d4rls_files_without_timeouts_are_refused_where_episodes_run_together(
    tmp_path, capsys
) -> None:
    saved(tmp_path / "mine_HalfCheetah.npz")
    words = ["collect", "--env", "gymnasium/HalfCheetah", "--agents", str(tmp_path), "--workers"]
    words += ["1", "--episodes", "2", "--env-kwargs", "max_steps=5", "--out"]
    assert main([*words, str(tmp_path / "logs.hdf5")]) == 0
    as_d4rl(tmp_path / "logs.hdf5", tmp_path / "flat.hdf5", timeouts=False)
    capsys.readouterr()
    words = ["import-npz", str(tmp_path / "flat.hdf5"), "--out", str(tmp_path / "read.hdf5")]
    assert main(words) == 2
    assert "has no 'timeouts'" in capsys.readouterr().err
