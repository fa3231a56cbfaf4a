"""Export: from a checkpoint to the smallest folder that acts the same."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from qsft_robot.config.acting import ActingConfig
from qsft_robot.config.json_form import from_json
from qsft_robot.config.run_config import CONFIG, read_config
from qsft_robot.export.lerobot_files import lerobot_files
from qsft_robot.export.pretrained_folders import self_contained
from qsft_robot.export.recorded_observations import random_observations, recorded_observations
from qsft_robot.files import check_replaceable, sha256_of
from qsft_robot.policy.checkpoint import write_checkpoint
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import described_by
from qsft_robot.policy.token_policy import TokenPolicy, read_networks
from qsft_robot.trust import NOTHING, Trust
from qsft_robot.types import ADMISSIBLE, Observation

PARITY_OBSERVATIONS = 128
_UNTOLD = "the rate of the logs (the file did not tell it)"


def export_policy(
    checkpoint: Path,
    out: Path,
    acting: dict[str, Any] | None = None,
    onnx: bool = False,
    data: Path | None = None,
    trust: Trust = NOTHING,
    lerobot: bool = False,
) -> Path:
    """Write the policy of a checkpoint to `out`: weights.safetensors, policy.json, README.md (the
    model card) and SHA256SUMS. `acting` changes entries of the acting rule.

    Networks that the rule doesn't run are left out: with k = 1, p~ alone remains. With `onnx` the
    folder also holds the graphs that need no torch, after they were held against this policy on
    observations of `data` (the run's own data file when not given); with `lerobot` the files by
    which LeRobot finds it. `trust` is what the caller
    allows a checkpoint that somebody else may have made. Raises ValueError when the
    checkpoint is damaged or the rule needs a network that isn't there, NotExportable (one, too)
    when the policy has no ONNX form, RuntimeError when the graphs act otherwise, FileExistsError
    when `out` holds something else.
    """
    check_replaceable(out)
    description, networks = read_networks(checkpoint, trust)
    rule: ActingConfig = from_json(ActingConfig, {**vars(description.acting), **(acting or {})})
    if rule.rule == "behavior":
        networks.remove_value()
    elif not rule.runs_behavior:
        networks.behavior = None
    if not rule.needs_critic:
        networks.critic = None
    description = replace(
        description,
        acting=rule,
        networks=tuple(name for name, part in networks.named_children() if part is not None),
        critic=None if networks.critic is None else description.critic,
        onnx=None,
    )
    with described_by(checkpoint):
        policy = TokenPolicy(description, networks)  # refuses a rule that they can't serve
    extra: dict[str, str | bytes] = {}
    if onnx:
        graphs, extra = _graphs(policy, checkpoint, data)
        description = replace(description, onnx=graphs)
    if lerobot:
        extra |= lerobot_files(description)
    extra["README.md"] = model_card(description, networks)
    with self_contained(networks, description, out, trust) as (whole, told, folders):
        write_checkpoint(out, told, whole, extra_files=extra, folders=folders)
    return out


def _graphs(
    policy: TokenPolicy, checkpoint: Path, data: Path | None
) -> tuple[dict[str, Any], dict[str, str | bytes]]:
    """The graphs' entry of policy.json, and their files; RuntimeError beyond the tolerance."""
    from qsft_robot.export.onnx_graphs import write_graphs
    from qsft_robot.export.onnx_parity import measure
    from qsft_robot.policy.onnx_policy import OnnxPolicy

    with tempfile.TemporaryDirectory(prefix="qsft-onnx-") as name:
        folder = Path(name)
        onnx = write_graphs(policy, folder)
        logs, source = _observations(policy, checkpoint, data)
        graphs = OnnxPolicy(folder, replace(policy.description, onnx=onnx))
        parity = measure(policy, graphs, logs)
        if wrong := parity.beyond():
            raise RuntimeError(
                f"the ONNX graphs act otherwise than the policy in {parity.different} of "
                f"{parity.decisions} decisions on {source}: {'; '.join(wrong)}. Nothing was "
                "written; --no-onnx exports the policy without graphs."
            )
        onnx["parity"] = {
            "observations": sum(map(len, logs)),
            "measured_on": source,
            **parity.to_json(),
        }
        return onnx, {file.name: file.read_bytes() for file in folder.iterdir()}


def _observations(
    policy: TokenPolicy, checkpoint: Path, data: Path | None
) -> tuple[list[list[Observation]], str]:
    """Observations for the comparison, and in words where they are from: `data`, else the file of
    the run when it is still there and still the same, else random ones."""
    description, instruction = policy.description, None
    if (checkpoint.parent / CONFIG).is_file():
        config = read_config(checkpoint.parent)
        instruction = config.data.instruction
        own = config.data.path
        if data is None and own.is_file() and sha256_of(own) == description.data.sha256:
            data = own
    if data is None:
        logs = random_observations(description, PARITY_OBSERVATIONS)
        return logs, "random observations (the data file was not at hand)"
    logs = recorded_observations(data, description, PARITY_OBSERVATIONS, instruction=instruction)
    return logs, f"recorded observations of {data.name}"


def model_card(description: PolicyDescription, networks: nn.Module) -> str:
    """The model card, in Markdown: all that a stranger needs to run the folder."""
    parameters = sum(p.numel() for p in networks.parameters())
    action, data, acting = description.action, description.data, description.acting
    code = description.tokenizer
    sees = [f"- state `{key}`" for key in description.state_keys]
    sees += [f"- text `{key}`" for key in description.text_keys]
    rate = f"{action.control_hz} Hz" if action.control_hz else _UNTOLD
    answers = (
        f"float32 [{action.horizon}, {action.dim}]: {action.horizon} action(s) of "
        f"{action.dim} numbers between {list(action.low)} and {list(action.high)}, executed at "
        f"{rate}."
    )
    if code["kind"] == "commands":
        free = code["free"]
        answers = "object [1] of str: one text command, " + (
            "of any words of its vocabulary." if free else f"out of the text `{ADMISSIBLE}`."
        )
    sees += [
        f"- camera `{key}`: uint8 RGB [{h}, {w}, 3]" for key, (h, w) in description.cameras.items()
    ]
    return "\n".join(
        [
            f"# Policy trained with {description.method}",
            "",
            f"{parameters:,} parameters in {', '.join(description.networks)}; "
            f"{code['kind']} action tokens.",
            "",
            "## What it sees",
            "",
            *sees,
            f"- an instruction; trained on: {'; '.join(data.instructions[:10]) or 'none'}",
            "",
            "## What it answers",
            "",
            answers,
            "",
            "## How it acts",
            "",
            f"rule {acting.rule}, k {acting.k}, low-probability cut {acting.min_p}, "
            f"temperature {acting.temperature}.{_candidates(acting)}",
            "",
            *_onnx_lines(description.onnx),
            "## What it was trained on",
            "",
            f"{data.file} (SHA-256 {data.sha256}), {data.episodes} logs, {data.steps} steps, "
            f"{100 * data.success_rate:.1f} % successful; seed {description.seed}.",
            "",
            "## How to run it",
            "",
            "```python",
            "from pathlib import Path",
            "",
            "from qsft_robot.build import open_policy",
            "from qsft_robot.types import Observation",
            "",
            'policy = open_policy(Path("this folder"))',
            "policy.reset()",
            "actions = policy.infer(Observation(images, state, instruction))",
            "```",
            "",
            "`sha256sum -c SHA256SUMS` checks the files.",
            "",
        ]
    )


def _candidates(acting: ActingConfig) -> str:
    if acting.candidates == 1:
        return ""
    taken = {
        "critic": "The critic takes the best",
        "likelihood": "The policy takes the likeliest",
        "tilted": f"By likelihood and critic (beta {acting.beta:g}) the policy takes the best",
    }[acting.judge]
    return f" {taken} of {acting.candidates} decisions drawn so."


def _onnx_lines(onnx: Mapping[str, Any] | None) -> list[str]:
    if onnx is None:
        return []
    parity = onnx["parity"]
    limits = ", ".join(f"{k.replace('_', '-')} {x:g}" for k, x in parity["tolerance"].items())
    return [
        "## Without torch",
        "",
        f"{' and '.join(f'`{name}`' for name in onnx['graphs'])} (ONNX opset {onnx['opset']}, "
        f"checked with onnxruntime {onnx['versions']['onnxruntime']}) hold the same policy for "
        "numpy and onnxruntime alone.",
        "",
        f"Held against torch on {parity['observations']} {parity['measured_on']}, sampled and "
        f"likeliest tokens: {parity['different']} of {parity['decisions']} decisions have another "
        f"token, all within rounding; actions differ by at most {parity['action']:.1g} of their "
        f"range, V(s) by {parity['value']:.1g} (tolerance: {limits}).",
        "",
    ]
