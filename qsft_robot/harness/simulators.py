"""Our own simulator as a configuration of the harness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qsft_robot.harness.benchmark import SimulatorBenchmark
from qsft_robot.harness.configurations import SIMULATOR, Configuration
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.rollouts.action_range import check_policy_range


def simulator_configuration(
    env_args: Mapping[str, Any],
    changes: Mapping[str, Any],
    state_keys: Sequence[str],
    seed: int,
    description: PolicyDescription | None,
) -> tuple[Configuration, dict[str, Any]]:
    """The configuration, and the env_args that rebuild the simulator with its versions.

    `changes` are those of its arguments. ValueError where the actions of a policy's `description`
    leave what the simulator takes (None: any may).
    """
    benchmark = SimulatorBenchmark(env_args=env_args, env_kwargs=changes, state_keys=state_keys)
    try:
        shown, described = benchmark.shown(), benchmark.described()
        check_policy_range(description, benchmark.action_range())
    finally:
        benchmark.cleanup()
    entry = {
        "benchmark": f"{SimulatorBenchmark.__module__}:{SimulatorBenchmark.__name__}",
        "params": {
            "env_args": dict(env_args),
            "env_kwargs": dict(changes),
            "state_keys": list(state_keys),
            "seed": seed,
        },
    }
    return Configuration(SIMULATOR, {"benchmarks": [entry]}, shown), described
