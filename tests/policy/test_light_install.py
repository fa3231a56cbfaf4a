"""A robot's computer: the wheel and its base dependencies alone, no torch, and a policy runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from qsft_robot.policy.token_policy import load_policy
from qsft_robot.types import Observation

# What a control computer imports.
LIGHT = [
    f"qsft_robot.{name}"
    for name in (
        "types", "policy.folder", "policy.onnx_policy", "build", "cli", "server.server",
        "control.robot",
        "server.remote_policy", "control.loop", "control.run_log", "logs.writer", "logs.merge",
    )
]  # fmt: skip
RUN = """
import importlib, json, sys
from pathlib import Path
import numpy as np
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
from qsft_robot.policy.open import open_policy
from qsft_robot.types import Observation

seen = np.load("seen.npz")
policy = open_policy(Path("policy"))
policy.reset(seed=4)
images = [key for key in seen if seen[key].dtype == np.uint8]
actions = [
    policy.infer(
        Observation(
            {key: seen[key][t] for key in images},
            {key: seen[key][t] for key in seen if key not in images},
            "lift the cube",
        )
    )
    for t in range(6)
]
np.save("actions.npy", np.stack(actions))
assert not {"torch", "jaxtyping", "safetensors", "gymnasium", "mujoco"} & set(sys.modules)
try:
    open_policy(Path("checkpoint"))
except ImportError as error:
    print(error)
try:
    import torch
except ModuleNotFoundError:
    print("no torch here")
"""


def needed(name: str, found: dict[str, Distribution]) -> None:
    """A distribution and, again and again, what it requires without extras."""
    if name.lower() in found:
        return
    found[name.lower()] = dist = distribution(name)
    for line in dist.requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed(requirement.name, found)


@pytest.fixture(scope="module")
def robot_python(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The interpreter of a fresh environment: base dependencies linked into it, the wheel
    installed by pip; needs no network."""
    base = tmp_path_factory.mktemp("robot")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", base / "env"], check=True)
    (packages,) = base.glob("env/lib/python*/site-packages")
    found: dict[str, Distribution] = {}
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        needed(Requirement(line).name, found)
    assert {"numpy", "onnxruntime", "websockets", "msgpack", "h5py"} <= set(found)
    for dist in found.values():
        for top in {Path(str(file)).parts[0] for file in dist.files or []} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(dist.locate_file(top))))
    source = base / "source"
    for name in ("qsft_robot", "vlm", "tokenizers_action", "sim"):
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / name, source / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(base)]
    run([sys.executable, *build], source)
    python = base / "env" / "bin" / "python"
    (wheel,) = base.glob("*.whl")
    run([sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index",
         "--no-deps", "--quiet", str(wheel)], base)  # fmt: skip
    return python


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_runs_an_exported_policy_where_torch_is_not(robot_python, exported, tmp_path):
    checkpoint, folder, _ = exported("pixels and state, ratio")
    shutil.copytree(folder, tmp_path / "policy")
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    rng = np.random.default_rng(2)
    seen = {key: rng.integers(0, 256, (6, 16, 24, 3), np.uint8) for key in ("front", "wrist")}
    seen |= {"joints": rng.normal(size=(6, 4)), "gripper": rng.normal(size=(6, 1))}
    np.savez(tmp_path / "seen.npz", **seen)
    said = run([str(robot_python), "-c", RUN, json.dumps(LIGHT)], tmp_path).splitlines()
    assert "pip install 'qsft-robot[train]'" in said[0]
    assert said[1:] == ["no torch here"]
    expected = act(checkpoint, seen)
    np.testing.assert_array_equal(np.load(tmp_path / "actions.npy"), expected)


def act(checkpoint: Path, seen: dict[str, np.ndarray]) -> np.ndarray:
    """What torch decides here."""
    policy = load_policy(checkpoint)
    policy.reset(seed=4)
    cameras = ("front", "wrist")
    return np.stack(
        [
            policy.infer(
                Observation(
                    {key: seen[key][t] for key in cameras},
                    {key: x[t] for key, x in seen.items() if key not in cameras},
                    "lift the cube",
                )
            )
            for t in range(6)
        ]
    )


def test_its_command_answers_there(robot_python, tmp_path):
    command = robot_python.parent / "qsft-robot"
    assert "serve" in run([str(command), "--help"], tmp_path)
