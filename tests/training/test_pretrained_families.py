"""A pretrained model of each family: trained, evaluated, exported and loaded as any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from qsft_robot.cli import main
from qsft_robot.parts.models import tiny_families
from qsft_robot.policy.checkpoint import read_policy_folder
from qsft_robot.policy.token_policy import load_policy
from qsft_robot.training.train import train

transformers = pytest.importorskip("transformers")


def decisions(folder: Path, observations, **acting) -> tuple[np.ndarray, list[float]]:
    """Actions and values of five observations in one episode."""
    policy = load_policy(folder)
    policy = policy.with_acting(**acting) if acting else policy
    memory = policy.begin_episode(3)
    found = [policy.infer_batch([o], [memory])[0] for o in observations[:5]]
    return np.stack([d.actions for d in found]), [d.value for d in found]


@pytest.mark.parametrize("family", tiny_families())
def test_each_family_trains_and_its_exported_folder_acts_the_same_without_the_base(
    family, pretrained, tiny_folder, observations, pixel_observations, tmp_path
):
    pixels = "vision_config" in json.loads((tiny_folder(family) / "config.json").read_text())
    few = {"optim__behavior_steps": 2, "optim__value_steps": 2}
    setting = pretrained(family, pixels=pixels, **few)
    policy = train(setting)
    seen = pixel_observations if pixels else observations
    expected, values = decisions(setting.out / "checkpoint", seen)
    # A folder that was moved to another machine, where the base never was.
    moved = policy.rename(tmp_path / "elsewhere")
    actions, again = decisions(moved, seen)
    assert np.array_equal(actions, expected)
    assert again == pytest.approx(values, abs=1e-5)
    description = json.loads((moved / "policy.json").read_text())
    assert description["networks"] == ["value", "void"]
    assert description["model"]["merge_error"] < 1e-4
    auto = transformers.AutoModelForImageTextToText if pixels else transformers.AutoModelForCausalLM
    plain = auto.from_pretrained(moved / "base")
    assert sum(p.numel() for p in plain.parameters()) > 10_000


def test_a_text_model_trains_on_state_in_words(pretrained, observations):
    setting = pretrained("gpt2", model__state_as="text", data__state_keys=("proprio",))
    policy = train(setting)
    expected, values = decisions(setting.out / "checkpoint", observations)
    actions, again = decisions(policy, observations)
    assert np.array_equal(actions, expected)
    assert again == pytest.approx(values, abs=1e-5)
    weights = read_policy_folder(setting.out / "checkpoint")[1]
    assert not [name for name in weights if "state_token" in name]


def test_the_command_line_trains_and_evaluates_a_pretrained_model(
    tiny_folder, pixel_logs, tmp_path
):
    out, base = tmp_path / "run", tiny_folder("smolvlm")
    flags = {
        "--data.path": pixel_logs, "--data.state-keys": "proprio", "--data.cameras": "front_image",
        "--model.pretrained": base, "--model.lora-rank": 2, "--tokenizer.n-bins": 8,
        "--optim.batch-size": 8, "--optim.behavior-steps": 1, "--optim.value-steps": 1,
        "--out": out,
    }  # fmt: skip
    assert main(["train", *(str(x) for pair in flags.items() for x in pair)]) == 0
    assert (
        main(["evaluate", str(out), "--episodes", "1", "--max-steps", "3", "--workers", "1"]) == 0
    )
    summary = json.loads((out / "evaluation" / "policy" / "summary.json").read_text())
    assert (summary["n"], summary["mean_steps"]) == (1, 3.0)


def test_a_model_in_bfloat16_is_merged_within_its_own_rounding(pretrained, pixel_observations):
    setting = pretrained(
        "smolvlm", pixels=True, model__dtype="bfloat16", optim__precision="bfloat16"
    )
    policy = train(setting)
    description, weights = read_policy_folder(policy)
    assert 0 < description.model["merge_error"] < 0.1
    assert all(x.dtype == torch.float32 for name, x in weights.items() if "rows" in name)
    actions, values = decisions(policy, pixel_observations, temperature=0.0)
    assert np.isfinite(actions).all()
    _, expected = decisions(setting.out / "checkpoint", pixel_observations, temperature=0.0)
    assert values == pytest.approx(expected, abs=0.02)


def test_an_adapter_that_merging_would_change_is_kept_beside_its_base(
    pretrained, observations, monkeypatch, capsys
):
    monkeypatch.setattr("qsft_robot.export.pretrained_folders.MERGE_TOLERANCE", {"float32": -1.0})
    setting = pretrained("gpt2", optim__value_steps=2)
    policy = train(setting)
    assert "keeps it beside its base" in capsys.readouterr().err
    assert any("lora_" in name for name in read_policy_folder(policy)[1])
    expected, values = decisions(setting.out / "checkpoint", observations)
    actions, again = decisions(policy, observations)
    assert np.array_equal(actions, expected)
    assert again == values
