"""Any gymnasium environment is named on the command line: its keys, its success, its module."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qsft_robot.cli import main
from qsft_robot.logs.reader import iter_episodes, read_env_args
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.parts.env_observations import as_mapping
from qsft_robot.parts.simulators import unknown_environment
from qsft_robot.types import Episode

NESTED = "gymnasium:rollout_environments:NestedPoint-v0"
FLAGS = (
    "--method filtered_sft --data.state-keys position --model.width 32 --model.depth 1 "
    "--tokenizer.kind uniform_bins --tokenizer.n-bins 8 "
    "--optim.behavior-steps 60 --optim.batch-size 16 --device cpu"
)
WORDS = FLAGS.split()
KEYS = ["--env-keys", "position=agent.position"]


def log(number: int) -> Episode:
    """A log that goes to the goal in the straightest way, or away from it."""
    rng = np.random.default_rng(number)
    way, goal = (1.0 if number % 2 else -1.0), rng.uniform(1, 3)
    steps = 6
    x = 0.5 * way * np.arange(steps + 1)
    actions = np.stack([np.full(steps, way), rng.uniform(-1, 1, steps)], axis=1)
    return Episode(
        name=f"demo_{number}",
        observations={"position": np.stack([x, np.full(steps + 1, goal)], axis=1)},
        actions=actions.astype(np.float32),
        rewards=np.eye(steps, dtype=np.float32)[-1] * (way > 0),
        terminated=True,
        truncated=False,
        success=way > 0,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A policy of logs that name an environment that nobody has."""
    folder = tmp_path_factory.mktemp("any")
    logs = folder / "logs.hdf5"
    write_demonstrations(logs, map(log, range(12)), {"env_name": "SomebodysPoint-v3"})
    out = ["--out", str(folder / "run")]
    assert main(["train", "--data.path", str(logs), *WORDS, *out]) == 0
    return folder / "run"


def test_an_environment_that_nobody_has_is_said_at_once(run, tmp_path, capsys):
    logs = run.parent / "logs.hdf5"
    assert main(["inspect", str(logs), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    (said,) = [x["message"] for x in findings if x["check"] == "unknown-environment"]
    assert "'SomebodysPoint-v3'" in said
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", "--data.path", str(logs), *WORDS, *out]) == 0
    assert "note: " + str(logs) in (notes := capsys.readouterr().err)
    assert "'SomebodysPoint-v3'" in notes


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("tabletop", True),
        ("Lift", True),
        ("gymnasium:Pendulum-v1", True),
        ("gymnasium:rollout_environments:Point-v0", True),
        ("lerobot:so101", True),
        ("", True),
        (None, True),
        ("gymnasium:NoSuchThing-v1", False),
        ("gymnasium:no_such_module:A-v0", False),
        ("Lft", False),
    ],
)
def test_environments_that_can_be_simulated_are_told_from_others(name, known):
    said = unknown_environment(name)
    assert (said is None) == known
    assert known or repr(name) in said
    assert name != "Lft" or "did you mean 'Lift'?" in said


def evaluated(run, *words):
    flags = ["--name", "any", "--episodes", "4", "--workers", "1", "--device", "cpu"]
    assert main(["evaluate", str(run), "--env", NESTED, *flags, *words]) == 0
    return json.loads((run / "evaluation" / "any" / "summary.json").read_text())


def test_nested_observations_get_dotted_keys():
    inner = {"a": {"b": {"c": np.zeros(2)}, "t": "text"}, "d": (np.ones(1), {"e": np.ones(3)})}
    found = as_mapping(inner)
    assert {key: np.shape(x) for key, x in found.items()} == {
        "a.b.c": (2,), "a.t": (), "d.0": (1,), "d.1.e": (3,)
    }  # fmt: skip
    assert list(as_mapping(np.zeros(3))) == ["observation"]


@pytest.mark.parametrize("key", ["goal.done", "arrived"])
def test_success_is_read_from_info_or_from_the_environment(run, key):
    summary = evaluated(run, *KEYS, "--env-success-key", key)
    assert summary["success_rate"] == summary["mean_return"] == 1.0
    assert summary["env_args"]["success_key"] == key
    assert summary["env_args"]["observation_keys"] == {"position": "agent.position"}


def test_without_its_key_no_success_is_told(run):
    assert evaluated(run, *KEYS)["success_rate"] is None


def test_a_policy_collects_there_and_the_logs_say_how_they_were_read(run, tmp_path):
    out = tmp_path / "own.hdf5"
    words = ["--episodes", "3", "--workers", "1", "--device", "cpu", "--out", str(out)]
    told = [*KEYS, "--env-success-key", "arrived"]
    assert main(["collect", "--env", NESTED, "--policy", str(run), *told, *words]) == 0
    logs = list(iter_episodes(out))
    assert all(log.success for log in logs)
    assert set(logs[0].observations) == {"position", "clock.0"}
    env_args = read_env_args(out)
    assert env_args["env_name"] == NESTED
    assert env_args["success_key"] == "arrived"
    replay = ["playback", str(out), "--import-env", "rollout_environments"]
    assert main(replay) == 0


def test_the_control_loop_drives_it_by_the_same_words(run, tmp_path, capsys):
    words = ["run", str(run / "policy"), "--env", NESTED, *KEYS, "--device", "cpu"]
    words += ["--control-hz", "20", "--seconds", "2", "--out", str(tmp_path / "robot")]
    words += ["--limits-off", "change"]  # in each of the logs the first number stays as it is
    told = ["--env-success-key", "arrived"]
    assert main([*words, "--robot", "env", *told]) == 0
    (log,) = iter_episodes(tmp_path / "robot" / "logs.hdf5")
    assert log.success
    assert set(log.observations) == {"position", "clock.0"}
    assert read_env_args(tmp_path / "robot" / "logs.hdf5")["success_key"] == "arrived"
    capsys.readouterr()
    assert main([*words, "--robot", "mujoco"]) == 2
    assert "--env-keys are for --robot env and robosuite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env", NESTED, "--env-keys", "position=agent.positon"], "Did you mean agent.position"),
        (["--env", NESTED, "--env-keys", "position"], "give name=value"),
        (["--env", NESTED], "'position'"),
        (["--env", "tabletop/plac"], "Did you mean 'tabletop/place'?"),
        (["--env", "gymnasium:no_such_module:A-v0"], "no_such_module"),
        (["--env", "gymnasium:Pendulum-v9"], "Pendulum"),
        ([], "SomebodysPoint-v3"),
    ],
)
def test_what_does_not_fit_is_one_line(run, capsys, words, said):
    flags = ["--episodes", "2", "--workers", "1", "--device", "cpu"]
    assert main(["evaluate", str(run), *words, *flags]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("error: ")
    assert said in errors[-1]
    assert "Traceback" not in "".join(errors)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "takes a recipe"),
        (["tabletop/pick", "--env", NESTED], "one of the two"),
        (["--env", NESTED], "name the policy that acts there (--policy)"),
    ],
)
def test_collect_needs_one_place_and_somebody_who_acts(tmp_path, capsys, words, said):
    assert main(["collect", *words, "--out", str(tmp_path / "a.hdf5")]) == 2
    assert said in capsys.readouterr().err
