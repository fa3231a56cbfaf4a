"""The files that make LeRobot find a policy folder: its configuration and two processors."""

from __future__ import annotations

import json
from typing import Any

from qsft_robot.lerobot.format import ACTION, STATE, camera_feature
from qsft_robot.policy.description import PolicyDescription

# The name under which the plugin registers its policies.
POLICY_TYPE = "qsft"
CONFIG, PREPROCESSOR, POSTPROCESSOR = (
    "config.json", "policy_preprocessor.json", "policy_postprocessor.json",
)  # fmt: skip


def lerobot_files(description: PolicyDescription) -> dict[str, str]:
    """File name -> JSON, for a policy as policy.json describes it (plugins/lerobot_policy_qsft).

    State keys are joined to observation.state in the policy's order, <cam>_image is
    observation.images.<cam>; nothing is normalized there, which the folder does itself. ValueError
    for a policy that acts by text.
    """
    if description.tokenizer["kind"] == "commands" or description.text_keys:
        raise ValueError("LeRobot has no text commands and texts: --lerobot is for arms' policies.")
    state_keys, action = list(description.state_keys), description.action
    sizes = [len(description.norm_stats.mean[key]) for key in state_keys]
    cameras = {camera_feature(key): key for key in description.cameras}
    inputs: dict[str, Any] = {STATE: _feature("STATE", [sum(sizes)])} if sizes else {}
    for feature, key in cameras.items():
        inputs[feature] = _feature("VISUAL", [3, *description.cameras[key]])
    config = {
        "type": POLICY_TYPE,
        "n_obs_steps": 1,
        "input_features": inputs,
        "output_features": {ACTION: _feature("ACTION", [action.dim])},
        "n_action_steps": description.acting.execute or action.horizon,
        "state_keys": state_keys,
        "state_sizes": sizes,
        "camera_keys": cameras,
    }
    device = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    rename = {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}}
    batch = {"registry_name": "to_batch_processor", "config": {}}
    before = {"name": "policy_preprocessor", "steps": [rename, batch, device]}
    after = {"name": "policy_postprocessor", "steps": [device]}
    files = {CONFIG: config, PREPROCESSOR: before, POSTPROCESSOR: after}
    return {name: json.dumps(content, indent=2) + "\n" for name, content in files.items()}


def _feature(kind: str, shape: list[int]) -> dict[str, Any]:
    return {"type": kind, "shape": shape}
