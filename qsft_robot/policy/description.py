"""The entries of policy.json that are read, each checked for what it must be before any is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsft_robot.logs.checks import checked_env_args, is_number

NETWORKS = ("behavior", "value", "void", "heads")
# A kind is a type, [kind] a list, {"": kind} an object with any names, {"a": kind} one with these
# (a name that ends in ? may be missing), and a tuple lists kinds of which one fits.
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
        "control_hz": (float, None),
        "units?": (str, None),
        "seen?": {**_RANGE, "largest_change": NUMBERS},
    },
    "state_range?": {"": _RANGE},
    "acting": {"": object},
    "shared_image_features": bool,
    "env_args?": ({"": object}, None),
    "data": {"file": str, "sha256": str, "filter_key?": (str, None), "instructions": WORDS},
    "onnx?": {"opset?": object, "texts?": ({"": [int]}, None), "versions?": {"": object}},
}


def check_entries(description: Any, path: Path, *names: str) -> None:
    """ValueError unless the file is an object with good entries of these names."""
    _check(description, {name: _ENTRIES[name] for name in names}, str(path), "")


def check_description(description: Any, path: Path) -> None:
    """ValueError, naming file and entry, where policy.json lacks an entry that is read, holds
    another kind of value, or contradicts itself."""
    _check(description, _ENTRIES, str(path), "")
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


def _check(value: Any, kind: Any, where: str, at: str) -> None:
    if isinstance(kind, tuple):
        if value is None and None in kind:
            return
        kind = kind[0]
    place = f"{where}: {at or 'the file'}"
    if isinstance(kind, list):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(f"{place} is {_shown(value)}, where a list is expected.")
        for inner in value:
            _check(inner, kind[0], where, at)
    elif isinstance(kind, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} is {_shown(value)}, where an object is expected.")
        _check_entries(value, kind, where, at)
    elif not _is(value, kind):
        raise ValueError(f"{place} is {_shown(value)}, where {kind.__name__} is expected.")


def _check_entries(value: Mapping[str, Any], kinds: Mapping[str, Any], where: str, at: str) -> None:
    if "" in kinds:
        kinds = dict.fromkeys(value, kinds[""])
    for name, kind in kinds.items():
        key = name.removesuffix("?")
        if key in value:
            _check(value[key], kind, where, f"{at}.{key}" if at else key)
        elif key == name:
            raise ValueError(f"{where}: no {at}.{key}." if at else f"{where}: no {key}.")


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return is_number(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
