"""Logs and policies name the versions of their simulator, and other ones are told of once."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version

import h5py
import pytest

from qsft_robot import versions
from qsft_robot.cli import main
from qsft_robot.logs.merge import merge_files
from qsft_robot.logs.reader import read_env_args
from qsft_robot.versions import compare_files, compare_with_installed, joined_versions

HERE = {name: version(name) for name in ("mujoco", "gymnasium", "numpy")}


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    path = tmp_path_factory.mktemp("logs") / "logs.hdf5"
    assert main(["collect", "tabletop/pick", "--out", str(path), "--episodes", "2",
                 "--workers", "1", "--cameras"]) == 0  # fmt: skip
    return path


def from_other_versions(path, out, **numbers):
    """A copy of a file that says that it was made with other versions."""
    out.write_bytes(path.read_bytes())
    with h5py.File(out, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        env_args["versions"] |= numbers
        file["data"].attrs["env_args"] = json.dumps(env_args)
    return out


def test_logs_name_what_simulated_them(logs):
    assert read_env_args(logs)["versions"] == HERE


def test_a_replay_says_once_that_the_simulator_is_another(logs, tmp_path, capsys):
    assert main(["playback", str(logs), "--strict-versions"]) == 0
    assert "come from" not in capsys.readouterr().err
    other = from_other_versions(logs, tmp_path / "other.hdf5", mujoco="3.9.0")
    with pytest.warns(UserWarning, match="come from") as told:
        assert main(["playback", str(other)]) == 0
    (line,) = [str(each.message) for each in told if "come from" in str(each.message)]
    assert line.startswith(
        f"the logs of {other} come from mujoco 3.9.0, but mujoco {HERE['mujoco']}"
    )
    assert main(["playback", str(other), "--strict-versions"]) == 2
    assert "refused by --strict-versions" in capsys.readouterr().err


def test_files_of_different_simulators_are_told_of_and_keep_all_versions(logs, tmp_path):
    other = from_other_versions(logs, tmp_path / "other.hdf5", mujoco="3.9.0")
    out = tmp_path / "both.hdf5"
    words = ["merge", str(logs), str(other), "--out", str(out)]
    assert main([*words, "--strict-versions"]) == 2
    assert not out.exists()
    with pytest.warns(UserWarning, match="come from") as told:
        assert main(words) == 0
    (line,) = [str(each.message) for each in told]
    assert f"mujoco: {HERE['mujoco']} ({logs}), 3.9.0 ({other})" in line
    assert read_env_args(out)["versions"] == {**HERE, "mujoco": f"{HERE['mujoco']} and 3.9.0"}
    with pytest.warns(UserWarning, match="mujoco 3.3.7 and 3.9.0"):
        compare_with_installed(read_env_args(out)["versions"], "the logs")
    # Joined again with one of them nothing is said twice.
    with pytest.warns(UserWarning, match="different versions of mujoco"):
        merge_files([out, logs], tmp_path / "again.hdf5")
    assert read_env_args(tmp_path / "again.hdf5")["versions"] == read_env_args(out)["versions"]


def test_robomimics_own_version_is_read_and_unknown_ones_pass_unless_strict():
    mimic = {"env_name": "Lift", "type": 1, "env_version": "1.4.1"}
    assert versions.recorded_versions(mimic) == {"robosuite": "1.4.1"}
    assert versions.recorded_versions({"env_name": "arm"}) == {}
    with pytest.raises(ValueError, match="no version by package"):
        versions.recorded_versions({"versions": ["3.3.7"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_with_installed({}, "the logs")
        compare_with_installed(HERE, "the logs", strict=True)
        compare_files({"a": HERE, "b": {}})
    with pytest.raises(ValueError, match="tell no versions"):
        compare_with_installed({}, "the logs", strict=True)


def test_joined_versions_are_each_named_once():
    assert joined_versions([{"a": "1 and 2"}, {"a": "2"}, {"b": "3"}]) == {"a": "1 and 2", "b": "3"}


def test_the_versions_of_everything_that_results_rest_on_are_listed():
    told = versions.software_versions()
    for name in ("transformers", "peft", "onnxruntime", "open_clip_torch", "alfworld", "textworld"):
        assert name in told
    assert told["mujoco"] == HERE["mujoco"]


@pytest.fixture(scope="module")
def run_of_another(logs, tmp_path_factory):
    """A run whose logs another MuJoCo made, in a folder that a shell would split."""
    folder = tmp_path_factory.mktemp("run of another")
    other = from_other_versions(logs, folder / "other.hdf5", mujoco="3.9.0")
    assert main(["train", "--data.path", str(other), "--out", str(folder / "run"),
                 "--optim.behavior-steps", "1", "--optim.value-steps", "1",
                 "--model.width", "16", "--model.depth", "1"]) == 0  # fmt: skip
    return folder / "run"


@pytest.mark.parametrize("verb", ["evaluate", "collect", "run"])
def test_what_acts_in_another_simulator_than_its_logs_says_so_or_refuses(
    run_of_another, tmp_path, capsys, verb
):
    out = tmp_path / "out"
    words = {
        "evaluate": [run_of_another, "--episodes", 1, "--max-steps", 2, "--workers", 1],
        "collect": ["tabletop/pick", "--policy", run_of_another, "--out", out, "--episodes", 1,
                    "--workers", 1, "--cameras", "--env-kwargs", "max_steps=2"],
        "run": [run_of_another, "--robot", "env", "--out", out, "--seconds", 0.2],
    }[verb]  # fmt: skip
    words = [verb, *map(str, words)]
    assert main([*words, "--strict-versions"]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert f"come from mujoco 3.9.0, but mujoco {HERE['mujoco']} simulates here" in line
    assert "refused by --strict-versions" in line
    assert not out.exists()
    with pytest.warns(UserWarning, match=r"come from mujoco 3\.9\.0"):
        assert main(words) == 0
