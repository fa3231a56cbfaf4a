"""Stages beside the two of Q-SFT: auxiliary keys, and baselines that go on from a behavior."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from qsft_robot.config.data import DataConfig
from qsft_robot.files import read_json, write_json, write_sums
from qsft_robot.policy.checkpoint import read_policy_folder
from qsft_robot.training.train import resume_config, train

AUXILIARY = {"data__auxiliary_keys": ("target",)}


def weights(folder):
    return (folder / "policy" / "weights.safetensors").read_bytes()


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_image_tokens_learn_the_auxiliary_keys_and_the_policy_carries_no_head(config):
    run = config(pixels=True, method="sft", optim__behavior_steps=30, log_every=5, **AUXILIARY)
    train(run)
    told = [row["loss/auxiliary"] for row in rows(run.out)]
    assert told[-1] < 0.8 * told[0]
    _, tensors = read_policy_folder(run.out / "policy")
    assert not [name for name in tensors if "auxiliary" in name]


def test_a_run_with_auxiliary_keys_resumes_to_the_same_bits(config, tmp_path):
    whole = config(pixels=True, method="sft", out=tmp_path / "whole", **AUXILIARY)
    broken = replace(whole, out=tmp_path / "broken")
    train(whole)
    train(broken, stop_after=4)
    train(resume_config(broken.out), resume=True)
    assert weights(whole.out) == weights(broken.out)


def test_auxiliary_keys_need_cameras():
    with pytest.raises(ValueError, match=r"--data\.cameras"):
        DataConfig(state_keys=("proprio",), auxiliary_keys=("target",))


@pytest.mark.parametrize("method", ["sft", "filtered_sft", "return_conditioned"])
def test_a_baseline_goes_on_from_a_behavior_with_its_image_features(config, tmp_path, method):
    source = config(pixels=True, out=tmp_path / "qsft")
    train(source)
    run = replace(source, method=method, out=tmp_path / method, behavior_from=source.out)
    train(run)
    _, theirs = read_policy_folder(source.out / "checkpoint")
    _, ours = read_policy_folder(run.out / "policy")
    moved = {name for name, x in ours.items() if not x.equal(theirs[name])}
    assert moved
    assert not [name for name in moved if name.startswith("behavior.images.")]
    assert {row["stage"] for row in rows(run.out)} == {"tuning"}
    assert rows(run.out)[-1]["update"] == run.optim.value_steps


def test_a_baseline_on_a_behavior_resumes_to_the_same_bits(config, tmp_path):
    source = config(out=tmp_path / "qsft")
    train(source)
    whole = replace(source, method="filtered_sft", out=tmp_path / "whole", behavior_from=source.out)
    broken = replace(whole, out=tmp_path / "broken")
    train(whole)
    train(broken, stop_after=whole.optim.behavior_steps + 4)
    train(resume_config(broken.out), resume=True)
    assert weights(whole.out) == weights(broken.out)


def test_features_of_another_run_stay_as_they_are_in_both_stages_and_resume(config, tmp_path):
    source = config(pixels=True, method="sft", out=tmp_path / "source")
    train(source)
    whole = config(pixels=True, out=tmp_path / "whole", seed=3, features_from=source.out)
    train(whole)
    _, theirs = read_policy_folder(source.out / "checkpoint")
    _, ours = read_policy_folder(whole.out / "checkpoint")
    for name, x in theirs.items():
        same = ours[name].equal(x)
        assert same == name.startswith("behavior.images."), name
        if name.startswith("behavior.images."):
            assert ours[name.replace("behavior", "value", 1)].equal(x)
    for stop in (2, 8):
        broken = replace(whole, out=tmp_path / f"broken{stop}")
        train(broken, stop_after=stop)
        train(resume_config(broken.out), resume=True)
        assert weights(whole.out) == weights(broken.out)


def test_features_for_other_cameras_or_of_another_width_are_refused(config, tmp_path):
    source = config(pixels=True, method="sft", out=tmp_path / "source")
    train(source)
    other = config(pixels=True, out=tmp_path / "o", model__width=64, features_from=source.out)
    with pytest.raises(ValueError, match=r"--features-from .*source.*width"):
        train(other)
    other = config(pixels=True, out=tmp_path / "o", model__image_shrink=2, features_from=source.out)
    with pytest.raises(ValueError, match=r"--features-from .*source.*another model"):
        train(other)
    with pytest.raises(ValueError, match=r"--features-from needs --data\.cameras"):
        config(features_from=source.out)
    with pytest.raises(ValueError, match="exclude each other"):
        config(pixels=True, features_from=source.out, behavior_from=source.out)


def test_the_behavior_of_an_earlier_version_lacks_later_settings_and_is_taken(config, tmp_path):
    whole = train(config())
    checkpoint = config().out / "checkpoint"
    policy = read_json(checkpoint / "policy.json")
    for name in ("text_history", "image_shrink", "action_words"):
        del policy["model"]["config"][name]
    write_json(checkpoint / "policy.json", policy)
    write_sums(checkpoint)
    taken = train(replace(config(), out=tmp_path / "from", behavior_from=config().out))
    weights = [(p / "weights.safetensors").read_bytes() for p in (whole, taken)]
    assert weights[0] == weights[1]
