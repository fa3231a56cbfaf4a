"""The entries of policy.json that are read, each checked for what it must be before any is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qsft_robot.context import executed_of
from qsft_robot.json_kinds import check_kinds
from qsft_robot.logs.checks import checked_env_args

NETWORKS = ("behavior", "value", "void", "heads", "token_values", "critic")
# Kinds as `check_kinds` takes them.
NUMBERS, WORDS = [float], [str]
_RANGE = {"low": NUMBERS, "high": NUMBERS}
_ENTRIES: dict[str, Any] = {
    "method": str,
    "networks": WORDS,
    "model": {"kind": str, "config": {"width": int, "vocab_size": int, "history": int}},
    "tokenizer": {"kind": str},
    "norm_stats": {"state": {"": {"mean": NUMBERS, "std": NUMBERS}}, "actions": _RANGE},
    "state_keys": WORDS,
    "text_keys?": WORDS,
    "cameras": {"": [int]},
    "action": {
        **_RANGE,
        "dim": int,
        "horizon": int,
        "history_stride?": int,
        "control_hz": (float, None),
        "units?": (str, None),
        "seen?": {**_RANGE, "largest_change": NUMBERS},
    },
    "state_range?": {"": _RANGE},
    "acting": {"": object},
    "critic?": {"": object},
    "shared_image_features": bool,
    "env_args?": ({"": object}, None),
    "data": {"file": str, "sha256": str, "filter_key?": (str, None), "instructions": WORDS},
    "onnx?": {"opset?": object, "texts?": ({"": [int]}, None), "versions?": {"": object}},
}


def check_entries(description: Any, path: Path, *names: str) -> None:
    """ValueError unless the file is an object with good entries of these names."""
    check_kinds(description, {name: _ENTRIES[name] for name in names}, str(path))


def check_description(description: Any, path: Path) -> None:
    """ValueError, naming file and entry, where policy.json lacks an entry that is read, holds
    another kind of value, or contradicts itself."""
    check_kinds(description, _ENTRIES, str(path))
    checked_env_args(description.get("env_args"), f"{path}: env_args")
    action, stats = description["action"], description["norm_stats"]
    wrong = [name for name in description["networks"] if name not in NETWORKS]
    if wrong or not description["networks"]:
        raise ValueError(
            f"{path}: networks is {description['networks']!r}; there are: {', '.join(NETWORKS)}."
        )
    for key in description["state_keys"]:
        if key not in stats["state"]:
            raise ValueError(f"{path}: norm_stats.state has no {key!r}, which state_keys name.")
        if len(stats["state"][key]["mean"]) != len(stats["state"][key]["std"]):
            raise ValueError(f"{path}: norm_stats.state.{key}: mean and std differ in length.")
    for key, size in description["cameras"].items():
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"{path}: cameras.{key} is {size!r}, not [height, width].")
    if action["dim"] < 0 or action["horizon"] < 1:
        raise ValueError(
            f"{path}: action.dim is {action['dim']} and action.horizon {action['horizon']}."
        )
    executed_of(description)
    if action.get("history_stride", 1) < 1:
        raise ValueError(f"{path}: action.history_stride is {action['history_stride']}.")
    lengths = {
        "action.low": action["low"],
        "action.high": action["high"],
        "norm_stats.actions.low": stats["actions"]["low"],
        "norm_stats.actions.high": stats["actions"]["high"],
    }
    for name, values in lengths.items():
        if len(values) != action["dim"]:
            raise ValueError(
                f"{path}: {name} has {len(values)} numbers, action.dim is {action['dim']}."
            )
