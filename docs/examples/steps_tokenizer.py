"""A tokenizer: each number of an action is back, stay or forth, one token each.

Register it in the pyproject.toml of its package; the name is its `kind`:

    [project.entry-points."qsft_robot.tokenizers"]
    steps = "steps_tokenizer:StepsTokenizer"
"""

from __future__ import annotations

from typing import Any

import numpy as np

LEVELS = np.array([-1.0, 0.0, 1.0], np.float32)


class StepsTokenizer:
    """Three tokens for each of the h x d numbers of a chunk."""

    vocab_size = len(LEVELS)

    def __init__(self, action_dim: int, horizon: int) -> None:
        self.action_dim, self.horizon = action_dim, horizon
        self.n_tokens = action_dim * horizon

    @classmethod
    def fit(cls, actions: np.ndarray, *, horizon: int = 1, **_: object) -> StepsTokenizer:
        return cls(actions.shape[-1], horizon)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        if not np.isfinite(actions).all() or np.abs(actions).max(initial=0) > 1 + 1e-6:
            raise ValueError("actions must lie in [-1, 1] without NaN to become tokens.")
        nearest = np.abs(actions[..., None] - LEVELS).argmin(-1)
        return nearest.reshape(len(actions), self.n_tokens).astype(np.int64)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        if (ids < 0).any() or (ids >= self.vocab_size).any():
            raise ValueError(f"ids must lie in [0, {self.vocab_size}).")
        return LEVELS[ids].reshape(len(ids), self.horizon, self.action_dim)

    def legal_tokens(self, prefix: np.ndarray) -> np.ndarray:
        return np.ones((len(prefix), self.vocab_size), bool)

    def real_tokens(self, ids: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.arange(self.n_tokens) < np.asarray(actions)[:, None] * self.action_dim

    # Token i stands for number i alone: with this table the policy can be exported to ONNX.
    def position_tables(self) -> tuple[np.ndarray, np.ndarray]:
        shape = (self.n_tokens, self.vocab_size)
        return np.ones(shape, bool), np.broadcast_to(LEVELS, shape).copy()

    def to_json(self) -> dict[str, Any]:
        return {"kind": "steps", "action_dim": self.action_dim, "horizon": self.horizon}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> StepsTokenizer:
        if value.get("kind") != "steps":
            raise ValueError(f"this describes a tokenizer of kind {value.get('kind')!r}.")
        return cls(value["action_dim"], value["horizon"])
