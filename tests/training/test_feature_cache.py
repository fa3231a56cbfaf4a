"""Training on a frozen tower's cached features: the losses of images, keys, budgets, whole runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from qsft_robot.files import cache_folder
from qsft_robot.policy.checkpoint import read_policy_folder
from qsft_robot.policy.token_policy import load_policy
from qsft_robot.token_data.frames import FrameCache
from qsft_robot.token_data.run_data import read_run_data
from qsft_robot.training.feature_cache import FeatureCache, cache_key, on_tower_features
from qsft_robot.training.run_model import build_run_model
from qsft_robot.training.train import resume_config, train
from vlm.tiny.towers import write_open_clip, write_timm


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip(tmp_path_factory.mktemp("towers") / "clip")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("QSFT_CACHE", str(tmp_path / "cache"))
    return cache_folder() / "features"


@pytest.fixture
def tower_config(config, clip, cache):
    """A small run on pixels, images and instructions read by the tower."""

    def build(**settings):
        source = f"open_clip:local-dir:{clip}"
        towers = {"model__image_encoder": source, "model__text_encoder": source}
        return config(pixels=True, **(towers | settings))

    return build


def rows(run: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what a clock measured."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {k: x for k, x in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def actions(folder: Path, observations) -> np.ndarray:
    policy = load_policy(folder)
    policy.reset(seed=3)
    return np.stack([policy.infer(o) for o in observations])


def files(cache: Path) -> dict[str, int]:
    """Feature files by name, and when each was written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in cache.glob("*/features.npy")}


def test_rows_are_what_the_tower_makes_of_each_frame(tower_config, cache):
    setting = tower_config(data__valid_key="valid")
    data = read_run_data(setting)
    model = build_run_model(setting, data).eval()
    found = on_tower_features(setting, data, model)
    for ours, given in ((found.train, data.train), (found.valid, data.valid)):
        assert isinstance(ours.frames, FeatureCache)
        assert isinstance(given.frames, FrameCache)
        rows = np.array([[0, 3], [7, 1]])
        for camera in setting.data.cameras:
            images = torch.from_numpy(given.frames.read(camera, rows)).flatten(0, 1)
            expected = model.images.patches(images).unflatten(0, (2, 2))
            features = ours.frames.read(camera, rows)
            assert features.dtype == np.float16
            assert features.shape == (2, 2, 16, 32)
            np.testing.assert_allclose(features, expected.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["sft", "qsft"])
