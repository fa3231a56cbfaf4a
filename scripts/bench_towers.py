"""Training on the cached features of a frozen image tower, against training on the images."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from bench_rows import Row, compare, in_turns, seconds_of
from safetensors.torch import save_file

from qsft_robot.algorithms.networks import PolicyNetworks, inference
from qsft_robot.algorithms.sft import BehaviorStage
from qsft_robot.config.data import DataConfig
from qsft_robot.config.model import ModelConfig
from qsft_robot.config.train import OptimConfig, TrainConfig
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.token_data.run_data import read_run_data
from qsft_robot.training.feature_cache import on_tower_features
from qsft_robot.training.metrics import MetricsLog
from qsft_robot.training.plan import BEHAVIOR, StagePlan
from qsft_robot.training.run_model import build_run_model
from qsft_robot.training.tracking import open_tracker
from qsft_robot.training.train import run_stage
from qsft_robot.types import Episode

GROUP = "towers"
CAMERA, STATE = "front_image", "proprio"
UNIT = "samples/s of the behavior stage ({}, one 84x84 camera, batch {})"
# Losses of one batch, after the same updates: what float16 features may change.
TOLERANCE = 2e-3


def write_logs(path: Path, logs: int, steps: int) -> None:
    """Logs with one camera; what the pixels are does not change the time of an update."""
    rng = np.random.default_rng(0)
    with DemonstrationWriter(path, {"env_name": "tabletop", "env_kwargs": {}}) as writer:
        for _ in range(logs):
            writer.append(
                Episode(
                    "",
                    {
                        CAMERA: rng.integers(0, 256, (steps + 1, 84, 84, 3), np.uint8),
                        STATE: rng.normal(size=(steps + 1, 8)).astype(np.float32),
                    },
                    rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
                    np.eye(steps, dtype=np.float32)[-1],
                    terminated=True,
                    truncated=False,
                    success=True,
                    instruction="put the red cube away",
                )
            )


def build_stages(config: TrainConfig) -> dict[str, BehaviorStage]:
    """The same model on images and on features; the features are made here, before any clock."""
    torch.manual_seed(0)
    data = read_run_data(config)
    model = build_run_model(config, data)
    featured = on_tower_features(config, data, model)
    return {
        "images": BehaviorStage(PolicyNetworks(copy.deepcopy(model)), data.train, "cpu"),
        "features": BehaviorStage(PolicyNetworks(model), featured.train, "cpu"),
    }


def loss_of(stage: BehaviorStage, count: int) -> float:
    """The loss on the first `count` steps, as the stage's model now is."""
    steps = torch.arange(count)
    with inference(stage.model):
        return float(stage.loss(stage.read(steps, torch.Generator()), steps)[0])


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """Speed, then the losses on both sides; RuntimeError where these differ."""
    tower, batch = ("test_vit", 4) if quick else ("vit_small_patch16_224", 16)
    updates = {"images": 1, "features": 2} if quick else {"images": 2, "features": 40}
    os.environ["QSFT_CACHE"] = str(folder / "cache")
    path, weights = folder / "logs.hdf5", folder / "tower.safetensors"
    write_logs(path, 2 if quick else 4, 7 if quick else 15)
    torch.manual_seed(1)
    save_file(timm.create_model(tower).state_dict(), weights)
    config = TrainConfig(
        out=folder,
        device="cpu",
        data=DataConfig(path=path, state_keys=(STATE,), cameras=(CAMERA,)),
        model=ModelConfig(image_encoder=f"timm:{tower}", image_weights=str(weights), dropout=0.0),
        optim=OptimConfig(batch_size=batch),
        log_every=10**9,
        checkpoint_every=10**9,
    )
    say(f"features of {tower}, once a frame")
    stages = build_stages(config)
    log = MetricsLog(
        folder, [(BEHAVIOR, config.optim.behavior_steps)], open_tracker("tensorboard", folder, {})
    )

    def train(name: str, count: int) -> None:
        short = replace(config, optim=replace(config.optim, behavior_steps=count, value_steps=1))
        run_stage(
            StagePlan(BEHAVIOR, count, 0, "train"),
            stages[name],
            short,
            count,
            log,
            lambda update, tensors: None,
        )

    say("the same updates on both sides")
    for name in stages:
        train(name, 2)
    ours, theirs = loss_of(stages["features"], batch), loss_of(stages["images"], batch)
    if abs(ours - theirs) > TOLERANCE * abs(theirs):
        raise RuntimeError(f"loss {ours} on features, {theirs} on images: not the same training.")

    def speed(name: str) -> float:
        count = updates[name]
        return count * batch / seconds_of(lambda: train(name, count))

    say("timing")
    found = in_turns({name: lambda name=name: speed(name) for name in stages}, 2 if quick else 3)
    log.close()
    say(", ".join(f"{name} {x:,.1f}/s" for name, x in found.items()))
    unit = UNIT.format(tower, batch)
    yield compare(
        GROUP, "tower_features_vs_images", found["features"], found["images"], unit, 5, "higher"
    )
    unit = f"behavior loss of one batch after 2 updates, within {TOLERANCE:g} of each other"
    yield compare(GROUP, "tower_features_loss_vs_images", ours, theirs, unit, None, "lower")
