"""The three examples of docs/extending.md, as packages outside of the repository, end to end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qsft_robot.files import sha256_of

EXAMPLES = {
    "line_simulator": ("simulators", "line = line_simulator"),
    "steps_tokenizer": ("tokenizers", "steps = steps_tokenizer:StepsTokenizer"),
    "return_weighted_method": ("methods", "return_weighted = return_weighted_method:METHOD"),
}
TRY = """
from qsft_robot.{place} import *
try:
    {call}
except ValueError as error:
    print(error)
"""
SERVE = """
import numpy as np
from qsft_robot import Observation, open_policy
from qsft_robot.server.config import ServerConfig
from qsft_robot.server.remote_policy import RemotePolicy
from qsft_robot.server.running import serving

seen = Observation({}, {"position": np.array([0.0, 2.0], np.float32)}, "reach the goal")
torch, onnx = (open_policy("run/policy", runtime=runtime) for runtime in ("torch", "onnx"))
for policy in (torch, onnx):
    policy.reset(seed=1)
wanted = torch.infer(seen)
np.testing.assert_allclose(onnx.infer(seen), wanted, atol=1e-5)
assert wanted.tolist() == [[1.0]], wanted
with serving(open_policy("run/policy"), ServerConfig(port=0)) as server:
    remote = RemotePolicy(server.url)
    remote.reset(seed=1)
    np.testing.assert_allclose(remote.infer(seen), wanted, atol=1e-5)
    remote.close()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the three examples are installed, each a module and an entry point."""
    root = Path(__file__).resolve().parents[1]
    home = tmp_path_factory.mktemp("others")
    (home / "site").mkdir()
    for name, (kind, point) in EXAMPLES.items():
        shutil.copy(root / "docs" / "examples" / f"{name}.py", home / "site")
        info = home / "site" / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[qsft_robot.{kind}]\n{point}\n")
    return home


def run(home: Path, *words: str) -> str:
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([str(home / "site"), root])
    done = subprocess.run(
        [sys.executable, *words], cwd=home, capture_output=True, text=True, timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "QSFT_CACHE": str(home / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_method_a_simulator_and_a_tokenizer_of_others_go_all_the_way(home: Path) -> None:
    cli = ("-m", "qsft_robot.cli")
    run(
        home,
        *cli,
        "collect",
        "line/mixed",
        "--episodes",
        "30",
        "--workers",
        "1",
        "--out",
        "logs.hdf5",
    )
    settings = [
        *("--preset", "line/small", "--data.path", "logs.hdf5", "--tokenizer.kind", "steps"),
        *("--method", "return_weighted", "--method-settings", "temperature=0.1"),
        *("--checkpoint-every", "40", "--device", "cpu"),
    ]
    steps = ["--optim.behavior-steps", "60", "--optim.value-steps", "60"]
    run(home, *cli, "train", *settings, *steps, "--out", "run")
    weights = sha256_of(home / "run" / "policy" / "weights.safetensors")
    stopped = """
import shutil
from pathlib import Path
from qsft_robot.training.train import resume_config, train
shutil.copytree("run", "again")
config = resume_config(Path("again"))
shutil.rmtree("again")
train(config, stop_after=70)
"""
    run(home, "-c", stopped)
    run(home, *cli, "train", "--resume", "again")
    assert sha256_of(home / "again" / "policy" / "weights.safetensors") == weights
    run(home, *cli, "export", "run")
    run(home, *cli, "evaluate", "run", "--episodes", "20", "--workers", "1")
    summary = json.loads((home / "run/evaluation/policy/summary.json").read_text())
    # Half of the logs walk the other way; steps of returns of 1 are drawn far more often.
    assert summary["success_rate"] > 0.9
    run(home, "-c", SERVE)


def test_an_unknown_name_lists_what_packages_registered(home: Path) -> None:
    for place, call, known in (
        ("config.methods", "find_method('return_weigted')", "return_weighted"),
        ("parts.tokenizers", "tokenizer_class('step')", "steps"),
        ("parts.simulators", "build_env({'env_name': 'lime'})", "line"),
        ("presets.look_up", "recipe('line/mixd')", "line/mixed"),
        ("presets.look_up", "find_preset('line/smal')", "line/small"),
    ):
        tried = TRY.format(place=place, call=call)
        assert f"Did you mean {known!r}?" in run(home, "-c", tried)


def test_the_examples_tokenizer_keeps_the_protocols_promises(home: Path) -> None:
    sys.path.insert(0, str(home / "site"))
    try:
        from steps_tokenizer import StepsTokenizer
    finally:
        sys.path.remove(str(home / "site"))
    from tokenizers_action.protocol import PositionalTokenizer

    tokenizer = StepsTokenizer(2, 3)
    assert isinstance(tokenizer, PositionalTokenizer)
    ids = np.random.default_rng(0).integers(0, 3, (50, 6))
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.decode(ids)), ids)
    assert StepsTokenizer.from_json(tokenizer.to_json()).to_json() == tokenizer.to_json()
