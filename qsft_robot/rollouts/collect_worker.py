"""The worker process of a collection: plays whole episodes with a scripted expert."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from qsft_robot.parts.env_observations import as_mapping
from qsft_robot.parts.simulators import build_env, build_expert, failure_modes
from qsft_robot.parts.told_success import either, told_success
from qsft_robot.rollouts.worker import env_description
from qsft_robot.rollouts.worker_channel import WorkerChannel
from qsft_robot.types import split_texts, stack_rows

# The name that stands for an expert without a failure mode.
EXPERT = "expert"


def play_demonstration(
    env: Any,
    *,
    seed: int,
    expert_seed: list[int],
    expert: str,
    noise: float,
    reset_options: Mapping[str, Any] | None,
    expert_options: Mapping[str, Any],
) -> dict[str, Any]:
    """Play one episode and return it as arrays, the fields of `types.Episode`.

    It is terminated by success or by its whole step limit (a failure that used its limit is an
    outcome), truncated where the expert ended it early (`expert.done`), and by a limit of steps
    where nothing tells success: that limit says nothing of the task.
    """
    observation, info = env.reset(seed=seed, options=reset_options)
    rng = np.random.default_rng(expert_seed)
    failure = None if expert == EXPERT else expert
    actor = build_expert(env, failure, noise, rng, **expert_options)
    rows = {key: [value] for key, value in as_mapping(observation).items()}
    actions: list[np.ndarray | str] = []
    rewards: list[float] = []
    told: bool | None = None
    over = cut = False
    while not over and not actor.done:
        chosen = actor.act()
        action = chosen if isinstance(chosen, str) else np.asarray(chosen, np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        for key, value in as_mapping(observation).items():
            rows[key].append(value)
        actions.append(action)
        rewards.append(float(reward))
        told = either(told, told_success(info))
        over, cut = terminated or truncated, truncated and not terminated
    success, over = bool(told), over and not (cut and told is None)
    observations, texts = split_texts(rows)
    return {
        "observations": observations,
        "texts": texts,
        "actions": stack_rows(actions),
        "rewards": np.array(rewards, np.float32),
        "terminated": success or over,
        "truncated": not (success or over),
        "success": success,
        "instruction": str(info.get("instruction", "")),
    }


def play_surely(env: Any, **order: Any) -> dict[str, Any]:
    """`play_demonstration`, once more where the simulator fails: the same order gives the same
    episode, and an engine that hung or died has a fresh one after a reset. A second failure is
    raised."""
    try:
        return play_demonstration(env, **order)
    except RuntimeError:
        traceback.print_exc()
        return play_demonstration(env, **order)


def serve_demonstrations(channel: WorkerChannel, settings: Mapping[str, Any]) -> None:
    """Answer each message {"index", "timeout_s", and the arguments of `play_demonstration`}."""
    env = build_env(settings["env_args"], **settings["env_overrides"])
    failure_modes(settings["env_args"]["env_name"])  # ValueError where there is no expert
    channel.send({"env_args": env_description(env, settings["env_args"])})
    channel.end()
    while (order := channel.receive()) is not None:
        index, timeout_s = order.pop("index"), order.pop("timeout_s")
        channel.begin(index, timeout_s)
        try:
            episode = play_surely(env, **order)
        except Exception as error:
            kind = ValueError if isinstance(error, ValueError) else RuntimeError
            raise kind(
                f"demonstration {index} (environment seed {order['seed']}, expert "
                f"{order['expert']}): {error}"
            ) from error
        channel.end()
        channel.send({"index": index, "episode": episode})
    env.close()