def test_cached_features_give_the_losses_of_images(tower_config, cache, method):
    # float16 rounds a feature by at most 2 ** -11 of itself; the losses of a few updates then
    # agree to about as many digits (1e-5 was seen).
    losses = []
    for gib in (1.0, 0.0):
        setting = tower_config(method=method, data__feature_cache_gib=gib, optim__value_steps=4)
        train(replace(setting, out=setting.out / str(gib)))
        losses.append(rows(setting.out / str(gib)))
        assert len(files(cache)) == 2  # one a camera, made by the first run alone
    assert len(losses[0]) >= 3
    for ours, theirs in zip(*losses, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            if name.startswith("loss/"):
                assert ours[name] == pytest.approx(theirs[name], rel=5e-4, abs=5e-4), name


def test_a_run_with_a_tower_resumes_exports_and_acts_without_its_source(
    tower_config, clip, tmp_path, pixel_observations
):
    folder = tmp_path / "clip"
    shutil.copytree(clip, folder)
    source = f"open_clip:local-dir:{folder}"
    few = {"model__image_encoder": source, "model__text_encoder": source}
    few |= {"optim__behavior_steps": 2, "optim__value_steps": 2}
    setting = tower_config(**few)
    train(setting, stop_after=2)
    policy = train(resume_config(setting.out), resume=True)
    whole = replace(setting, out=tmp_path / "whole")
    train(whole)
    resumed, straight = (read_policy_folder(r / "policy") for r in (setting.out, whole.out))
    assert all(torch.equal(x, straight[1][k]) for k, x in resumed[1].items())
    shutil.rmtree(folder)  # neither tower is read again
    found = actions(setting.out / "checkpoint", pixel_observations)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(actions(policy, pixel_observations), found)
    described = resumed[0].model["config"]
    assert described["image_tower"]["weights"] != described["text_tower"]["weights"]


def test_fine_tuning_changes_tower_weights_and_caches_nothing(tower_config, cache, clip):
    from safetensors.torch import load_file

    given = load_file(clip / "open_clip_model.safetensors")["visual.conv1.weight"]
    name = "images.encoder.tower.backbone.conv1.weight"
    for fine_tune in (False, True):
        setting = tower_config(
            model__fine_tune_towers=fine_tune, method="sft", optim__value_steps=1
        )
        setting = replace(setting, out=setting.out / str(fine_tune))
        train(setting)
        _, weights = read_policy_folder(setting.out / "policy")
        assert torch.equal(weights[f"behavior.{name}"], given) != fine_tune
    assert len(files(cache)) == 2


def test_later_runs_use_what_is_there_and_other_data_weights_or_preprocessing_do_not(
    tower_config, cache, tmp_path, pixel_logs
):
    def build(setting, **changes):
        data = read_run_data(setting)
        on_tower_features(setting, data, build_run_model(setting, data))
        return files(cache)

    setting = tower_config()
    first = build(setting)
    assert len(first) == 2
    assert build(replace(setting, seed=1, out=tmp_path / "other")) == first
    # The same pixels in another file, under another name and date.
    copied = shutil.copy(pixel_logs, tmp_path / "copied.hdf5")
    assert build(tower_config(data__path=copied)) == first
    with h5py.File(copied, "a") as file:
        file["data/demo_0/obs/wrist_image"][0] = 0
    assert len(build(tower_config(data__path=copied))) == 3  # the front camera is as it was
    other = write_open_clip(tmp_path / "other_weights", seed=1)
    assert len(build(tower_config(model__image_encoder=f"open_clip:local-dir:{other}"))) == 5
    pixels = write_open_clip(tmp_path / "other_pixels", mean=[0.5] * 3)
    assert len(build(tower_config(model__image_encoder=f"open_clip:local-dir:{pixels}"))) == 7


def test_a_key_is_told_by_every_part_of_the_tower_and_by_the_camera(tower_config):
    frames = read_run_data(tower_config()).train.frames
    tower = {"size": [32, 32], "mean": [0.5], "weights": "a", "version": "1"}
    keys = {cache_key(frames, camera, tower) for camera in frames.cameras}
    for name in tower:
        keys.add(cache_key(frames, "front_image", tower | {name: "changed"}))
    assert len(keys) == 2 + len(tower)
    assert cache_key(frames, "front_image", dict(reversed(tower.items()))) in keys


def test_budgets_and_settings_that_contradict_are_refused(tower_config, cache):
    def start(**settings):
        setting = tower_config(**settings)
        data = read_run_data(setting)
        return on_tower_features(setting, data, build_run_model(setting, data))

    with pytest.raises(ValueError, match=r"16 x 32 float16.*--data.feature-cache-gib 0\.001"):
        start(data__feature_cache_gib=1e-5)
    with pytest.raises(ValueError, match=r"random-shift 2 moves pixels"):
        start(model__random_shift=2)
    assert isinstance(
        start(data__feature_cache_gib=0.0, model__random_shift=2).train.frames, FrameCache
    )
    assert not files(cache)
    with pytest.raises(ValueError, match=r"--model.text-weights belongs to a text tower"):
        tower_config(model__text_encoder="words", model__text_weights="x.safetensors")


def test_a_feature_beyond_float16_is_refused(tower_config, cache):
    frames = read_run_data(tower_config()).train.frames
    tower = {"grid": [2, 2], "channels": 3}
    with pytest.raises(ValueError, match="range of float16"):
        FeatureCache.build(
            frames, lambda images: torch.full((len(images), 4, 3), 1e5), tower, cache,
            byte_budget=1 << 20, show_progress=False,
        )  # fmt: skip
    assert not list(cache.glob("*"))


def test_a_resume_with_other_weights_is_refused(config, cache, tmp_path):
    weights = write_timm(tmp_path / "test_vit.safetensors")
    setting = config(
        pixels=True, model__image_encoder="timm:test_vit", model__image_weights=str(weights)
    )
    train(setting, stop_after=2)
    write_timm(weights, seed=1)
    with pytest.raises(ValueError, match="another image tower"):
        train(resume_config(setting.out), resume=True)
