"""What a Ray cluster costs: the same evaluation here and on a cluster of nodes on this machine."""

from __future__ import annotations

import argparse
import os
from contextlib import contextmanager
from pathlib import Path

from qsft_robot.cluster.players import PolicyOnNodes
from qsft_robot.cluster.ray_machines import ray_cluster
from qsft_robot.policy.open import open_policy
from qsft_robot.rollouts.evaluate import EvaluationResult, evaluate


@contextmanager
def local_cluster(nodes: int, cores: int):
    """The address of a cluster whose nodes are processes of this machine, on loopback alone."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # 127.0.0.1 stays what it is
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    from ray.cluster_utils import Cluster

    words = {"num_cpus": cores, "node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **words})
    for _ in range(nodes - 1):
        cluster.add_node(**words)
    cluster.wait_for_nodes()
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def row(name: str, result: EvaluationResult) -> str:
    """A line of the table."""
    told = result.summary
    return (
        f"| {name} | {told['startup_s']:.1f} | {told['wall_s']:.1f} | {told['steps_per_s']:.0f} | "
        f"{told['n'] / told['wall_s']:.1f} | {told['median_decision_ms']:.2f} |"
    )


def main() -> None:
    """Print the table, and whether all outcomes are the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2, help="cores that each node says it has")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=1, help="1: equal to the bit")
    options = parser.parse_args()
    seeds = range(100_000, 100_000 + options.episodes)
    words = {"workers": options.workers, "max_batch": options.max_batch, "progress": False}
    print("| where | start-up, s | then, s | steps/s | episodes/s | a decision, ms |")
    print("|---|---|---|---|---|---|")
    policy = open_policy(options.run, device="cpu", runtime="torch")
    here = evaluate(policy, policy.description.env_args, seeds, **words)
    print(row("this process", here), flush=True)
    nodes = PolicyOnNodes(options.run.resolve(), device="cpu")
    env_args = policy.description.env_args
    with local_cluster(options.nodes, options.cores) as address, ray_cluster(address) as machines:
        there = evaluate(nodes, env_args, seeds, machines=machines, **words)
    print(row(f"{options.nodes} nodes", there), flush=True)
    same = [(e.seed, e.steps, e.total_reward, e.values) for e in here.episodes] == [
        (e.seed, e.steps, e.total_reward, e.values) for e in there.episodes
    ]
    print(f"equal to the bit: {same}")


if __name__ == "__main__":
    main()
