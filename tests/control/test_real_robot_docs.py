"""The example of docs/real_robot.md runs as it stands there."""

from __future__ import annotations

import re

import numpy as np
import pytest

from qsft_robot import cli
from qsft_robot.logs.reader import read_episodes
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.types import Episode


@pytest.fixture
def example(repository, tmp_path):
    """The Python of the page, as the file that it says."""
    (code,) = re.findall(r"```python\n(.*?)```", (repository / "docs/real_robot.md").read_text(),
                         re.DOTALL)  # fmt: skip
    path = tmp_path / "my_arm.py"
    path.write_text(code)
    return path


@pytest.fixture
def policy(tmp_path, monkeypatch):
    """A policy trained on logs of such an arm."""
    pytest.importorskip("torch")
    monkeypatch.setenv("QSFT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)

    def log(i: int) -> Episode:
        joints = np.cumsum(rng.uniform(-0.05, 0.05, (13, 6)), axis=0).astype(np.float32)
        images = rng.integers(0, 255, (13, 64, 64, 3), np.uint8)
        return Episode(
            f"demo_{i}", {"front_image": images, "joints": joints}, joints[1:],
            np.eye(12, dtype=np.float32)[-1], terminated=True, truncated=False, success=True,
            instruction="wave",
        )  # fmt: skip

    env_args = {"env_name": "my arm", "type": 2, "control_hz": 20.0}
    write_demonstrations(tmp_path / "logs.hdf5", [log(i) for i in range(3)], env_args)
    words = ["train", "--data.path", tmp_path / "logs.hdf5", "--data.state-keys", "joints",
             "--data.cameras", "front_image", "--model.width", 16, "--model.depth", 1,
             "--tokenizer.horizon", 4, "--optim.batch-size", 8, "--optim.behavior-steps", 1,
             "--optim.value-steps", 1, "--out", tmp_path / "run"]  # fmt: skip
    assert cli.main([str(word) for word in words]) == 0
    return tmp_path / "run"


def test_the_example_is_at_most_forty_lines(example):
    assert len(example.read_text().splitlines()) <= 40


def test_the_example_runs_under_the_limits_of_its_logs(example, policy, tmp_path, capsys):
    words = ["run", policy, "--robot", "own", "--robot-from", f"{example}:MyArm",
             "--robot-settings", "port=x", "--seconds", 0.5, "--out", tmp_path / "out",
             "--outcome", "success", "--stop-after", 60]  # fmt: skip
    assert cli.main([str(word) for word in words]) == 0
    assert "robot my arm at 20 Hz, chunks of 4" in capsys.readouterr().out
    (made,) = read_episodes(tmp_path / "out" / "logs.hdf5")
    logs = read_episodes(tmp_path / "logs.hdf5")
    largest = max(np.abs(np.diff(e.actions, axis=0)).max() for e in logs)
    assert np.abs(np.diff(made.actions, axis=0)).max() <= largest + 1e-6
    assert made.instruction == "wave"
