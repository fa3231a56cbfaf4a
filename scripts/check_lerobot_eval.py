"""Checks that a policy has the same episodes in lerobot-eval as in `qsft-robot evaluate`.

    python3.12 -m venv ENV
    ENV/bin/pip install 'lerobot[dataset]>=0.6,<0.7' 'mujoco>=3.3.7,<3.4' onnxruntime h5py \
        websockets msgpack tyro rich imageio imageio-ffmpeg
    ENV/bin/pip install --no-deps . plugins/lerobot_policy_qsft plugins/lerobot_env_qsft
    qsft-robot export runs/mine --out exported --lerobot
    python scripts/check_lerobot_eval.py exported ENV/bin/lerobot-eval --episodes 100

LeRobot has an environment of its own, since it needs Python 3.12 and numpy 2. Exit status 1 where
an episode comes out otherwise; versions and outcomes go to OUT/check.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from qsft_robot.files import read_json, write_json
from qsft_robot.policy.open import open_policy
from qsft_robot.rollouts.evaluate import evaluate

VERSIONS = """
import json
from importlib.metadata import version
names = ("lerobot", "torch", "numpy", "mujoco", "gymnasium", "onnxruntime")
print(json.dumps({name: version(name) for name in names}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", type=Path, help="folder that export --lerobot wrote")
    parser.add_argument("lerobot_eval", type=Path, help="lerobot-eval of LeRobot's environment")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--asynchronous", action="store_true", help="environments in processes")
    parser.add_argument("--out", type=Path, default=Path("runs/check_lerobot_eval"))
    words = parser.parse_args()
    policy = open_policy(words.policy, device="cpu")
    seeds = range(words.seed, words.seed + words.episodes)
    ours = evaluate(policy, policy.description.env_args, seeds, out=words.out / "ours")
    command = [
        str(words.lerobot_eval),
        f"--policy.path={words.policy}",
        "--policy.device=cpu",
        f"--policy.episode_seed={words.seed}",
        "--env.type=qsft",
        f"--env.policy={words.policy}",
        f"--eval.n_episodes={words.episodes}",
        f"--eval.batch_size={words.batch}",
        f"--eval.use_async_envs={str(words.asynchronous).lower()}",
        f"--seed={words.seed}",
        f"--output_dir={words.out / 'lerobot'}",
    ]
    alone = {key: x for key, x in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(command, check=True, env={**alone, "HF_HUB_OFFLINE": "1"})
    told = read_json(words.out / "lerobot" / "eval_info.json")["per_task"][0]["metrics"]
    theirs = dict(zip(seeds, map(bool, told["successes"]), strict=True))
    python = words.lerobot_eval.with_name("python")
    asked = [str(python), "-c", VERSIONS]
    versions = subprocess.run(asked, check=True, capture_output=True, text=True, env=alone).stdout
    other = [e.seed for e in ours.episodes if bool(e.success_any) != theirs[e.seed]]
    result = {
        "episodes": words.episodes,
        "same": words.episodes - len(other),
        "different_seeds": other,
        "success_rate": ours.success_any.rate,
        "lerobot": json.loads(versions),
        "ours": ours.summary["versions"],
        "command": " ".join(command),
    }
    write_json(words.out / "check.json", result)
    print(
        f"{result['same']} of {words.episodes} episodes came out the same: {words.out}/check.json"
    )
    return int(bool(other))


if __name__ == "__main__":
    sys.exit(main())
