"""Setting names of earlier versions, and their names today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Dotted name of a setting -> its name today.
RENAMED = {
    "behaviour_from": "behavior_from",
    "optim.behaviour_steps": "optim.behavior_steps",
    "qsft.gamma": "discount",
    "model.checkpoint_activations": "optim.checkpoint_activations",
}
# Setting of today -> value of an earlier version -> value today.
RENAMED_VALUES = {
    "acting.rule": {"behaviour": "behavior"},
    "tokenizer.kind": {"quantile": "quantile_bins", "uniform": "uniform_bins"},
}
# Switch of an earlier version -> the setting in its place, and its values for on and off.
SWITCHES = {"optim.bf16": ("optim.precision", "bfloat16", "float32")}
# Setting of an earlier version that was given -> the value of `pretrained_weights` in its place.
WEIGHTS = {
    "model.from_scratch": "none",
    "model.reinitialize": "body",
    "model.reinitialise": "body",
}
# What a run's config.json records beside its settings: what "auto" took.
TAKEN = "taken"


def upgrade_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config.json under the names of today."""
    flat = dict(_flattened({name: x for name, x in values.items() if name != TAKEN}))
    for old, (new, on, off) in SWITCHES.items():
        if old in flat:
            flat.setdefault(new, on if flat.pop(old) else off)
    for old, weights in WEIGHTS.items():
        if flat.pop(old, None):
            flat.setdefault("pretrained_weights", weights)
    for old, new in RENAMED.items():
        if old in flat:
            flat.setdefault(new, flat.pop(old))
    for name, renamed in RENAMED_VALUES.items():
        if name in flat:
            flat[name] = renamed.get(flat[name], flat[name])
    return _nested(flat)


def check_flags(words: Sequence[str]) -> None:
    """ValueError, with the name of today, for a flag or value of an earlier version."""
    flags = {_flag(old): _flag(new) for old, new in RENAMED.items()}
    for old, (new, on, off) in SWITCHES.items():
        group, _, name = old.rpartition(".")
        flags |= {
            _flag(old): f"{_flag(new)} {on}",
            _flag(f"{group}.no-{name}"): f"{_flag(new)} {off}",
        }
    weights = _flag("pretrained_weights")
    flags |= {_flag(old): f"{weights} {value}" for old, value in WEIGHTS.items()}
    flags["--model.no-from-scratch"] = f"{weights} all"
    values = {_flag(name): renamed for name, renamed in RENAMED_VALUES.items()}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, equals, value = word.replace("_", "-").partition("=")
        if flag in flags:
            raise ValueError(f"{word.partition('=')[0]} is called {flags[flag]} now.")
        given = value if equals else following
        if given in values.get(flag, {}):
            raise ValueError(f"{flag} {given} is called {flag} {values[flag][given]} now.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in values.items():
        inner = isinstance(value, Mapping) and not prefix
        found += _flattened(value, f"{name}.") if inner else [(prefix + name, value)]
    return found


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        group, dot, key = name.partition(".")
        if dot:
            nested.setdefault(group, {})[key] = value
        else:
            nested[group] = value
    return nested
