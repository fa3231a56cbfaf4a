"""What fine-tuning leaves of a pretrained model's captions is measured on the weights it left."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from qsft_robot.captions.batches import Example
from qsft_robot.captions.language_kept import captions_of_base, captions_of_run
from qsft_robot.captions.pretrain import PretrainConfig, pretrain
from qsft_robot.captions.scores import held_out
from qsft_robot.config.data import DataConfig
from qsft_robot.config.model import ModelConfig
from qsft_robot.config.tokenizer import TokenizerConfig
from qsft_robot.config.train import OptimConfig, TrainConfig
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.parts.simulators import build_env
from qsft_robot.rollouts.collect_worker import play_demonstration
from qsft_robot.training.train import train
from qsft_robot.types import Episode


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "vlm"
    small = {"width": 32, "depth": 1, "vision_width": 32, "vision_depth": 1}
    counts = {"scenes": 24, "valid_scenes": 4, "steps": 2, "valid_every": 2, "batch_size": 2}
    pretrain(PretrainConfig(out=out, **small, **counts), say=lambda line: None)
    return out


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return held_out(4, 1, 4)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "place.hdf5"
    env = build_env(
        {"env_name": "tabletop", "env_kwargs": {"task": "place", "max_steps": 40}}, image_size=64
    )
    with DemonstrationWriter(path, env.unwrapped.env_args) as writer:
        for seed in range(2):
            played = play_demonstration(
                env, seed=seed, expert_seed=[seed], expert="expert", noise=0.1,
                reset_options=None, expert_options={},
            )  # fmt: skip
            writer.append(Episode(name="", **played))
    env.close()
    return path


@pytest.fixture(autouse=True)
def frame_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSFT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def config_of(base: Path, logs: Path, out: Path, rate: float) -> TrainConfig:
    return TrainConfig(
        out=out,
        method="sft",
        data=DataConfig(
            path=logs,
            state_keys=("proprio",),
            cameras=("front_image", "wrist_image"),
        ),
        model=ModelConfig(pretrained=str(base), lora_rank=0),
        tokenizer=TokenizerConfig("uniform_bins", n_bins=32),
        optim=OptimConfig(
            batch_size=8, behavior_steps=2, value_steps=2, learning_rate=rate, warmup_steps=1
        ),
    )


def test_captions_are_as_before_where_nothing_moved_and_otherwise_not(
    base: Path, logs: Path, examples: list[Example], tmp_path: Path
) -> None:
    before = captions_of_base(base, examples)
    after = {}
    for rate in (1e-12, 1e-2):
        config = config_of(base, logs, tmp_path / str(rate), rate)
        train(config)
        after[rate] = captions_of_run(config.out, examples)
    assert after[1e-12]["loss/answers"] == pytest.approx(before["loss/answers"], rel=1e-5)
    assert abs(after[1e-2]["loss/answers"] - before["loss/answers"]) > 1e-3


def test_a_run_without_a_pretrained_model_has_no_captions_to_keep(
    base: Path, logs: Path, examples: list[Example], tmp_path: Path
) -> None:
    config = config_of(base, logs, tmp_path / "rt", 1e-3)
    train(dataclasses.replace(config, model=ModelConfig(width=32, depth=1)))
    with pytest.raises(ValueError, match="fine-tuned no pretrained model"):
        captions_of_run(config.out, examples)
