"""One token an action dimension: equal bins over [-1, 1] or over each dimension's q01 to q99."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tokenizers_action.arrays import Array, Bool, Float, Float32, Int64
from tokenizers_action.ranges import MIN_WIDTH, check_chunks, quantile_ranges


class _Bins:
    """Bins of equal width between low and high of each dimension; ids are time-major (h, then d).

    Dimension j has n_bins[j] bins, n_bins[j] + 1 edges and n_bins[j] centers; an action decodes to
    the center of its bin. Where low equals high there is one bin, thus one legal token.
    """

    kind: ClassVar[str]

    def __init__(self, low: Array, high: Array, n_bins: Array, horizon: int) -> None:
        if horizon < 1 or len(n_bins) < 1:
            raise ValueError(
                f"A tokenizer needs horizon >= 1 and action_dim >= 1, got {horizon}, {len(n_bins)}."
            )
        if (n_bins < 1).any():
            raise ValueError(f"Each dimension needs at least 1 bin, got n_bins={n_bins.tolist()}.")
        if not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
            raise ValueError(f"Bins need low <= high, got {low.tolist()} and {high.tolist()}.")
        self._low, self._high, self._n_bins = low, high, n_bins
        self._width = (high - low) / n_bins
        self._horizon = horizon
        # [d, v]: which ids exist in each dimension
        self._legal = np.arange(n_bins.max())[None, :] < n_bins[:, None]

    @property
    def action_dim(self) -> int:
        return len(self._n_bins)

    @property
    def horizon(self) -> int:
        return self._horizon

    @property
    def n_tokens(self) -> int:
        return self._horizon * len(self._n_bins)

    @property
    def vocab_size(self) -> int:
        return int(self._n_bins.max())

    @property
    def n_bins(self) -> tuple[int, ...]:
        """Bins of each dimension."""
        return tuple(self._n_bins.tolist())

    @property
    def bin_width(self) -> Float[Array, " d"]:
        """Width of each dimension's bins, in units of the [-1, 1] action; 0 where constant."""
        return self._width.copy()

    def edges(self, dimension: int) -> Float[Array, " edges"]:
        """The n_bins + 1 edges of one dimension."""
        return np.linspace(self._low[dimension], self._high[dimension], self._n_bins[dimension] + 1)

    def encode(self, actions: Float[Array, "b h d"]) -> Int64[Array, "b n"]:
        """Ids of action chunks; a value between the outer edges and +-1 falls in the outer bin.

        ValueError on a wrong shape, NaN, or a value outside [-1, 1].
        """
        actions = check_chunks(actions, self._horizon, self.action_dim)
        safe_width = np.where(self._width > 0, self._width, 1.0)
        ids = np.floor((actions.astype(np.float64) - self._low) / safe_width)
        np.clip(ids, 0, self._n_bins - 1, out=ids)
        return ids.astype(np.int64).reshape(len(actions), self.n_tokens)

    def real_tokens(
        self, ids: Int64[Array, "b n"], actions: Int64[Array, " b"]
    ) -> Bool[Array, "b n"]:
        """The tokens of the first `actions` of each chunk."""
        return np.arange(ids.shape[1]) < np.asarray(actions)[:, None] * self.action_dim

    def decode(self, ids: Int64[Array, "b n"]) -> Float32[Array, "b h d"]:
        """Centers of the bins, in [-1, 1]; ValueError on a wrong shape or an id that has no bin."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.shape[1] != self.n_tokens:
            raise ValueError(f"Ids have shape {ids.shape}; expected [b, n={self.n_tokens}].")
        ids = ids.reshape(-1, self._horizon, self.action_dim)
        illegal = (ids < 0) | (ids >= self._n_bins)
        if illegal.any():
            row, step, dimension = np.argwhere(illegal)[0].tolist()
            raise ValueError(
                f"Id {ids[row, step, dimension]} (row {row}, chunk step {step}, dimension "
                f"{dimension}) is not legal: that dimension has {self._n_bins[dimension]} bins. "
                "Mask the logits with legal_tokens before choosing."
            )
        return (self._low + (ids + 0.5) * self._width).astype(np.float32)

    def legal_tokens(self, prefix: Int64[Array, "b i"]) -> Bool[Array, "b v"]:
        """Which ids may follow: a bin of the dimension whose turn it is, whatever came before."""
        batch, position = prefix.shape
        if position >= self.n_tokens:
            raise ValueError(
                f"The prefix has {position} ids, but a decision has {self.n_tokens} tokens."
            )
        return np.broadcast_to(
            self._legal[position % self.action_dim], (batch, self.vocab_size)
        ).copy()

    def position_tables(
        self,
    ) -> tuple[Bool[Array, "n v"], Float32[Array, "n v"]]:
        """Which ids are legal at each place, and the number that each stands for (0 if illegal)."""
        dimension = np.arange(self.n_tokens) % self.action_dim
        legal = self._legal[dimension]
        centers = self._low[:, None] + (np.arange(self.vocab_size) + 0.5) * self._width[:, None]
        return legal, np.where(legal, centers[dimension], 0.0).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """kind, horizon, and low, high, n_bins of each dimension."""
        return {
            "kind": self.kind,
            "horizon": self._horizon,
            "low": self._low.tolist(),
            "high": self._high.tolist(),
            "n_bins": self._n_bins.tolist(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> _Bins:
        """The tokenizer that `to_json` described; ValueError when it is of another kind."""
        if value.get("kind") != cls.kind:
            raise ValueError(
                f"This describes a tokenizer of kind {value.get('kind')!r}; "
                f"{cls.__name__} reads kind {cls.kind!r}."
            )
        tokenizer = cls.__new__(cls)
        _Bins.__init__(
            tokenizer,
            np.asarray(value["low"], np.float64),
            np.asarray(value["high"], np.float64),
            np.asarray(value["n_bins"], np.int64),
            int(value["horizon"]),
        )
        return tokenizer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bins) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(horizon={self._horizon}, n_bins={list(self.n_bins)})"


class UniformBinTokenizer(_Bins):
    """Equal bins over [-1, 1]; `n_bins` for all dimensions or one number a dimension."""

    kind = "uniform_bins"

    @classmethod
    def fit(
        cls, actions: Float[Array, "N d"], *, horizon: int = 1, n_bins: int = 256, **_: object
    ) -> UniformBinTokenizer:
        """Bins over [-1, 1], whatever the actions are; they tell the number of dimensions."""
        return cls(actions.shape[-1], horizon, n_bins)

    def __init__(
        self, action_dim: int, horizon: int = 1, n_bins: int | Sequence[int] = 256
    ) -> None:
        counts = np.asarray(n_bins, np.int64)
        if counts.ndim == 1 and len(counts) != action_dim:
            raise ValueError(
                f"n_bins lists {len(counts)} dimensions, but actions have {action_dim}."
            )
        counts = np.broadcast_to(counts, (action_dim,)).copy()
        super().__init__(-np.ones(action_dim), np.ones(action_dim), counts, horizon)


class QuantileBinTokenizer(_Bins):
    """Equal bins between each dimension's 1 % and 99 % quantile; make one with `fit`."""

    kind = "quantile_bins"

    def __init__(
        self, low: Sequence[float], high: Sequence[float], n_bins: Sequence[int], horizon: int = 1
    ) -> None:
        super().__init__(
            np.asarray(low, np.float64),
            np.asarray(high, np.float64),
            np.asarray(n_bins, np.int64),
            horizon,
        )

    @classmethod
    def fit(
        cls, actions: Float[Array, "N d"], *, horizon: int = 1, n_bins: int = 256, **_: object
    ) -> QuantileBinTokenizer:
        """Take q01 and q99 of each dimension of the data set's actions, in [-1, 1].

        Where q01 equals q99 but the dimension is not constant (a gripper that rarely moves), its
        minimum and maximum take their place, so that no command is lost. A constant dimension gets
        one bin. ValueError on no actions, NaN, or a value outside [-1, 1].
        """
        low, high = quantile_ranges(actions)
        counts = np.clip(np.floor((high - low) / MIN_WIDTH), 1, n_bins).astype(np.int64)
        return cls(low.tolist(), high.tolist(), counts.tolist(), horizon)
