"""The Python of the README runs as it stands there."""

from __future__ import annotations

import re

import numpy as np

from qsft_robot.training.train import train


def test_the_example_of_a_loop_of_ones_own(config, observations, repository, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    policy = train(config())
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    policy.rename(tmp_path / "runs" / "demo" / "policy")
    monkeypatch.chdir(tmp_path)
    names = {"observation": observations[0]}
    exec(code, names)
    assert names["actions"].shape == (1, 4)
    assert names["actions"].dtype == np.float32
