"""Runs that fine-tune a pretrained model: resumed, refused on another base, and their baselines."""

from __future__ import annotations

import filecmp
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from qsft_robot.algorithms.networks import PolicyNetworks, teacher_forced
from qsft_robot.config.model import ModelConfig
from qsft_robot.config.train import TrainConfig
from qsft_robot.export.export import export_policy
from qsft_robot.policy.checkpoint import read_policy_folder, read_training
from qsft_robot.policy.token_policy import load_policy
from qsft_robot.token_data.run_data import read_run_data
from qsft_robot.training.run_model import build_run_model
from qsft_robot.training.train import resume_config, train

pytest.importorskip("transformers")


def rows(run: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what a clock measured."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {k: x for k, x in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def actions(folder: Path, observations, **acting) -> np.ndarray:
    policy = load_policy(folder)
    policy = policy.with_acting(**acting) if acting else policy
    policy.reset(seed=3)
    return np.stack([policy.infer(o) for o in observations[:5]])


@pytest.mark.parametrize("stop_after", [2, 7])
@pytest.mark.parametrize("family", ["gpt2", "smolvlm"])
def test_a_resumed_run_ends_with_the_same_bits(pretrained, tmp_path, family, stop_after):
    pixels = family != "gpt2"
    whole = pretrained(family, pixels=pixels, model__lora_dropout=0.2, out=tmp_path / "whole")
    train(whole)
    parts = replace(whole, out=tmp_path / "parts")
    train(parts, stop_after=stop_after)
    train(resume_config(parts.out), resume=True)
    a, b = (run / "checkpoint/weights.safetensors" for run in (whole.out, parts.out))
    assert filecmp.cmp(a, b, shallow=False)
    a, b = (read_training(run / "checkpoint")[1] for run in (whole.out, parts.out))
    assert all(torch.equal(a[k], b[k]) for k in a if not k.startswith("log.time/"))
    assert rows(whole.out) == rows(parts.out)


def test_a_checkpoint_holds_what_was_trained_and_names_its_base(pretrained, tiny_folder):
    setting = pretrained("gpt2")
    train(setting)
    description, weights = read_policy_folder(setting.out / "checkpoint")
    config = description.model["config"]
    assert description.model["kind"] == "pretrained"
    assert config["base"] == str(tiny_folder("gpt2"))
    assert len(config["fingerprint"]) == 64
    assert all("lora_" in name or "rows" in name or "token" in name or "void" in name
               for name in weights)  # fmt: skip
    assert (setting.out / "checkpoint" / "processor" / "tokenizer.json").is_file()
    assert not list(setting.out.rglob("*.bin")) + list(setting.out.rglob("*.pt"))


def test_theta_shares_the_base_with_phi_and_starts_as_its_equal(pretrained):
    setting = pretrained("gpt2")
    data = read_run_data(setting)
    networks = PolicyNetworks(build_run_model(setting, data)).eval()
    networks.start_value_stage("void", 8)
    phi, theta = networks.trunks()
    trained = {id(p) for p in theta.parameters() if p.requires_grad}
    shared = {id(p) for p in phi.parameters()} & {id(p) for p in theta.parameters()}
    assert trained
    assert not trained & shared
    assert shared | trained == {id(p) for p in theta.parameters()}
    batch = data.train.batch(torch.arange(8))
    with torch.no_grad():
        logits = [teacher_forced(model, batch).logits for model in (phi, theta)]
    assert torch.equal(*logits)


def test_two_networks_are_exported_with_one_copy_of_the_base_and_act_to_the_bit(
    pretrained, observations, tmp_path
):
    setting = pretrained("qwen3")
    train(setting)
    exported = export_policy(setting.out / "checkpoint", tmp_path / "policy", {"k": 2.0})
    expected = actions(setting.out / "checkpoint", observations, k=2.0)
    assert np.array_equal(actions(exported, observations), expected)
    policy = load_policy(exported)
    phi, theta = policy.networks.trunks()
    assert phi.shares_base_with(theta)


@pytest.fixture
def own_base(tiny_folder, tmp_path) -> Path:
    return shutil.copytree(tiny_folder("gpt2"), tmp_path / "base")


def test_a_checkpoint_on_a_base_that_changed_is_refused_in_one_sentence(pretrained, own_base):
    setting = pretrained("gpt2", model__pretrained=str(own_base))
    train(setting, stop_after=5)
    weights = load_file(own_base / "model.safetensors")
    changed = {name: x + 1e-3 if x.ndim > 1 else x for name, x in weights.items()}
    save_file(changed, own_base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"checkpoint.*of fingerprint .*needs the same base model"):
        train(resume_config(setting.out), resume=True)
    with pytest.raises(ValueError, match="not the base that the checkpoint was trained on"):
        load_policy(setting.out / "checkpoint")
    shutil.rmtree(own_base)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_policy(setting.out / "checkpoint")


def test_the_behavior_of_another_base_is_refused(pretrained, tmp_path):
    source = pretrained("gpt2", out=tmp_path / "source")
    train(source, stop_after=4)
    other = pretrained("llama", out=tmp_path / "other", behavior_from=source.out)
    with pytest.raises(ValueError, match="its model differs"):
        train(other)


@pytest.mark.parametrize(
    "baseline",
    [
        {"pretrained_weights": "body"},
        {"pretrained_weights": "none", "model__lora_rank": 0},
        {"model__lora_rank": 0},
        {"method": "ilql", "acting__rule": "advantage"},
        {"method": "sft"},
        {"method": "return_conditioned"},
        {"preset": "paper"},
    ],
    ids=lambda baseline: " ".join(f"{k} {x}" for k, x in baseline.items()),
)
def test_a_rival_trains_resumes_and_is_exported_alike(pretrained, observations, tmp_path, baseline):
    baseline = dict(baseline)
    presets = [baseline.pop("preset")] if "preset" in baseline else []
    few = {"optim__behavior_steps": 2, "optim__value_steps": 2, "out": tmp_path / "run"}
    setting = pretrained("gpt2", *presets, **few, **baseline)
    train(setting, stop_after=3 if setting.two_stages else 2)
    policy = train(resume_config(setting.out), resume=True)
    expected = actions(setting.out / "checkpoint", observations)
    assert np.array_equal(actions(policy, observations), expected)


def first_model(setting: TrainConfig):
    torch.manual_seed(7)
    return build_run_model(setting, read_run_data(setting))


def test_a_reinitialized_head_keeps_the_body_and_a_model_from_scratch_nothing(pretrained):
    as_it_is = first_model(pretrained("gpt2"))
    new_head = first_model(pretrained("gpt2", pretrained_weights="body"))
    scratch = first_model(pretrained("gpt2", pretrained_weights="none", model__lora_rank=0))

    def same(other, name: str) -> bool:
        mine, theirs = (dict(m.language_model.named_parameters()) for m in (as_it_is, other))
        key = {k.replace(".base_layer", ""): x for k, x in mine.items()}
        value = {k.replace(".base_layer", ""): x for k, x in theirs.items()}
        return torch.equal(key[name], value[name])

    block = "h.0.attn.c_attn.weight"
    assert same(new_head, block)
    assert not same(scratch, block)
    assert not torch.equal(as_it_is.action_rows, new_head.action_rows)
    assert all(p.requires_grad for p in scratch.language_model.parameters())


def test_recomputed_activations_give_the_same_losses(pretrained, config, tmp_path):
    for build, extra in (
        (config, {"model__dropout": 0.2}),
        (lambda **s: pretrained("gpt2", **s), {}),
    ):
        found = []
        for on in (False, True):
            setting = build(
                optim__checkpoint_activations=on, out=tmp_path / f"{len(extra)}{on}", **extra
            )
            train(setting, stop_after=4)
            found.append([row["loss/total"] for row in rows(setting.out)])
        assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"revision": "main"}, "--model.revision"),
        ({"pretrained": "a/b", "width": 64}, "--model.width"),
        ({"pretrained": "a/b", "image_encoder": "timm:resnet18"}, "--model.image-encoder"),
        ({"lora_rank": -1}, "--model.lora-rank"),
        ({"lora_dropout": 1.0}, "--model.lora-dropout"),
    ],
)  # fmt: skip
def test_settings_of_a_model_that_contradict_each_other_are_refused(settings, flag):
    with pytest.raises(ValueError, match=flag):
        ModelConfig(**settings)


