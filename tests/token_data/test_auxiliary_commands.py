"""Image tokens that learn what could be done, and image tokens that are kept between runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from text_runs import settings

from qsft_robot.config.data import DataConfig
from qsft_robot.config.model import ModelConfig
from qsft_robot.config.tokenizer import TokenizerConfig
from qsft_robot.config.train import TrainConfig
from qsft_robot.files import cache_folder
from qsft_robot.policy.checkpoint import read_policy_folder
from qsft_robot.token_data.auxiliary_commands import command_columns
from qsft_robot.training.feature_cache import FEATURES
from qsft_robot.training.train import train
from qsft_robot.types import ADMISSIBLE, Episode


def log(instruction, *listed):
    steps = len(listed) - 1
    return Episode(
        name="demo_0", instruction=instruction, observations={},
        actions=np.array(["look"] * steps, object), rewards=np.zeros(steps, np.float32),
        terminated=True, truncated=False, success=False,
        texts={ADMISSIBLE: np.array(["\n".join(x) for x in listed], object)},
    )  # fmt: skip


def test_columns_tell_beginnings_and_verbs_with_a_word_of_the_goal():
    logs = [
        log("bring the cup", ["look", "go to room 1"], ["look", "take cup 1", "go to room 1"]),
        log("bring the coin", ["look", "take cup 1", "go to room 2"], ["look", "go to room 2"]),
    ]
    columns = command_columns(logs)
    # "take cup"; "take" with a word of the goal. "go to" is always there: no column.
    assert columns.shape == (4, 2)
    np.testing.assert_allclose(columns[:, 0], [-1, 1, 1, -1], atol=1e-6)
    np.testing.assert_allclose(columns[:, 1], np.array([-1, 3, -1, -1]) / 3**0.5, atol=1e-6)


def test_the_two_kinds_of_columns_weigh_the_same():
    rng = np.random.default_rng(0)
    rows = [
        ["look", *(f"take {x}" for x in ("cup", "coin", "fork", "book") if rng.random() < 0.5)]
        for _ in range(200)
    ]
    columns = command_columns([log("bring the cup", *rows)])
    assert columns.shape == (200, 5)
    power = (columns**2).sum(0)
    assert power[:4].sum() == pytest.approx(power[4], rel=1e-4)


def test_columns_need_commands_that_differ():
    with pytest.raises(ValueError, match="the same commands"):
        command_columns([log("bring", ["go to room"], ["go to room"])])
    nameless = replace(log("bring", ["look"], ["look"]), texts={})
    with pytest.raises(ValueError, match="has no text admissible_commands"):
        command_columns([nameless])


def test_they_are_for_cameras_and_text_commands():
    with pytest.raises(ValueError, match=r"--data\.cameras"):
        DataConfig(text_keys=("feedback",), auxiliary_commands=True)
    with pytest.raises(ValueError, match=r"--tokenizer\.kind commands"):
        TrainConfig(
            data=DataConfig(cameras=("view_image",), auxiliary_commands=True),
            tokenizer=TokenizerConfig(),
        )
    with pytest.raises(ValueError, match="image-shrink"):
        ModelConfig(image_encoder="timm:resnet18", image_shrink=2)


def test_an_encoder_learns_them_and_its_tokens_are_kept_for_the_runs_after(
    text_logs, tmp_path, monkeypatch
):
    monkeypatch.setenv("QSFT_CACHE", str(tmp_path / "cache"))
    shape = {
        "data__cameras": ("view_image",), "data__text_keys": (), "model__image_shrink": 2,
        "log_every": 5,
    }  # fmt: skip
    encoder = settings(
        text_logs,
        tmp_path / "encoder",
        method="sft",
        data__auxiliary_commands=True,
        optim__behavior_steps=40,
        optim__value_steps=1,
        **shape,
    )
    train(encoder)
    lines = (encoder.out / "metrics.jsonl").read_text().splitlines()
    told = [json.loads(line)["loss/auxiliary"] for line in lines]
    assert told[-1] < 0.8 * told[0]
    kept = cache_folder() / "features"
    assert not kept.exists()
    run = settings(
        text_logs, tmp_path / "run", features_from=encoder.out, optim__behavior_steps=2,
        optim__value_steps=2, **shape,
    )  # fmt: skip
    train(run)
    (file,) = kept.glob(f"*/{FEATURES}")
    written = file.stat().st_mtime_ns
    following = {"features_from": None, "behavior_from": run.out}
    follower = replace(run, method="filtered_sft", out=tmp_path / "next", **following)
    train(follower)
    assert [x.stat().st_mtime_ns for x in kept.glob(f"*/{FEATURES}")] == [written]
    _, theirs = read_policy_folder(encoder.out / "policy")
    _, ours = read_policy_folder(follower.out / "policy")
    names = [name for name in ours if name.startswith("behavior.images.")]
    assert names
    assert all(ours[name].equal(theirs[name]) for name in names)
