"""A policy that walks to the goal of `rollout_environments.Point`, and its evaluation."""

from dataclasses import dataclass

import numpy as np

from qsft_robot.rollouts.evaluate import evaluate as measure
from qsft_robot.types import Decision


def point(**kwargs):
    return {
        "env_name": "gymnasium:rollout_environments:Point-v0",
        "type": 2,
        "env_kwargs": kwargs,
    }


def evaluate(*arguments, env_overrides=None, **more):
    """`evaluate`, the tests' own environments being trusted."""
    overrides = {"imports": ["rollout_environments"], **(env_overrides or {})}
    return measure(*arguments, env_overrides=overrides, **more)


@dataclass
class Memory:
    rng: np.random.Generator


class Walker:
    """Walks right with random steps; its value is the way it has gone."""

    def __init__(self, chunk=1, drift=0.3):
        self.chunk, self.drift, self.batches = chunk, drift, []

    def begin_episode(self, seed):
        return Memory(np.random.default_rng(seed))

    def infer_batch(self, observations, memories):
        self.batches.append(len(observations))
        return [
            Decision(
                memory.rng.uniform(self.drift - 1, 1, (self.chunk, 2)).astype(np.float32),
                float(np.clip(seen.state["position"][0] / 3, 0, 1)),
            )
            for seen, memory in zip(observations, memories, strict=True)
        ]


def outcomes(result):
    return [
        (e.seed, e.steps, e.total_reward, e.success_any, e.success_last, e.values)
        for e in result.episodes
    ]
