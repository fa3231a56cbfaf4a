"""Whether actions stay within what an environment takes: beyond it they would be clipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from qsft_robot.policy.description import PolicyDescription


# Share of a dimension's range that rounding and a recorder's noise may pass it by.
_SLACK = 1e-3


def action_range(space: Any) -> dict[str, np.ndarray] | None:
    """Lowest and highest action of a gymnasium space, float64 [d]; None where it has no such."""
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or np.ndim(low) != 1:
        return None
    return {"low": np.asarray(low, np.float64), "high": np.asarray(high, np.float64)}


def beyond(low: np.ndarray, high: np.ndarray, space: Mapping[str, np.ndarray] | None) -> str | None:
    """In words, where actions from `low` to `high` [d] leave a space; None where they don't, or
    where it has another size, which is told elsewhere."""
    if space is None or np.shape(low) != space["low"].shape:
        return None
    width = space["high"] - space["low"]
    slack = _SLACK * np.where(np.isfinite(width), width, 0.0)
    outside = (low < space["low"] - slack) | (high > space["high"] + slack)
    if not outside.any():
        return None
    told = [
        f"dimension {i} from {low[i]:.4g} to {high[i]:.4g}, where {space['low'][i]:.4g} to "
        f"{space['high'][i]:.4g} is taken"
        for i in np.flatnonzero(outside)[:4].tolist()
    ]
    more = int(outside.sum()) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


def check_policy_range(
    description: PolicyDescription | None, space: Mapping[str, np.ndarray] | None
) -> None:
    """ValueError where a policy's actions leave the space: those of its logs, or its declared scale
    where it does not carry the logs' range."""
    if description is None or description.action.dim == 0:
        return
    seen = description.action.seen or description.action
    found = beyond(np.asarray(seen.low), np.asarray(seen.high), space)
    if found is not None:
        raise ValueError(
            f"the policy's actions leave the environment's action space, which would clip them: "
            f"{found}. Other units, or another controller (absolute against displacements)? "
            "Evaluate in the environment of its logs (--env, --env-kwargs), or pass --accept range "
            "if clipping is what the logs had too."
        )
