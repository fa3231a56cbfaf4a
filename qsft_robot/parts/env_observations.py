"""Observations of gymnasium environments as key -> array or text, whatever their nesting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def as_mapping(observation: Any) -> dict[str, Any]:
    """A gymnasium observation as key -> array, or str where it is text.

    A bare one gets the key "observation"; entries of dictionaries and tuples inside of it get
    dotted keys ("agent.qpos", "0.image").
    """
    if not isinstance(observation, Mapping | tuple):
        return {"observation": _entry(observation)}
    return _flattened(observation, "")


def _flattened(observation: Mapping[Any, Any] | tuple[Any, ...], prefix: str) -> dict[str, Any]:
    nested = isinstance(observation, Mapping)
    entries = observation.items() if nested else enumerate(observation)  # type: ignore[union-attr]
    found: dict[str, Any] = {}
    for key, value in entries:
        if isinstance(value, Mapping | tuple):
            found |= _flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = _entry(value)
    return found


def _entry(value: Any) -> Any:
    return value if isinstance(value, str) else np.asarray(value)
