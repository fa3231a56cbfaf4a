"""Shared by the tests of the server: a real policy with cameras, hardly trained, and its view."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qsft_robot.config.data import DataConfig
from qsft_robot.config.model import ModelConfig
from qsft_robot.config.tokenizer import TokenizerConfig
from qsft_robot.config.train import OptimConfig, TrainConfig
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.policy.description import LoadedPolicy, PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.policy.open import open_policy
from qsft_robot.rollouts.collect_worker import play_demonstration
from qsft_robot.server.config import ServerConfig
from qsft_robot.server.running import serving
from qsft_robot.server.server import PolicyServer
from qsft_robot.training.train import train
from qsft_robot.types import Decision, Episode, Observation
from sim.tabletop.env import TabletopEnv

CAMERAS = ("front_image", "wrist_image")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of two 32x32 cameras, a history of two frames and chunks of two actions."""
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("served")
    env = TabletopEnv("place", image_size=32, max_steps=30)
    with DemonstrationWriter(base / "logs.hdf5", env.env_args) as writer:
        for seed in range(3):
            played = play_demonstration(
                env, seed=seed, expert_seed=[seed], expert="expert",
                noise=0.1, reset_options=None, expert_options={},
            )  # fmt: skip
            writer.append(Episode(name="", **played))
    env.close()
    config = TrainConfig(
        out=base / "run",
        data=DataConfig(base / "logs.hdf5", ("proprio",), cameras=CAMERAS),
        model=ModelConfig(width=32, depth=1, history=2),
        tokenizer=TokenizerConfig(kind="uniform_bins", n_bins=8, horizon=2),
        optim=OptimConfig(batch_size=8, behavior_steps=2, value_steps=2, warmup_steps=1),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSFT_CACHE", str(base / "cache"))
        return train(config)


class WatchedPolicy:
    """The real policy, counting what is asked of it; `gate` holds decisions back, `fault` is
    raised instead of one."""

    def __init__(self, policy: LoadedPolicy) -> None:
        self._policy = policy
        self.description: PolicyDescription = policy.description
        self.calls = 0
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fault: BaseException | None = None

    def begin_episode(self, seed: int) -> Any:
        self.calls += 1
        return self._policy.begin_episode(seed)

    def infer_batch(
        self, observations: Sequence[Observation], memories: Sequence[Any]
    ) -> list[Decision]:
        self.calls += 1
        self.batches.append(len(observations))
        assert self.gate.wait(30)
        if self.fault is not None:
            raise self.fault
        return self._policy.infer_batch(observations, memories)

    def reset(self, seed: int = 0) -> None:
        self._policy.reset(seed)

    def infer(self, observation: Observation) -> np.ndarray:
        return self._policy.infer(observation)


@pytest.fixture(scope="session")
def loaded(folder: Path) -> LoadedPolicy:
    return open_policy(folder)


@pytest.fixture
def policy(loaded: LoadedPolicy) -> WatchedPolicy:
    return WatchedPolicy(loaded)


@pytest.fixture(scope="session")
def spec(loaded: LoadedPolicy) -> PolicySpec:
    return PolicySpec.of(loaded.description)


@pytest.fixture
def server(policy: WatchedPolicy) -> Iterator[PolicyServer]:
    """A server on a free port of loopback, warmed up; the policy's counts start after that."""
    with serving(policy, ServerConfig(port=0, max_batch=4)) as running:
        policy.calls, policy.batches = 0, []
        yield running


@pytest.fixture(scope="session")
def observations(loaded: LoadedPolicy) -> list[Observation]:
    """12 observations of one episode under random actions."""
    env = TabletopEnv("place", image_size=32)
    rng = np.random.default_rng(5)
    raw, info = env.reset(seed=100)
    found = []
    for _ in range(12):
        found.append(Observation.from_env(raw, info["instruction"]))
        raw, _, _, _, info = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
    env.close()
    return found


@pytest.fixture(scope="session")
def as_message() -> Callable[..., dict[str, Any]]:
    """An observation as a client of openpi's sends it."""

    def build(observation: Observation, **others: Any) -> dict[str, Any]:
        entries = {f"observation/{k}": x for k, x in observation.images.items()}
        return {**entries, **observation.state, "prompt": observation.instruction, **others}

    return build


@pytest.fixture(scope="session")
def play(loaded: LoadedPolicy) -> Callable[[Sequence[Observation], int], np.ndarray]:
    """The local policy's actions over an episode of a seed."""

    def run(observations: Sequence[Observation], seed: int) -> np.ndarray:
        memory = loaded.begin_episode(seed)
        return np.stack([loaded.infer_batch([o], [memory])[0].actions for o in observations])

    return run
