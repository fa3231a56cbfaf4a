"""Checks of action chunks before they become tokens, and the ranges of their dimensions."""

from __future__ import annotations

import numpy as np

from tokenizers_action.arrays import Array, Float

# Actions come as float32; 1 + 1e-6 is 1 after a change of units, 1.001 is a mistake.
TOLERANCE = 1e-6
# A range narrower than this can't be told from a point near 1.0 in float32 (spacing 6e-8).
MIN_WIDTH = 1e-6
# Far more than any chunk needs; a description of a larger one would ask for all memory.
MAX_HORIZON = 2048


def check_chunks(actions: Float[Array, "b h d"], horizon: int, action_dim: int) -> Array:
    """The chunks as an array; ValueError on another shape, NaN, or a value outside [-1, 1]."""
    actions = np.asarray(actions)
    if actions.ndim != 3 or actions.shape[1:] != (horizon, action_dim):
        raise ValueError(
            f"Actions have shape {actions.shape}; this tokenizer takes "
            f"[b, horizon={horizon}, action_dim={action_dim}]."
        )
    # One negated comparison, so that NaN fails it as well.
    if actions.size and not np.abs(actions).max() <= 1 + TOLERANCE:
        raise ValueError(
            f"Actions must lie in [-1, 1] without NaN to be tokenized, found "
            f"[{np.min(actions)}, {np.max(actions)}]; declare an action scale so that they do."
        )
    return actions


def quantile_ranges(actions: Float[Array, "N d"]) -> tuple[Array, Array]:
    """q01 and q99 of each dimension, float64 [d] each.

    Where they are equal but the dimension is not constant (a gripper that rarely moves), its
    minimum and maximum take their place, so that no command is lost; low equals high where it is.
    ValueError on no actions, NaN, or a value outside [-1, 1].
    """
    actions = np.asarray(actions, np.float64)
    if actions.ndim != 2 or not len(actions):
        raise ValueError(f"Quantiles need actions [N, d] with N >= 1, got {actions.shape}.")
    if not np.abs(actions).max() <= 1 + TOLERANCE:
        raise ValueError(
            f"Actions must lie in [-1, 1] without NaN, got [{actions.min()}, {actions.max()}]."
        )
    actions = np.clip(actions, -1, 1)
    low, high = np.quantile(actions, [0.01, 0.99], axis=0)
    collapsed = high - low < MIN_WIDTH
    low = np.where(collapsed, actions.min(axis=0), low)
    high = np.where(collapsed, actions.max(axis=0), high)
    return low, np.where(high - low < MIN_WIDTH, low, high)
