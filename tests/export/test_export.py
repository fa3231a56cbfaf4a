"""Export: the smallest folder that acts the same, readable without the project's code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from qsft_robot.export.export import export_policy
from qsft_robot.files import SUMS
from qsft_robot.policy.token_policy import load_policy
from qsft_robot.training.train import train

SETTINGS: dict[str, dict[str, Any]] = {
    "history and chunks": {"model__history": 3, "tokenizer__horizon": 2},
    "pixels, frozen features": {"pixels": True, "model__history": 3, "tokenizer__horizon": 2},
    "pixels, own encoder": {"pixels": True, "model__frozen_features": False},
    "quantile bins, ilql": {
        "method": "ilql", "acting__rule": "advantage", "tokenizer__kind": "quantile_bins",
    },
    "perceptrons": {"model__name": "perceptron", "model__history": 2, "tokenizer__horizon": 2},
    "scaled actions": {"data__action_low": (-2.0,), "data__action_high": (2.0,)},
}  # fmt: skip
RULES: dict[str, dict[str, Any]] = {
    "as trained": {},
    "k = 3": {"rule": "power", "k": 3.0},
    "ratio": {"rule": "ratio", "beta": 20.0},
    "paper": {"rule": "paper"},
    "behavior": {"rule": "behavior"},
}


def decide(folder: Path, observations, **acting: Any) -> np.ndarray:
    policy = load_policy(folder)
    policy = policy.with_acting(**acting) if acting else policy
    policy.reset(seed=7)
    return np.stack([policy.infer(o) for o in observations])


@pytest.fixture
def checkpoint(config) -> Path:
    train(config())
    return config().out / "checkpoint"


@pytest.mark.parametrize("name", SETTINGS)
def test_the_exported_policy_acts_as_the_checkpoint_to_the_bit(
    config, observations, pixel_observations, name
):
    setting = config(**SETTINGS[name])
    policy = train(setting)
    seen = pixel_observations if setting.data.cameras else observations
    expected = decide(setting.out / "checkpoint", seen)
    assert expected.shape[:2] == (20, setting.tokenizer.horizon)
    assert np.array_equal(decide(policy, seen), expected)
    limit = 2 if name == "scaled actions" else 1
    assert limit / 2 < np.abs(expected).max() <= limit


@pytest.mark.parametrize("name", RULES)
def test_an_export_under_another_rule_acts_as_the_checkpoint_under_that_rule(
    checkpoint, observations, tmp_path, name
):
    exported = export_policy(checkpoint, tmp_path / "policy", RULES[name])
    expected = decide(checkpoint, observations, **RULES[name])
    assert np.array_equal(decide(exported, observations), expected)


def parameters(folder: Path) -> dict[str, int]:
    """Parameters of each network, read with safetensors alone."""
    found: dict[str, int] = {}
    with safe_open(folder / "weights.safetensors", "np") as file:
        for key in file.keys():  # noqa: SIM118 (not a dictionary)
            part = key.split(".")[0]
            found[part] = found.get(part, 0) + file.get_tensor(key).size
    return found


def test_k_1_exports_one_network(checkpoint, tmp_path):
    one = export_policy(checkpoint, tmp_path / "one")
    both = export_policy(checkpoint, tmp_path / "both", {"k": 2.0})
    phi = export_policy(checkpoint, tmp_path / "phi", {"rule": "behavior"})
    whole = parameters(checkpoint)
    assert parameters(both) == whole
    assert parameters(one) == {k: x for k, x in whole.items() if k != "behavior"}
    assert parameters(phi) == {"behavior": whole["behavior"]}
    for folder, parts in ((one, ["value", "void"]), (both, ["behavior", "value", "void"])):
        assert json.loads((folder / "policy.json").read_text())["networks"] == parts


def test_one_network_can_not_act_by_a_rule_that_needs_the_behavior(checkpoint, tmp_path):
    one = load_policy(export_policy(checkpoint, tmp_path / "one"))
    with pytest.raises(ValueError, match="exported without; export it again"):
        one.with_acting(k=2.0)
    with pytest.raises(ValueError, match="exported without; export it again"):
        one.with_acting(rule="ratio")


def test_an_export_that_nothing_can_serve_writes_nothing(config, tmp_path):
    setting = config(method="sft")
    train(setting)
    with pytest.raises(ValueError, match="needs a value network"):
        export_policy(setting.out / "checkpoint", tmp_path / "p", {"rule": "ratio"})
    with pytest.raises(ValueError, match="rule is 'powr'"):
        export_policy(setting.out / "checkpoint", tmp_path / "p", {"rule": "powr"})
    assert not (tmp_path / "p").exists()


def test_the_folder_holds_weights_description_card_and_sums_and_no_pickle(checkpoint, tmp_path):
    folder = export_policy(checkpoint, tmp_path / "policy")
    names = {"weights.safetensors", "policy.json", "README.md", SUMS}
    assert {file.name for file in folder.iterdir()} == names
    description = json.loads((folder / "policy.json").read_text())
    for part in ("tokenizer", "norm_stats", "state_keys", "cameras", "action", "acting", "model",
                 "return_range", "data", "seed", "versions", "env_args", "method"):  # fmt: skip
        assert part in description
    card = (folder / "README.md").read_text()
    count = sum(parameters(folder).values())
    for words in (f"{count:,} parameters", "`proprio`", "`target`", "place.hdf5", "12 logs",
                  description["data"]["sha256"], "sha256sum -c"):  # fmt: skip
        assert words in card


def test_an_exported_policy_with_a_changed_byte_is_not_loaded(checkpoint, tmp_path):
    folder = export_policy(checkpoint, tmp_path / "policy")
    text = (folder / "policy.json").read_text()
    (folder / "policy.json").write_text(text.replace('"k": 1.0', '"k": 2.0'))
    with pytest.raises(ValueError, match=r"policy\.json: does not match SHA256SUMS"):
        load_policy(folder)


def test_a_policy_of_another_run_replaces_the_exported_folder(config, checkpoint, tmp_path):
    folder = export_policy(checkpoint, tmp_path / "policy")
    before = (folder / "weights.safetensors").read_bytes()
    other = replace(config(seed=1), out=tmp_path / "other")
    train(other)
    export_policy(other.out / "checkpoint", folder)
    assert (folder / "weights.safetensors").read_bytes() != before
    assert json.loads((folder / "policy.json").read_text())["seed"] == 1
