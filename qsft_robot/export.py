"""Export: from a checkpoint to the smallest folder that acts the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from qsft_robot.checkpoint import read_policy_folder, write_checkpoint
from qsft_robot.policy import TokenPolicy, build_networks
from qsft_robot.pretrained_folders import self_contained


def export_policy(checkpoint: Path, out: Path, acting: dict[str, Any] | None = None) -> Path:
    """Write the policy of a checkpoint to `out`: weights.safetensors, policy.json, README.md (the
    model card) and SHA256SUMS. `acting` changes entries of the acting rule.

    Networks that the rule doesn't run are left out: with k = 1, p~ alone remains. Raises ValueError
    when the checkpoint is damaged or the rule needs a network that isn't there.
    """
    description, weights = read_policy_folder(checkpoint)
    description = {**description, "acting": {**description["acting"], **(acting or {})}}
    networks = build_networks(description, checkpoint)
    networks.load_state_dict(weights)
    rule, k = description["acting"]["rule"], description["acting"]["k"]
    if rule == "behaviour":
        networks.value = networks.void = networks.heads = None
    elif rule == "power" and k == 1:
        networks.behaviour = None
    parts = [name for name, module in networks.named_children() if module is not None]
    description["networks"] = parts
    TokenPolicy(description, networks)  # refuses a rule that the networks can't serve
    card = model_card(description, networks)
    with self_contained(networks, description, out) as (whole, told, folders):
        write_checkpoint(out, told, whole, extra_files={"README.md": card}, folders=folders)
    return out


def model_card(description: dict[str, Any], networks: nn.Module) -> str:
    """What a stranger needs to run the folder, in Markdown."""
    parameters = sum(p.numel() for p in networks.parameters())
    action, data, acting = description["action"], description["data"], description["acting"]
    sees = [f"- state `{key}`" for key in description["state_keys"]]
    sees += [
        f"- camera `{key}`: uint8 RGB [{h}, {w}, 3]"
        for key, (h, w) in description["cameras"].items()
    ]
    rate = action["control_hz"]
    return "\n".join(
        [
            f"# Policy trained with {description['method']}",
            "",
            f"{parameters:,} parameters in {', '.join(description['networks'])}; "
            f"{description['tokenizer']['kind']} action tokens.",
            "",
            "## What it sees",
            "",
            *sees,
            f"- an instruction; trained on: {'; '.join(data['instructions'][:10]) or 'none'}",
            "",
            "## What it answers",
            "",
            f"float32 [{action['horizon']}, {action['dim']}]: {action['horizon']} action(s) of "
            f"{action['dim']} numbers between {action['low']} and {action['high']}, executed at "
            f"{f'{rate} Hz' if rate else 'the rate of the logs (the file did not tell it)'}.",
            "",
            "## How it acts",
            "",
            f"rule {acting['rule']}, k {acting['k']}, low-probability cut {acting['min_p']}, "
            f"temperature {acting['temperature']}.",
            "",
            "## What it was trained on",
            "",
            f"{data['file']} (SHA-256 {data['sha256']}), {data['episodes']} logs, {data['steps']} "
            f"steps, {100 * data['success_rate']:.1f} % successful; seed {description['seed']}.",
            "",
            "## How to run it",
            "",
            "```python",
            "from qsft_robot.policy import load_policy",
            "from qsft_robot.types import Observation",
            "",
            'policy = load_policy("this folder")',
            "policy.reset()",
            "actions = policy.infer(Observation(images, state, instruction))",
            "```",
            "",
            "`sha256sum -c SHA256SUMS` checks the files.",
            "",
        ]
    )
