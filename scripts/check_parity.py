"""Hold ONNX graphs and the policy server against torch on recorded observations with images."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from qsft_robot.export.onnx_parity import Parity, measure
from qsft_robot.export.recorded_observations import recorded_observations
from qsft_robot.policy.description import LoadedPolicy
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.policy.onnx_policy import load_onnx_policy
from qsft_robot.policy.token_policy import TokenPolicy, load_policy
from qsft_robot.server.config import ServerConfig
from qsft_robot.server.remote_policy import RemotePolicy
from qsft_robot.server.running import serving
from qsft_robot.types import Observation

Logs = Sequence[Sequence[Observation]]


def compare(eager: TokenPolicy, other: Any, logs: Logs, seed: int) -> dict[str, float]:
    """Play each log through both with one seed: decisions, those that differ, and by how much at
    most, as a share of each action's range."""
    spec = PolicySpec.of(eager.description)
    span = spec.action_high - spec.action_low
    decisions = different = 0
    worst = 0.0
    for i, log in enumerate(logs):
        eager.reset(seed + i)
        other.reset(seed + i)
        for observation in log:
            gap = np.abs(eager.infer(observation) - other.infer(observation)) / span
            decisions, different = decisions + 1, different + bool(gap.any())
            worst = max(worst, float(gap.max()))
    return {"decisions": decisions, "different": different, "action": worst}


def through_server(policy: LoadedPolicy, eager: TokenPolicy, logs: Logs) -> dict[str, float]:
    """The same over a websocket, from a server in this process."""
    with serving(policy, ServerConfig(port=0)) as server:
        remote = RemotePolicy(server.url, timeout_s=60.0)
        try:
            return compare(eager, remote, logs, seed=1000)
        finally:
            remote.close()


def check(folder: Path, data: Path, count: int) -> tuple[dict[str, Any], list[str]]:
    """The measurements, and a line for each that is beyond its bound."""
    eager, graphs = load_policy(folder), load_onnx_policy(folder)
    logs = recorded_observations(data, eager.description, count, steps=50)
    found: dict[str, Any] = {"observations": sum(map(len, logs)), "logs": len(logs)}
    parity: Parity = measure(eager, graphs, logs)
    found["onnx against torch"] = parity.to_json()
    wrong = parity.beyond()
    for name, policy in (("torch", eager), ("onnx", graphs)):
        served = through_server(policy, load_policy(folder), logs)
        found[f"server of {name} against torch"] = served
        # A near tie in the graphs shows as one whole other action; the server adds none.
        allowed = 0 if name == "torch" else parity.different
        if served["different"] > allowed:
            wrong.append(f"the server of {name} differs in {served['different']} decisions")
    return found, wrong


def main() -> int:
    """Print the largest differences; exit status 1 beyond the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="exported policy with ONNX graphs")
    parser.add_argument("data", type=Path, help="HDF5 file with its cameras and state keys")
    parser.add_argument("--count", type=int, default=1000, help="recorded observations")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found, wrong = check(options.folder, options.data, options.count)
    print(json.dumps(found, indent=2))
    for line in wrong:
        print(f"beyond the tolerance: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
