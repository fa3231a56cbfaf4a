"""The description of a policy: policy.json, parsed and checked once, before any entry is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from qsft_robot.config.acting import ActingConfig
from qsft_robot.config.json_form import from_json, to_json
from qsft_robot.json_kinds import check_kinds
from qsft_robot.logs.checks import checked_env_args
from qsft_robot.logs.data_description import DataDescription
from qsft_robot.normalize import NormStats
from qsft_robot.policy.earlier import EARLIER_FORMATS, upgrade_description
from qsft_robot.returns import ReturnRange
from qsft_robot.types import BatchPolicy, Policy
from qsft_robot.versions import refused_format

# A folder of each format is kept in tests/data: a change that earlier code can't read gets a new
# number, folders of the one before it, and its reader in policy/earlier.py.
FORMAT = "qsft-robot policy 2"
NETWORKS = ("behavior", "value", "void", "heads", "token_values", "critic")
# What only the process that runs the policy needs; a server does not send it.
KEPT_BACK = ("model", "tokenizer", "networks")
# Kinds as `check_kinds` takes them.
NUMBERS, WORDS = [float], [str]
_RANGE = {"low": NUMBERS, "high": NUMBERS}
_ENTRIES: dict[str, Any] = {
    "method": str,
    "reads_past?": bool,
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
        "units?": (WORDS, None),
        "seen?": {**_RANGE, "largest_change": NUMBERS},
    },
    "state_range?": {"": _RANGE},
    "return_range?": ({"discount": float, "low": float, "high": float}, None),
    "acting": {"": object},
    "critic?": {"": object},
    "shared_image_features": bool,
    "env_args?": ({"": object}, None),
    "data": {
        "file": str,
        "sha256": str,
        "filter_key?": (str, None),
        "episodes?": int,
        "steps?": int,
        "success_rate?": float,
        "instructions": WORDS,
    },
    "seed?": int,
    "versions?": {"": object},
    "onnx?": {"opset?": object, "texts?": ({"": [int]}, None), "versions?": {"": object}},
    "policy_sha256?": str,
}

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Span:
    """Smallest and largest of each number."""

    low: Numbers
    high: Numbers


@dataclass(frozen=True)
class SeenActions(Span):
    """The range of the actions in the logs, and their largest change from one to the next."""

    largest_change: Numbers


@dataclass(frozen=True)
class ActionDescription:
    """The actions of a policy; none (dim 0) where it answers with text commands."""

    dim: int
    horizon: int
    # Rows of a log between the entries of the policy's windows.
    history_stride: int
    # The scale of the actions, in the robot's own units, [dim].
    low: Numbers
    high: Numbers
    # Actions a second, and the unit of each number; None where the logs did not tell.
    control_hz: float | None
    units: tuple[str, ...] | None = None
    seen: SeenActions | None = None


@dataclass(frozen=True, kw_only=True)
class PolicyDescription:
    """A policy in words and numbers: how it was trained, what it sees and what it answers."""

    method: str
    conditions_on_return: bool = False
    # Whether each frame also tells the actions before it and its return to go.
    reads_past: bool = False
    # As `parts.models.load_model` and `parts.tokenizers.load_tokenizer` read them; these and the
    # names of the networks are empty where a server keeps them back.
    model: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    networks: tuple[str, ...] = ()
    norm_stats: NormStats
    state_keys: tuple[str, ...]
    text_keys: tuple[str, ...] = ()
    # camera key -> (height, width) in pixels
    cameras: Mapping[str, tuple[int, int]]
    action: ActionDescription
    # state key -> its range in the logs; older policies tell none
    state_range: Mapping[str, Span] = field(default_factory=dict)
    # Of the returns that V stands for.
    return_range: ReturnRange | None = None
    acting: ActingConfig
    # Whether the value network sees the behavior network's image features.
    shared_image_features: bool
    # The environment of the logs; empty where they name none.
    env_args: Mapping[str, Any] = field(default_factory=dict)
    data: DataDescription
    seed: int = 0
    versions: Mapping[str, Any] = field(default_factory=dict)
    # The shape of the critic that chooses among candidates.
    critic: Mapping[str, Any] | None = None
    # The graphs of an exported policy: opset, versions, parity and listed texts.
    onnx: Mapping[str, Any] | None = None
    # SHA-256 of the folder's SHA256SUMS, where it was opened from one.
    policy_sha256: str | None = None

    @property
    def history(self) -> int:
        """Frames that it sees; 1 where a server keeps that back."""
        return self.model["config"]["history"] if self.model else 1

    @classmethod
    def from_json(cls, value: Any, where: str, served: bool = False) -> PolicyDescription:
        """The description that `to_json` gave, of this or an earlier format. ValueError, naming
        `where` and the entry, where it lacks an entry that is read, holds another kind of value, or
        contradicts itself. One that is `served` has no entries of KEPT_BACK."""
        check_kinds(value, {}, where)
        if value.get("format") in EARLIER_FORMATS:
            entries = ("acting", "networks?" if served else "networks")
            check_kinds(value, {name: _ENTRIES[name.rstrip("?")] for name in entries}, where)
            value = {**upgrade_description(value), "format": FORMAT}
        if value.get("format") != FORMAT:
            raise refused_format(where, value.get("format"), (FORMAT, *EARLIER_FORMATS))
        left_out = KEPT_BACK if served else ()
        value = {name: x for name, x in value.items() if name not in left_out}
        action = value.get("action")
        if isinstance(action, Mapping) and isinstance(action.get("units"), str):
            units = [action["units"]] * len(action.get("low", ()))
            value = {**value, "action": {**action, "units": units}}
        check_kinds(value, {k: x for k, x in _ENTRIES.items() if k not in left_out}, where)
        env_args = checked_env_args(value.get("env_args"), f"{where}: env_args")
        _check_sizes(value, where)
        acting = dict(value["acting"])
        if served:  # by a server that may be a later version
            known = {setting.name for setting in fields(ActingConfig)}
            acting = {name: x for name, x in acting.items() if name in known}
        try:
            rule: ActingConfig = from_json(ActingConfig, acting)
            stats = NormStats.from_json(value["norm_stats"])
            told = value.get("return_range")
            returns = None if told is None else ReturnRange.from_json(told)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if (rule.execute or 1) > value["action"]["horizon"]:
            raise ValueError(
                f"{where}: acting.execute is {rule.execute}, but its chunks have "
                f"{value['action']['horizon']} actions."
            )
        same = (
            "method", "conditions_on_return", "reads_past", "shared_image_features", "seed",
            "versions", "critic", "onnx", "policy_sha256",
        )  # fmt: skip
        return cls(
            model=value.get("model", {}),
            tokenizer=value.get("tokenizer", {}),
            networks=tuple(value.get("networks", ())),
            norm_stats=stats,
            state_keys=tuple(value["state_keys"]),
            text_keys=tuple(value.get("text_keys", ())),
            cameras={key: (size[0], size[1]) for key, size in value["cameras"].items()},
            action=_action(value["action"]),
            state_range={key: _span(x) for key, x in value.get("state_range", {}).items()},
            return_range=returns,
            acting=rule,
            env_args=env_args,
            data=DataDescription.from_json(value["data"]),
            **{name: value[name] for name in same if name in value},
        )

    def to_json(self) -> dict[str, Any]:
        """The content of policy.json; what it does not have is left out."""
        action = to_json(self.action)
        value = {
            "format": FORMAT,
            "method": self.method,
            "conditions_on_return": self.conditions_on_return,
            "reads_past": self.reads_past or None,
            "model": dict(self.model),
            "tokenizer": dict(self.tokenizer),
            "norm_stats": self.norm_stats.to_json(),
            "state_keys": list(self.state_keys),
            "text_keys": list(self.text_keys),
            "cameras": {key: list(size) for key, size in self.cameras.items()},
            "action": {k: x for k, x in action.items() if k != "seen" or x is not None},
            "state_range": {key: to_json(span) for key, span in self.state_range.items()},
            "return_range": None if self.return_range is None else self.return_range.to_json(),
            "acting": to_json(self.acting),
            "shared_image_features": self.shared_image_features,
            "env_args": dict(self.env_args),
            "data": to_json(self.data),
            "seed": self.seed,
            "versions": dict(self.versions),
            "networks": list(self.networks),
            "critic": self.critic,
            "onnx": self.onnx,
            "policy_sha256": self.policy_sha256,
        }
        return {name: x for name, x in value.items() if x is not None}

    def window_note(self, executed: int | None) -> str | None:
        """The note where a policy with a history executes another number of actions (None: all)
        of a chunk than its training showed; None where its windows are the same."""
        stride, executed = self.action.history_stride, executed or self.action.horizon
        if self.history == 1 or stride % executed == 0:
            return None
        return (
            f"note: the policy was trained on windows whose frames lie {stride} steps apart; "
            f"executing {executed} actions of a chunk it gets the nearest that it saw. Divisors of "
            f"{stride} give the very frames; train with --acting.execute {executed} for these."
        )


class LoadedPolicy(Policy, BatchPolicy, Protocol):
    """A policy read from a folder, or reached over a connection: it says what it is."""

    @property
    def description(self) -> PolicyDescription:
        """The content of policy.json; `policy.folder.PolicySpec.of` reads the interface from it."""
        ...


def _check_sizes(value: Mapping[str, Any], where: str) -> None:
    """ValueError where entries that are of their kinds contradict one another."""
    action, stats = value["action"], value["norm_stats"]
    networks = value.get("networks", ["behavior"])
    if not networks or not set(networks) <= set(NETWORKS):
        raise ValueError(f"{where}: networks is {networks!r}; there are: {', '.join(NETWORKS)}.")
    for key in value["state_keys"]:
        if key not in stats["state"]:
            raise ValueError(f"{where}: norm_stats.state has no {key!r}, which state_keys name.")
        if len(stats["state"][key]["mean"]) != len(stats["state"][key]["std"]):
            raise ValueError(f"{where}: norm_stats.state.{key}: mean and std differ in length.")
    shape = value.get("model", {}).get("config", {})
    width = sum(len(stats["state"][key]["mean"]) for key in value["state_keys"])
    # A Decision Transformer's state goes on with its past.
    if not shape.get("decision") and shape.get("state_dim", width) != width:
        raise ValueError(
            f"{where}: state_keys {value['state_keys']} have {width} numbers in norm_stats.state, "
            f"but model.config.state_dim is {shape['state_dim']}."
        )
    cameras = shape.get("cameras", list(value["cameras"]))
    if not isinstance(cameras, list | tuple) or set(map(str, cameras)) != set(value["cameras"]):
        raise ValueError(
            f"{where}: cameras has {list(value['cameras'])}, but model.config.cameras is {cameras}."
        )
    for key, size in value["cameras"].items():
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"{where}: cameras.{key} is {size!r}, not [height, width].")
    if action["dim"] < 0 or action["horizon"] < 1:
        raise ValueError(
            f"{where}: action.dim is {action['dim']} and action.horizon {action['horizon']}."
        )
    if action.get("history_stride", 1) < 1:
        raise ValueError(f"{where}: action.history_stride is {action['history_stride']}.")
    lengths = {
        "action.low": action["low"],
        "action.high": action["high"],
        "norm_stats.actions.low": stats["actions"]["low"],
        "norm_stats.actions.high": stats["actions"]["high"],
    }
    lengths |= {f"action.seen.{name}": row for name, row in (action.get("seen") or {}).items()}
    for name, values in lengths.items():
        if len(values) != action["dim"]:
            raise ValueError(
                f"{where}: {name} has {len(values)} numbers, action.dim is {action['dim']}."
            )


def _span(value: Mapping[str, Any]) -> Span:
    return Span(tuple(value["low"]), tuple(value["high"]))


def _action(value: Mapping[str, Any]) -> ActionDescription:
    units, seen = value.get("units"), value.get("seen")
    if seen is not None:
        seen = SeenActions(*(tuple(seen[name]) for name in ("low", "high", "largest_change")))
    return ActionDescription(
        dim=value["dim"],
        horizon=value["horizon"],
        # Older policies tell none: a chunk.
        history_stride=value.get("history_stride", value["horizon"]),
        low=tuple(value["low"]),
        high=tuple(value["high"]),
        control_hz=value["control_hz"],
        units=None if units is None else tuple(units),
        seen=seen,
    )
