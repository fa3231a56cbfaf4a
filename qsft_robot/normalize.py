"""Normalization statistics: mean and deviation of each state key, and the scale of the actions."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from qsft_robot.types import Episode, is_text

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

# Below this a dimension counts as constant: its deviation is sensor rounding, not information.
CONSTANT_STD = 1e-6


@dataclass(frozen=True)
class NormStats:
    """State is normalized to (x - mean) / std, a constant dimension to 0; actions go linearly from
    [action_low, action_high] to [-1, 1]; text commands (d = 0) stay as they are."""

    # state key -> [s_key]
    mean: Mapping[str, np.ndarray]
    std: Mapping[str, np.ndarray]
    # [d], in the environment's action units; -1 and 1 leave actions as they are
    action_low: np.ndarray
    action_high: np.ndarray

    def __post_init__(self) -> None:
        if self.mean.keys() != self.std.keys():
            raise ValueError(
                f"Statistics need mean and std of the same keys, got {sorted(self.mean)} and "
                f"{sorted(self.std)}."
            )
        for what, rows in (("mean", self.mean), ("std", self.std)):
            if wrong := [key for key, x in rows.items() if not np.isfinite(x).all()]:
                raise ValueError(
                    f"Statistics: the {what} of {wrong[0]!r} holds NaN or Inf; the policy was "
                    "trained on broken readings, or policy.json was changed."
                )
        if not (np.isfinite(self.action_low).all() and np.isfinite(self.action_high).all()):
            raise ValueError("Statistics: the action scale holds NaN or Inf.")
        low, high = self.action_low, self.action_high
        if low.shape != high.shape or low.ndim != 1 or not (low < high).all():
            raise ValueError(
                "The action scale needs low < high in every dimension, got "
                f"low={low.tolist()} and high={high.tolist()}."
            )

    @classmethod
    def fit(
        cls,
        episodes: Iterable[Episode],
        keys: Sequence[str] | None = None,
        action_scale: tuple[float | Sequence[float], float | Sequence[float]] | None = None,
    ) -> Self:
        """Take mean and standard deviation over every row of the state `keys` (None: all).

        `action_scale` is (low, high), a number or one a dimension; without it actions are left as
        they are. Constant dimensions are reported as a warning. ValueError on no episodes, an
        unknown key, or a scale of another size.
        """
        episodes = list(episodes)
        if not episodes:
            raise ValueError("Normalization statistics need at least one episode.")
        state = [k for k, x in episodes[0].observations.items() if x.dtype != np.uint8]
        mean, std = {}, {}
        for key in state if keys is None else keys:
            if key not in state:
                raise ValueError(f"No state key '{key}' to fit. There are: {', '.join(state)}.")
            rows = np.concatenate([e.observations[key] for e in episodes]).astype(np.float64)
            mean[key], std[key] = rows.mean(axis=0), rows.std(axis=0)
        dimensions = 0 if episodes[0].has_commands else episodes[0].actions.shape[1]
        declared = action_scale if action_scale is not None else (-1.0, 1.0)
        low, high = (np.asarray(bound, np.float64) for bound in declared)
        if low.size not in (1, dimensions) or high.size not in (1, dimensions):
            raise ValueError(
                f"The action scale has {max(low.size, high.size)} dimensions, actions {dimensions}."
            )
        stats = cls(mean, std, *(np.broadcast_to(x, dimensions).copy() for x in (low, high)))
        if stats.constant_dimensions:
            warnings.warn("; ".join(stats.describe()), stacklevel=2)
        return stats

    @property
    def constant_dimensions(self) -> dict[str, tuple[int, ...]]:
        """State key -> its dimensions that never change in the data; they normalize to 0."""
        found = {k: tuple(np.flatnonzero(s < CONSTANT_STD).tolist()) for k, s in self.std.items()}
        return {key: dimensions for key, dimensions in found.items() if dimensions}

    def describe(self) -> list[str]:
        """Warnings about these statistics, one sentence an entry."""
        return [
            f"{key}: dimension{'s' * (len(d) > 1)} {_some(d)} of "
            f"{len(self.mean[key])} constant in the data, normalized to 0"
            for key, d in self.constant_dimensions.items()
        ]

    def normalize(
        self, key: str, x: Float[np.ndarray, "*rows s"]
    ) -> Float32[np.ndarray, "*rows s"]:
        """State in its own units to zero mean and unit deviation; ValueError when there is no
        statistic for `key`, or it is of another size."""
        if key not in self.mean:
            raise ValueError(
                f"No normalization statistic for state key '{key}'. There are: "
                f"{', '.join(self.mean) or 'none'}. Data is never passed on unnormalized."
            )
        mean, std = self.mean[key], self.std[key]
        if np.shape(x)[-1:] != mean.shape:
            raise ValueError(
                f"State key '{key}' has {np.shape(x)[-1:]} dimensions, its statistics {mean.shape}."
            )
        constant = std < CONSTANT_STD
        scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, std))
        return ((x - mean) * scale).astype(np.float32)

    def normalize_actions(
        self, actions: Float[np.ndarray, "*rows d"]
    ) -> Float32[np.ndarray, "*rows d"]:
        """Actions in the environment's units to [-1, 1]; unchanged under the default scale."""
        if is_text(actions):
            return actions
        actions = self._actions(actions)
        if self._identity:
            return actions
        scaled = 2 * (actions - self.action_low) / (self.action_high - self.action_low) - 1
        return scaled.astype(np.float32)

    def unnormalize_actions(
        self, actions: Float[np.ndarray, "*rows d"]
    ) -> Float32[np.ndarray, "*rows d"]:
        """Actions in [-1, 1] to the environment's units; unchanged under the default scale."""
        if is_text(actions):
            return actions
        actions = self._actions(actions)
        if self._identity:
            return actions
        span = self.action_high - self.action_low
        return (self.action_low + (actions + 1) / 2 * span).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """state: key -> mean, std; actions: low, high."""
        return {
            "state": {
                key: {"mean": self.mean[key].tolist(), "std": self.std[key].tolist()}
                for key in self.mean
            },
            "actions": {"low": self.action_low.tolist(), "high": self.action_high.tolist()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The statistics that `to_json` described."""
        return cls(
            {key: np.asarray(x["mean"], np.float64) for key, x in value["state"].items()},
            {key: np.asarray(x["std"], np.float64) for key, x in value["state"].items()},
            np.asarray(value["actions"]["low"], np.float64),
            np.asarray(value["actions"]["high"], np.float64),
        )

    @property
    def _identity(self) -> bool:
        return bool((self.action_low == -1).all() and (self.action_high == 1).all())

    def _actions(self, actions: np.ndarray) -> np.ndarray:
        if np.shape(actions)[-1:] != self.action_low.shape:
            raise ValueError(
                f"Actions have shape {np.shape(actions)}, the action scale "
                f"{len(self.action_low)} dimensions."
            )
        return np.asarray(actions, np.float32)


def _some(dimensions: tuple[int, ...], most: int = 12) -> str:
    """Numbers in words, the first of many (a one-hot board has hundreds)."""
    listed = ", ".join(map(str, dimensions[:most]))
    return listed + (f" and {len(dimensions) - most} more" * (len(dimensions) > most))
