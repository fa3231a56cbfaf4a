"""What a policy does becomes logs: whole, replayable, and fit to train on with the earlier ones."""

import argparse
import importlib.util
import sys

import numpy as np
import pytest

from qsft_robot.cli import main
from qsft_robot.files import read_json
from qsft_robot.logs.reader import read_env_args, read_episodes, read_masks
from qsft_robot.rollouts.collect_policy import collect_with_policy
from qsft_robot.rollouts.playback import playback
from qsft_robot.types import Decision

ENV = {
    "env_name": "tabletop",
    "env_kwargs": {"task": "place", "cameras": ["front"], "image_size": 24, "max_steps": 9},
}


class Reaching:
    """Moves towards the target key, two steps at a time; without randomness."""

    def begin_episode(self, seed):
        return seed

    def infer_batch(self, observations, memories):
        def towards(observation, step):
            reach = observation.state["target"][:3] - observation.state["proprio"][:3]
            return np.append(np.clip(5 * reach / (1 + step), -1, 1), 1.0)

        return [
            Decision(np.stack([towards(o, k) for k in range(2)]).astype(np.float32), 0.5)
            for o in observations
        ]


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    path = tmp_path_factory.mktemp("flywheel") / "own.hdf5"
    report = collect_with_policy(
        Reaching(), ENV, path, 6, seed=3, envs_per_worker=2, attributes={"policy": "reaching"},
        progress=False,
    )  # fmt: skip
    return path, report


def test_every_step_of_a_policys_episodes_is_logged_and_replays(collected):
    path, report = collected
    logs = read_episodes(path, require_reward=False)
    assert (report.episodes, report.broken) == (len(logs), 0) == (6, 0)
    assert report.steps == sum(map(len, logs))
    for log in logs:
        # The step limit was used, or the task was done.
        assert log.terminated
        assert log.success or len(log) == 9
        assert log.instruction.startswith("put the")
        assert log.attributes["policy"] == "reaching"
        assert log.observations["front_image"].shape == (len(log) + 1, 24, 24, 3)
        assert playback(path, log.name).accepted


def test_masks_tell_the_policys_logs_and_hold_some_out(collected):
    path, _ = collected
    masks = read_masks(path)
    assert masks["policy"] == masks["mixed"] == [f"demo_{i}" for i in range(6)]
    assert sorted(masks["train"] + masks["valid"]) == masks["mixed"]
    assert len(masks["valid"]) == 1
    assert read_env_args(path)["env_kwargs"] == {**ENV["env_kwargs"], "image_size": [24, 24]}


def test_a_policys_logs_are_the_same_for_any_number_of_workers(collected, tmp_path):
    path, _ = collected
    collect_with_policy(
        Reaching(), ENV, tmp_path / "one.hdf5", 6, seed=3, workers=1, envs_per_worker=3,
        progress=False,
    )  # fmt: skip
    for a, b in zip(
        read_episodes(path, require_reward=False),
        read_episodes(tmp_path / "one.hdf5", require_reward=False),
        strict=True,
    ):
        assert a.attributes["seed"] == b.attributes["seed"]
        assert np.array_equal(a.actions, b.actions)
        assert all(np.array_equal(a.observations[k], b.observations[k]) for k in a.observations)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"episodes": 0}, "at least 1"),
        ({"seed": -1}, "0 or more"),
        ({"valid_fraction": 1.0}, r"\[0, 1\)"),
    ],
)
def test_a_collection_that_makes_no_sense_is_refused(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        collect_with_policy(Reaching(), ENV, tmp_path / "a.hdf5", **{"episodes": 1, **arguments})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--policy", "runs/a", "--noise", "0.1"], "a --policy takes --acting"),
        (["--acting", "k=2"], "name the policy (--policy RUN)"),
        (["--policy", "runs/a"], "no such folder"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "tabletop/place", "--out", "a.hdf5", *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def load_script(name, repository, monkeypatch):
    path = repository / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, script)
    spec.loader.exec_module(script)
    return script


def test_rest_counts_its_episodes_and_plays_none_of_the_evaluation(
    tmp_path, repository, monkeypatch, capsys
):
    flywheel = load_script("run_flywheel", repository, monkeypatch)
    rest = load_script("run_rest", repository, monkeypatch)
    out = tmp_path / "rest"
    words = "--logs 40 --own-logs 8 --rounds 1 --seeds 1 --episodes 4 --improve filtered_sft"
    tiny = "--model.width 16 --model.depth 1 --optim.batch-size 8 --optim.behavior-steps 2 "
    tiny += "--optim.value-steps 2"
    asked = ["run_rest.py", "--out", str(out), *words.split(), "--share", "0.5", "--train", tiny]
    monkeypatch.setattr(sys, "argv", asked)
    rest.main()
    rows = read_json(out / "rest.json")["rows"]
    assert [row["episodes"] for row in rows] == [40, 48]
    assert [row["logs"] for row in rows] == [40, 48]
    assert all(row["n"] == 4 and -6 <= row["mean_return"] <= 0 for row in rows)
    assert read_json(out / "filtered_sft/0/run_1/config.json")["filtered_share"] == 0.5
    assert "| filtered_sft | 1 | 48 |" in capsys.readouterr().out
    before = (out / "filtered_sft/0/flywheel.log").read_text()
    rest.main()  # everything is there
    assert (out / "filtered_sft/0/flywheel.log").read_text() == before
    monkeypatch.setattr(flywheel, "env_seed", lambda seed, index: 100_000 + index)
    with pytest.raises(ValueError, match="would play the evaluation's seeds"):
        rest.main()
    monkeypatch.setattr(rest, "env_seed", lambda seed, index: 100_000 + index)
    with pytest.raises(ValueError, match="the scripted logs of seed 0 hold the evaluation's"):
        rest.main()


def test_one_turn_of_the_flywheel_runs_through(tmp_path, repository, monkeypatch, capsys):
    script = load_script("run_flywheel", repository, monkeypatch)
    out = tmp_path / "flywheel"
    words = "--seeds 1 --logs 16 --own-logs 4 --episodes 2 --train"
    tiny = "--model.width 16 --model.depth 1 --optim.batch-size 8 --optim.behavior-steps 2 "
    monkeypatch.setattr(
        sys, "argv",
        ["run_flywheel.py", "--out", str(out), *words.split(), tiny + "--optim.value-steps 2"],
    )  # fmt: skip
    script.main()
    result = read_json(out / "flywheel.json")
    assert [row["logs"] for row in result["rows"]] == [16, 20]
    assert all(row["n"] == 2 for row in result["rows"])
    masks = read_masks(out / "0" / "logs_1.hdf5")
    assert len(masks["mixed"]) == 20
    assert masks["policy"] == [f"demo_{i}" for i in range(16, 20)]
    assert "| turn |" in capsys.readouterr().out
    # A second run finds everything done.
    script.main()
    assert read_json(out / "flywheel.json")["rows"] == result["rows"]


def test_no_turn_plays_an_episode_of_the_evaluation(repository, monkeypatch):
    path = repository / "scripts" / "run_flywheel.py"
    spec = importlib.util.spec_from_file_location("run_flywheel", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_flywheel", module)
    spec.loader.exec_module(module)
    options = argparse.Namespace(own_logs=50, episodes=200)
    chosen = {module.seed_of(turn, seed, options) for turn in (1, 2) for seed in range(3)}
    assert len(chosen) == 6
    monkeypatch.setattr(module, "env_seed", lambda seed, index: 100_100 + index)
    with pytest.raises(ValueError, match="turn 1 would play the evaluation's seeds"):
        module.seed_of(1, 0, options)
