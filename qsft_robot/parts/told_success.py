"""Success as an environment tells it, in a step's info or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# `success`; gymnasium-robotics and others say `is_success`.
KEYS = ("success", "is_success")


def told_success(info: Mapping[str, Any]) -> bool | None:
    """Whether this step succeeded; None where its info does not say.

    ValueError on a value that is neither true nor false: the word "no" would count as a success.
    """
    for key in KEYS:
        if info.get(key) is not None:
            return truth(key, info[key])
    return None


def either(one: bool | None, other: bool | None) -> bool | None:
    """Whether one of two steps succeeded; None where neither tells."""
    return other if one is None else one or bool(other)


def truth(key: str, value: Any) -> bool:
    """The value as true or false; ValueError names the key where it is neither."""
    array = np.asarray(value)
    if array.size == 1 and array.dtype.kind in "biuf":
        number = array.reshape(-1)[0]
        if number in (0, 1):
            return bool(number)
    raise ValueError(
        f"the environment's info has {key}={value!r}, where true or false (1 or 0) is expected."
    )
