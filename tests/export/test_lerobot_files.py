"""A policy folder tells LeRobot its inputs and outputs in three JSON files."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from policy_fixtures import SETTINGS
from served_description import served

from qsft_robot.build import open_policy
from qsft_robot.cli import main
from qsft_robot.config.acting import ActingConfig
from qsft_robot.export.lerobot_files import POLICY_TYPE, lerobot_files
from qsft_robot.files import check_sums

STATE = {key: {"mean": [0.0] * n, "std": [1.0] * n} for key, n in (("target", 13), ("proprio", 8))}
DESCRIPTION = replace(
    served(
        4, {"horizon": 6}, state_keys=["proprio", "target"], acting={"execute": 3},
        norm_stats={"state": STATE, "actions": {"low": [-1] * 4, "high": [1] * 4}},
        cameras={"front_image": [48, 64], "image": [32, 32]},
    ),
    tokenizer={"kind": "uniform_bins"},
)  # fmt: skip


def test_features_are_what_the_policy_sees_and_answers():
    config = json.loads(lerobot_files(DESCRIPTION)["config.json"])
    assert config["type"] == POLICY_TYPE
    assert config["input_features"] == {
        "observation.state": {"type": "STATE", "shape": [21]},
        "observation.images.front": {"type": "VISUAL", "shape": [3, 48, 64]},
        "observation.image": {"type": "VISUAL", "shape": [3, 32, 32]},
    }
    assert config["output_features"] == {"action": {"type": "ACTION", "shape": [4]}}
    assert (config["state_keys"], config["state_sizes"]) == (["proprio", "target"], [8, 13])
    assert config["camera_keys"]["observation.images.front"] == "front_image"
    assert config["n_action_steps"] == 3
    whole = json.loads(lerobot_files(replace(DESCRIPTION, acting=ActingConfig()))["config.json"])
    assert whole["n_action_steps"] == 6


def test_processors_have_the_steps_that_lerobot_overrides_and_normalize_nothing():
    files = lerobot_files(DESCRIPTION)
    steps = {
        name: [step["registry_name"] for step in json.loads(text)["steps"]]
        for name, text in files.items() if name != "config.json"
    }  # fmt: skip
    assert {"rename_observations_processor", "device_processor"} < set(
        steps["policy_preprocessor.json"]
    )
    assert steps["policy_postprocessor.json"] == ["device_processor"]
    assert not re.search("normaliz", " ".join(files.values()))


@pytest.mark.parametrize(
    "changes", [{"tokenizer": {"kind": "commands", "free": True}}, {"text_keys": ("answer",)}]
)
def test_policies_of_text_are_refused(changes):
    with pytest.raises(ValueError, match="for arms' policies"):
        lerobot_files(replace(DESCRIPTION, **changes))


def test_the_exported_folder_opens_as_before(exported, tmp_path, capsys):
    checkpoint, out = exported(next(iter(SETTINGS))).checkpoint, tmp_path / "policy"
    assert main(["export", str(checkpoint), "--out", str(out), "--no-onnx", "--lerobot"]) == 0
    capsys.readouterr()
    check_sums(out)
    config = json.loads((out / "config.json").read_text())
    about = open_policy(out).description
    assert config["state_keys"] == list(about.state_keys)
    assert sum(config["state_sizes"]) == sum(
        len(about.norm_stats.mean[key]) for key in about.state_keys
    )


@pytest.mark.parametrize("kind", ["policy", "env"])
def test_lerobot_finds_the_plugins_by_their_distributions_names(repository, kind):
    # Its search is `name.startswith("lerobot_policy_")`: a hyphen would not be found.
    name = f"lerobot_{kind}_{POLICY_TYPE}"
    folder = repository / "plugins" / name
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == name
    packages = [path.parent.name for path in Path(folder / "src").glob("*/__init__.py")]
    assert packages == [name]
