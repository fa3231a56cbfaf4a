"""Checks that a policy has the same episodes in vla-eval as in `qsft-robot evaluate`.

    pip install 'qsft-robot[train,harness]'
    python scripts/check_vla_eval.py runs/mine --episodes 100

Three times: at home, in the harness, and in the harness with the policy behind the server of
openpi's protocol. Exit status 1 where an episode comes out otherwise (success, steps, sum of
rewards); versions and outcomes go to OUT/check.json.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from qsft_robot.files import read_json, write_json
from qsft_robot.policy.open import open_policy
from qsft_robot.presets.look_up import EVALUATION_SEED
from qsft_robot.report.data import read_lines
from qsft_robot.rollouts.evaluate import evaluate
from qsft_robot.server.config import ServerConfig
from qsft_robot.server.running import serving
from qsft_robot.verbs.flag_words import use_threads
from qsft_robot.verbs.harness import Asked, evaluate_policy, evaluate_server
from qsft_robot.versions import installed

_SAME = ("seed", "success_any", "success_last", "steps", "return", "failure_reason")
_VERSIONS = ("vla-eval", "numpy", "mujoco", "gymnasium", "torch", "onnxruntime")


def outcomes(folder: Path) -> list[dict[str, Any]]:
    """What is compared of each episode of an evaluation."""
    lines = read_lines(folder / "episodes.jsonl")
    return [{key: line[key] for key in _SAME} for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("policy", type=Path, help="run folder or exported policy")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--out", type=Path, default=Path("runs/check_vla_eval"))
    options = parser.parse_args()
    policy = open_policy(options.policy, device="cpu")
    use_threads(1)
    seeds = range(options.seed, options.seed + options.episodes)
    home = options.out / "home"
    ours = evaluate(
        policy, policy.description.env_args, seeds, workers=1, envs_per_worker=4, out=home
    )
    expected = outcomes(home)
    asked = Asked("simulator", options.episodes, options.seed, None, None, None, None, accept=())
    evaluate_policy(policy, asked, options.out / "harness", policy.description.env_args)
    found = {"vla-eval": outcomes(options.out / "harness")}
    with serving(policy, ServerConfig(port=0)) as server, contextlib.chdir(options.out):
        evaluate_server(server.url, asked, "served", None, {}, run_to_limit=False)
        (folder,) = Path().glob(f"*-{server.url.rpartition(':')[2]}.evaluation/served")
        found["vla-eval, policy behind serve"] = outcomes(folder)
    other = {
        how: [a["seed"] for a, b in zip(expected, each, strict=True) if a != b]
        for how, each in found.items()
    }
    result = {
        "episodes": options.episodes,
        "success_rate": ours.success_any.rate,
        "same": {how: options.episodes - len(seeds) for how, seeds in other.items()},
        "different_seeds": other,
        "versions": {name: installed(name) for name in _VERSIONS},
        "environment": read_json(home / "summary.json")["env_args"],
    }
    write_json(options.out / "check.json", result)
    for how, same in result["same"].items():
        print(f"{how}: {same} of {options.episodes} episodes are those of evaluate")
    return int(any(other.values()))


if __name__ == "__main__":
    sys.exit(main())
