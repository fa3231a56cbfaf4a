"""Policy folders of earlier formats, read under the names of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from qsft_robot.config.earlier import RENAMED_VALUES

# Formats that this version reads beside its own.
EARLIER_FORMATS = ("qsft-robot policy 1",)
# Network of format 1 -> its name today.
_NETWORKS = {"behaviour": "behavior"}
Value = TypeVar("Value")


def upgrade_description(description: Mapping[str, Any]) -> dict[str, Any]:
    """The policy.json of an earlier format under the names of today."""
    acting = dict(description["acting"])
    acting["rule"] = RENAMED_VALUES["acting.rule"].get(acting["rule"], acting["rule"])
    networks = [_NETWORKS.get(name, name) for name in description.get("networks", ())]
    return {
        **description,
        "acting": acting,
        "conditions_on_return": description.get("method") == "return_conditioned",
        "return_range": _return_range(description.get("return_range")),
        **({"networks": networks} if networks else {}),
    }


def _return_range(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if value is None or "gamma" not in value:
        return None if value is None else dict(value)
    return {"discount": value["gamma"], "low": value["low"], "high": value["high"]}


def upgrade_training(training: Mapping[str, Any]) -> dict[str, Any]:
    """The training.json of an earlier format: its stages have the names of their networks."""
    stage = training.get("stage")
    return {**training, "stage": _NETWORKS.get(stage, stage)} if stage else dict(training)


def upgrade_weights(weights: Mapping[str, Value]) -> dict[str, Value]:
    """Weights by the names of today: `<network>.<parameter>`."""
    renamed = {}
    for name, value in weights.items():
        network, dot, rest = name.partition(".")
        renamed[_NETWORKS.get(network, network) + dot + rest] = value
    return renamed