@pytest.mark.parametrize(
    ("model", "weights", "flag"),
    [
        ({}, "none", "name one with --model.pretrained"),
        ({}, "body", "name one with --model.pretrained"),
        ({"pretrained": "a/b"}, "none", "--model.lora-rank 0"),
        ({"pretrained": "a/b", "random_shift": 2}, "body", "--model.no-frozen-features"),
    ],
)
def test_weights_to_begin_with_that_contradict_the_model_are_refused(model, weights, flag):
    with pytest.raises(ValueError, match=flag):
        TrainConfig(model=ModelConfig(**model), pretrained_weights=weights)


def test_a_frozen_tower_learns_no_auxiliary_keys(config):
    with pytest.raises(ValueError, match=r"--data\.auxiliary-keys.*--model\.no-frozen-features"):
        config(pixels=True, model__pretrained="a/b", model__width=None, model__depth=None,
               data__auxiliary_keys=("target",))  # fmt: skip


def test_a_run_and_a_policy_of_before_pretrained_models_still_load(config, observations):
    """What an older version wrote has none of the newer entries."""
    setting = config()
    policy = train(setting, stop_after=6)
    known = json.loads((setting.out / "config.json").read_text())
    old = {"name", "width", "depth", "history", "image_encoder", "image_weights", "random_shift",
           "auxiliary_weight", "dropout", "frozen_features"}  # fmt: skip
    known["model"] = {name: x for name, x in known["model"].items() if name in old}
    for name in ("accumulate", "compile", "shard"):
        del known["optim"][name]
    (setting.out / "config.json").write_text(json.dumps(known))
    policy = train(resume_config(setting.out), resume=True)
    assert actions(policy, observations).shape == (5, 1, 4)
