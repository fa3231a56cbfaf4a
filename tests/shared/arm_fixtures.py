"""A clock that only moves when told, policies and arms for the loop, and one small real policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from qsft_robot.control.robot import RobotSpec
from qsft_robot.types import Observation


class FakeClock:
    """Time passes by sleeping, and by what the other parts say that they took."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep_until(self, moment: float) -> None:
        self.time = max(self.time, moment)


class Joint:
    """One joint that is where it was sent, and reports the tick as its second number."""

    def __init__(self, clock: FakeClock | None = None, send_s: Sequence[float] = ()) -> None:
        self.clock, self.send_s = clock, list(send_s)
        self.spec = RobotSpec(
            "joint", {}, {"q": 1, "count": 1}, np.array([-1e6]), np.array([1e6]), measured="q"
        )
        self.sent: list[float] = []
        self.times: list[float] = []
        self.verbs: list[str] = []
        self.reading: float | None = None
        self.fails_at: int | None = None

    def connect(self) -> None:
        self.verbs.append("connect")

    def disconnect(self) -> None:
        self.verbs.append("disconnect")

    def get_observation(self) -> Observation:
        if self.fails_at is not None and len(self.sent) >= self.fails_at:
            raise RuntimeError("the bus does not answer")
        at = (self.sent[-1] if self.sent else 0.0) if self.reading is None else self.reading
        row = {"q": np.array([at], np.float32)}
        return Observation({}, {**row, "count": np.array([len(self.sent)], np.float32)}, "go")

    def send_action(self, action: np.ndarray) -> None:
        if self.clock is not None:
            self.times.append(self.clock.time)
            if len(self.sent) < len(self.send_s):
                self.clock.time += self.send_s[len(self.sent)]
        self.sent.append(float(action[0]))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def joint_arm() -> type[Joint]:
    """The class: `joint_arm()` is an arm of the wall's clock."""
    return Joint


@pytest.fixture(scope="session")
def small_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: a real policy of the tabletop's `place`, trained for a few updates."""
    pytest.importorskip("torch")
    import os

    import torch

    from qsft_robot.config.data import DataConfig
    from qsft_robot.config.model import ModelConfig
    from qsft_robot.config.tokenizer import TokenizerConfig
    from qsft_robot.config.train import OptimConfig, TrainConfig
    from qsft_robot.rollouts.collect import CollectPart, collect
    from qsft_robot.training.train import train

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("small")
    os.environ["QSFT_CACHE"] = str(folder / "cache")
    kwargs = {"task": "place", "cameras": [], "max_steps": 20}
    env_args = {"env_name": "tabletop", "env_kwargs": kwargs}
    collect(env_args, folder / "logs.hdf5", [CollectPart(6, {"expert": 1.0}, 0.1)], workers=1)
    train(
        TrainConfig(
            out=folder / "run",
            data=DataConfig(folder / "logs.hdf5", ("proprio",)),
            model=ModelConfig(width=16, depth=1),
            tokenizer=TokenizerConfig(kind="uniform_bins", n_bins=8, horizon=4),
            optim=OptimConfig(batch_size=16, behavior_steps=2, value_steps=2, warmup_steps=1),
            log_every=2,
        )
    )
    return folder / "run"
