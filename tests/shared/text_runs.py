"""The config of a small run on logs of text commands."""

from __future__ import annotations

from pathlib import Path

from qsft_robot.config.data import DataConfig
from qsft_robot.config.model import ModelConfig
from qsft_robot.config.tokenizer import TokenizerConfig
from qsft_robot.config.train import OptimConfig, TrainConfig
from qsft_robot.presets.look_up import with_settings


def settings(path: Path, out: Path, **changes: object) -> TrainConfig:
    base = TrainConfig(
        out=out,
        device="cpu",
        data=DataConfig(path, text_keys=("feedback",)),
        model=ModelConfig(width=32, depth=2, dropout=0.1, text_history=6, frame_text_length=10),
        tokenizer=TokenizerConfig(kind="commands"),
        discount=0.95,
        optim=OptimConfig(
            batch_size=64, behavior_steps=80, value_steps=120, learning_rate=4e-3,
            value_learning_rate=4e-3, warmup_steps=10,
        ),
        log_every=50,
    )  # fmt: skip
    return with_settings(base, {k.replace("__", "."): x for k, x in changes.items()})
