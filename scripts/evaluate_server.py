"""Success of a policy at home against the same policy behind the server, by openpi's client."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from server_process import server_process

from qsft_robot.intervals import wilson
from qsft_robot.parts.env_observations import as_mapping
from qsft_robot.parts.simulators import build_env
from qsft_robot.parts.told_success import told_success
from qsft_robot.policy.open import open_policy
from qsft_robot.presets.look_up import EVALUATION_SEED
from qsft_robot.rollouts.evaluate import evaluate


def drive(client: WebsocketClientPolicy, env: Any, seed: int) -> tuple[bool, int, float]:
    """One episode through openpi's client: success at any step, steps, sum of the rewards."""
    observation, info = env.reset(seed=seed)
    begin: dict[str, Any] = {"reset": True, "seed": seed}
    steps, total, success = 0, 0.0, False
    while True:
        message = {f"observation/{key}": x for key, x in as_mapping(observation).items()}
        answer = client.infer({**message, "prompt": info.get("instruction", ""), **begin})
        begin = {}
        for action in answer["actions"]:
            observation, reward, terminated, truncated, info = env.step(action)
            steps, total = steps + 1, total + float(reward)
            success |= bool(told_success(info))
            if terminated or truncated:
                return success, steps, total


def main() -> None:
    """Print both rates and how many episodes agree; exit status 1 if any does not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder or exported policy")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--workers", type=int, default=1, help="of the evaluation at home")
    parser.add_argument("--envs-per-worker", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = open_policy(options.run)
    env_args = policy.description.env_args
    seeds = range(options.seed, options.seed + options.episodes)
    home = evaluate(
        policy,
        env_args,
        seeds,
        workers=options.workers,
        envs_per_worker=options.envs_per_worker,
        progress=False,
    )
    print(f"at home             success {home.success_any}", flush=True)
    with server_process(options.run) as server:
        host, port = server.address
        client = WebsocketClientPolicy(host, port)
        env = build_env(env_args)
        found = [drive(client, env, seed) for seed in seeds]
        env.close()
    rate = wilson(sum(success for success, _, _ in found), len(found))
    print(f"behind the server   success {rate}")
    expected = [(e.success_any, e.steps, e.total_reward) for e in home.episodes]
    same = [
        a[:2] == b[:2] and abs(a[2] - b[2]) < 1e-9 for a, b in zip(found, expected, strict=True)
    ]
    print(
        f"episodes that agree in success, steps and sum of rewards: {sum(same)} of {len(same)}"
        f" (seeds {seeds[0]} to {seeds[-1]})"
    )
    for seed, agrees, a, b in zip(seeds, same, found, expected, strict=True):
        if not agrees:
            print(f"  seed {seed}: server {a}, home {b}")
    raise SystemExit(int(not all(same)))


if __name__ == "__main__":
    main()
