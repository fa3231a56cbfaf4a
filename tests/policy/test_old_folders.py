"""Folders that an earlier version wrote open, act and go on training as they did there."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qsft_robot.cli import main
from qsft_robot.policy.open import open_policy
from qsft_robot.types import Observation

DATA = Path(__file__).parents[1] / "data" / "format_e03bdf4"
POLICIES = ("policy", "policy_k2", "policy_behaviour")
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives, unpacked: three exported policies, two runs that were stopped, their logs."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("old")
    for archive in sorted(DATA.glob("*.tar.xz")):
        with tarfile.open(archive) as file:
            file.extractall(root, filter="data")
    return root


def acted(policy: Any) -> tuple[list[Any], list[Any]]:
    """Actions and values on the recorded observations, each log with its own seed."""
    recorded, actions, values = EXPECTED["observations"], [], []
    for seed, (log, text) in enumerate(
        zip(recorded["state"], recorded["instructions"], strict=True)
    ):
        memory, decisions = policy.begin_episode(seed), []
        for row in log:
            state = {key: np.array(x, np.float32) for key, x in row.items()}
            decisions += policy.infer_batch([Observation({}, state, text)], [memory])
        actions.append([each.actions.tolist() for each in decisions])
        values.append([each.value for each in decisions])
    return actions, values


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
@pytest.mark.parametrize("name", POLICIES)
def test_an_exported_policy_gives_the_same_actions_and_values(folders, name, runtime):
    actions, values = acted(open_policy(folders / name, runtime=runtime))
    expected = EXPECTED[f"{name}/{runtime}"]
    np.testing.assert_allclose(actions, expected["actions"], rtol=0, atol=1e-6)
    assert (values[0][0] is None) == (name == "policy_behaviour")
    np.testing.assert_allclose(
        np.array(values, float), np.array(expected["values"], float), atol=1e-5
    )


@pytest.mark.parametrize("name", ["run_behaviour", "run_value"])
def test_a_run_that_was_stopped_goes_on_to_the_same_policy(folders, name, monkeypatch):
    """Stopped in the stage of the behavior, and in that of the value."""
    monkeypatch.chdir(folders)
    before = Path(name, "metrics.jsonl").read_text().splitlines()
    assert main(["train", "--resume", name]) == 0
    lines, expected = Path(name, "metrics.jsonl").read_text().splitlines(), EXPECTED[name]
    assert lines[: len(before)] == before
    assert len(lines) == expected["lines"]
    last = json.loads(lines[-1])
    for key in ("step", "loss/total", "q/value_mean", "q/target_mean"):
        assert last[key] == pytest.approx(expected["metrics"][key], rel=1e-3), key
    _, values = acted(open_policy(name, runtime="torch"))
    np.testing.assert_allclose(values, expected["values"], atol=1e-3)
