"""Shared by the tests of the training path: small real logs, and the config of a small run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from text_environments import Corridor, play

from qsft_robot.config.acting import ActingConfig
from qsft_robot.config.data import DataConfig
from qsft_robot.config.methods import QSFTConfig
from qsft_robot.config.model import ModelConfig
from qsft_robot.config.tokenizer import TokenizerConfig
from qsft_robot.config.train import OptimConfig, TrainConfig
from qsft_robot.logs.writer import DemonstrationWriter, write_demonstrations
from qsft_robot.parts.models import build_tiny_model
from qsft_robot.presets.look_up import PRESETS, with_settings
from qsft_robot.rollouts.collect_worker import play_demonstration
from qsft_robot.types import Episode, Observation
from sim.tabletop.env import TabletopEnv

CAMERAS = ("front_image", "wrist_image")


def collect(path: Path, count: int, env: TabletopEnv, failure: str) -> Path:
    """Every third log fails in the named way; the last one is cut before its outcome."""
    with DemonstrationWriter(path, env.env_args) as writer:
        for seed in range(count):
            played = play_demonstration(
                env, seed=seed, expert_seed=[seed], expert=failure if seed % 3 == 0 else "expert",
                noise=0.1, reset_options=None, expert_options={},
            )  # fmt: skip
            episode = Episode(name="", **played)
            if seed == count - 1:
                episode = cut_log(episode, 7)
            writer.append(episode, masks=["valid" if seed in (0, 1) else "train"])
    env.close()
    return path


def cut_log(episode: Episode, steps: int) -> Episode:
    """The first `steps` of a log, truncated."""
    return replace(
        episode,
        observations={key: x[: steps + 1] for key, x in episode.observations.items()},
        actions=episode.actions[:steps], rewards=episode.rewards[:steps],
        terminated=False, truncated=True, success=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 logs of tabletop `place`, low-dimensional: 7 successes, 4 failures, one cut."""
    path = tmp_path_factory.mktemp("logs") / "place.hdf5"
    return collect(path, 12, TabletopEnv("place", cameras=(), max_steps=30), "miss_grasp")


@pytest.fixture(scope="session")
def pixel_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 logs with two 32x32 cameras."""
    path = tmp_path_factory.mktemp("logs") / "pixels.hdf5"
    return collect(path, 4, TabletopEnv("place", image_size=32, max_steps=25), "miss_grasp")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> Hugging Face folder of a small pretrained model with random weights."""
    root = tmp_path_factory.mktemp("models")
    return cache(lambda family: build_tiny_model(family, root / family))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two OpenMP threads that wait for each other beside another process took 50 times as long."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def frame_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSFT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Without the checks of shapes, which only tests have, and which would be traced too."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


Config = Callable[..., TrainConfig]


@pytest.fixture
def config(logs: Path, pixel_logs: Path, tmp_path: Path) -> Config:
    """A run of 4 + 6 updates of a small model with dropout; `config("paper")` takes a preset,
    `pixels=True` the logs with cameras, and the rest are settings by their dotted names."""

    def build(*presets: str, pixels: bool = False, **settings: Any) -> TrainConfig:
        base = TrainConfig(
            out=tmp_path / "run",
            device="cpu",
            data=DataConfig(
                pixel_logs if pixels else logs,
                ("proprio",) if pixels else ("proprio", "target"),
                cameras=CAMERAS if pixels else (),
            ),
            model=ModelConfig(width=32, depth=1, dropout=0.2),
            tokenizer=TokenizerConfig(kind="uniform_bins", n_bins=8),
            qsft=QSFTConfig(refresh_every=3),
            discount=0.97,
            acting=ActingConfig(),
            optim=OptimConfig(batch_size=16, behavior_steps=4, value_steps=6, warmup_steps=1),
            log_every=2,
            checkpoint_every=2,
        )
        flat: dict[str, Any] = {}
        for name in presets:
            flat |= PRESETS[name]
        return with_settings(base, flat | {k.replace("__", "."): x for k, x in settings.items()})

    return build


@pytest.fixture
def pretrained(config: Config, tiny_folder: Callable[[str], Path]) -> Config:
    """The same run on a small pretrained model of a family, with a LoRA adapter of rank 4."""

    def build(family: str, *presets: str, **settings: Any) -> TrainConfig:
        base = {
            "model__width": None,
            "model__depth": None,
            "model__lora_rank": 4,
            "model__pretrained": str(tiny_folder(family)),
        }
        return config(*presets, **base | settings)

    return build


@pytest.fixture(scope="session")
def observations() -> list[Observation]:
    """20 observations of one low-dimensional episode under random actions."""
    return observe(TabletopEnv("place", cameras=()))


@pytest.fixture(scope="session")
def pixel_observations() -> list[Observation]:
    return observe(TabletopEnv("place", image_size=32))


def observe(env: TabletopEnv) -> list[Observation]:
    rng = np.random.default_rng(5)
    raw, info = env.reset(seed=100)
    found = []
    for _ in range(20):
        found.append(Observation.from_env(raw, info["instruction"]))
        raw, _, _, _, info = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
    env.close()
    return found


@pytest.fixture(scope="session")
def text_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """180 logs of the corridor, one in three by a player that errs in a tenth of its commands, the
    others in nine tenths; the last one is cut."""
    path = tmp_path_factory.mktemp("text") / "corridor.hdf5"
    logs = [play(i, (0.1, 0.9, 0.9)[i % 3]) for i in range(180)]
    cut = replace(play(180, 0.9), terminated=False, truncated=True, success=False)
    write_demonstrations(path, [*logs, cut], Corridor(image=True).env_args)
    return path
