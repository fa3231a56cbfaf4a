"""A policy by its Hub id, evaluated and served from end to end against the stand-in."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub

from qsft_robot.cli import main
from qsft_robot.export.recorded_observations import random_observations
from qsft_robot.files import read_json
from qsft_robot.policy.open import open_policy
from qsft_robot.report.data import read_lines
from qsft_robot.server.remote_policy import RemotePolicy


@pytest.fixture
def policy(tmp_path: Path, hub: Hub, repository: Path) -> Path:
    """A policy of tabletop/pick with its graphs, which is someone/arm too."""
    with tarfile.open(repository / "tests/data/format_2/policies.tar.xz") as file:
        file.extractall(tmp_path, filter="data")
    hub.add("someone/arm", tmp_path / "policy")
    return tmp_path / "policy"


def test_a_policy_of_the_hub_is_evaluated(hub, policy, capsys) -> None:
    words = ["--episodes", "3", "--workers", "1", "--seed", "7", "--device", "cpu"]
    assert main(["evaluate", "someone/arm", *words]) == 0
    said = capsys.readouterr()
    assert re.search(r"^someone/arm: \d+ files of commit \w+$", said.err, re.MULTILINE)
    assert said.out.splitlines()[-1] == "someone--arm.evaluation/policy/summary.json"
    assert main(["evaluate", str(policy), *words]) == 0
    own = policy.parent / "policy.evaluation" / "policy"
    there = Path("someone--arm.evaluation/policy")
    assert read_json(there / "summary.json")["seeds"] == [7, 8, 9]
    same = ("seed", "steps", "return", "success_any", "values", "instruction")
    a, b = (
        [{key: line[key] for key in same} for line in read_lines(folder / "episodes.jsonl")]
        for folder in (there, own)
    )
    assert a == b
    assert len(a) == 3
    # Into the current folder, and not into the Hub's cache.
    cached = {path.name for path in (policy.parent / "home").rglob("*")}
    assert "policy.json" in cached
    assert not cached & {"evaluation", "summary.json", "episodes.jsonl"}
    # The second time no file is asked for.
    hub.asked.clear()
    assert main(["evaluate", "someone/arm", "--name", "again", *words]) == 0
    assert hub.asked
    assert all(asked.startswith("GET /api/") for asked in hub.asked)
    assert main(["compare", "someone/arm", str(policy)]) == 0


def test_a_policy_of_the_hub_is_served(hub, policy, tmp_path, repository) -> None:
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "own"), "PYTHONUNBUFFERED": "1"}
    own |= {"HF_HUB_OFFLINE": "0", "PYTHONPATH": str(repository), "NO_PROXY": "127.0.0.1"}
    words = ["serve", "someone/arm@main", "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(
        [sys.executable, "-m", "qsft_robot.cli", *words],
        env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        url = next(line.split()[2] for line in server.stdout if line.startswith("listening on"))
        ours = open_policy(policy, device="cpu")
        with RemotePolicy(url, timeout_s=60, connect_timeout_s=60) as remote:
            sums = hashlib.sha256((policy / "SHA256SUMS").read_bytes()).hexdigest()
            assert remote.description.policy_sha256 == sums
            for seed, log in enumerate(random_observations(ours.description, 6, steps=3, seed=1)):
                ours.reset(seed)
                remote.reset(seed)
                for seen in log:
                    np.testing.assert_array_equal(remote.infer(seen), ours.infer(seen))
    finally:
        server.terminate()
        rest, said = server.communicate(timeout=120)
    assert server.returncode == 0, said
    assert rest.splitlines()[-1] == "stopped"
    assert re.search(r"^someone/arm@main: \d+ files of commit \w+$", said, re.MULTILINE)
