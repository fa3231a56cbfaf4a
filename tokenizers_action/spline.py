"""B-splines: a fixed number of tokens for each dimension of a chunk, every prefix of which decodes.

Each dimension is the clamped uniform B-spline with `points` control points that is nearest to the
chunk (least squares), as in BEAST (arXiv 2506.06072). The spline is told by its coordinates in an
orthonormal basis of the splines, smoothest first (Demmler and Reinsch): the basis diagonalizes the
sum of squared differences. So coordinate 0 is the mean, the following add ever faster motion, and
leaving the last ones out gives the nearest chunk among smoother ones. Each coordinate of each
dimension has equal bins over what the logs have.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tokenizers_action.arrays import Array, Bool, Float, Float32, Int64
from tokenizers_action.protocol import action_chunks
from tokenizers_action.ranges import MAX_HORIZON, MIN_WIDTH, check_chunks, quantile_ranges

# Splines are cubic where there are control points enough.
DEGREE = 3
# Share of the chunks beyond either end of a coordinate's bins.
_TAIL = 0.001
# Chunks that are encoded at a time.
_BLOCK = 16_384


class SplineTokenizer:
    """Binned coordinates of B-splines, one token each; make one with `fit_chunks`.

    Token k x d + j is coordinate k of dimension j. `degrees` is each dimension's degree: 0, steps,
    for one that only takes two values (a gripper that opens or closes).
    """

    kind: ClassVar[str] = "spline"

    def __init__(
        self, low: Array, high: Array, n_bins: Array, horizon: int, degrees: Array
    ) -> None:
        self._low, self._high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self._n_bins, self._degrees = np.asarray(n_bins, np.int64), np.asarray(degrees, np.int64)
        self._horizon = horizon
        points, action_dim = self._shape = self._n_bins.shape if self._n_bins.ndim == 2 else (0, 0)
        if not 1 <= horizon <= MAX_HORIZON or not 1 <= points <= horizon or action_dim < 1:
            raise ValueError(
                f"A spline needs 1 <= control points <= horizon <= {MAX_HORIZON} and action_dim >= "
                f"1, got {points}, {horizon}, {action_dim}."
            )
        same = self._low.shape == self._high.shape == (points, action_dim)
        if not same or self._degrees.shape != (action_dim,) or (self._n_bins < 1).any():
            raise ValueError("A spline's low, high and n_bins are [points, d], its degrees [d].")
        if not (np.isfinite(self._low) & np.isfinite(self._high) & (self._low <= self._high)).all():
            raise ValueError("A spline's bins need low <= high, all finite.")
        if not ((self._degrees >= 0) & (self._degrees < points)).all():
            raise ValueError(f"A spline of {points} control points has a degree below {points}.")
        self._width = (self._high - self._low) / self._n_bins
        each = self._degrees.tolist()
        bases = {degree: smooth_basis(horizon, points, degree) for degree in set(each)}
        self._basis = np.stack([bases[degree] for degree in each])  # [d, points, h]

    @property
    def action_dim(self) -> int:
        return self._shape[1]

    @property
    def horizon(self) -> int:
        return self._horizon

    @property
    def points(self) -> int:
        """Control points of each dimension."""
        return self._shape[0]

    @property
    def n_tokens(self) -> int:
        return self._shape[0] * self._shape[1]

    @property
    def vocab_size(self) -> int:
        return int(self._n_bins.max())

    @classmethod
    def fit_chunks(
        cls,
        chunks: Float[Array, "N h d"],
        *,
        points: int | None = None,
        n_bins: int = 256,
        **_: object,
    ) -> SplineTokenizer:
        """Bins for the chunks at every step of the logs, in [-1, 1].

        `points`: control points of each dimension; None: a fifth of the horizon, 4 at least (or
        all). A coordinate's bins reach from its .1 % to its 99.9 % quantile; a constant one has
        one bin. ValueError on no chunks, NaN, a value outside [-1, 1], or too many points.
        """
        quantile_ranges(chunks[:, 0])  # refuses what is empty or broken
        horizon, action_dim = chunks.shape[1:]
        chunks = check_chunks(chunks, horizon, action_dim)
        count = min(horizon, max(4, horizon // 5)) if points is None else points
        if not 1 <= count <= horizon:
            raise ValueError(
                f"--tokenizer.points {count}: a chunk of {horizon} actions has 1 to {horizon} "
                "control points."
            )
        smooth = min(DEGREE, count - 1)
        degrees = np.where(_two_valued(chunks[:, 0]), 0, smooth)
        shape = (count, action_dim)
        ones = np.ones(shape, np.int64)
        told = cls(np.zeros(shape), np.ones(shape), ones, horizon, degrees)._coordinates(chunks)
        low, high = np.quantile(told, [_TAIL, 1 - _TAIL], axis=0)
        collapsed = high - low < MIN_WIDTH
        low = np.where(collapsed, told.min(0), low)
        high = np.where(collapsed, told.max(0), high)
        middle, constant = (low + high) / 2, high - low < MIN_WIDTH
        low, high = np.where(constant, middle, low), np.where(constant, middle, high)
        return cls(low, high, np.where(constant, 1, n_bins), horizon, degrees)

    @classmethod
    def fit(
        cls, actions: Float[Array, "N d"], *, horizon: int = 1, **settings: Any
    ) -> SplineTokenizer:
        """`fit_chunks` of the chunks of one log."""
        return cls.fit_chunks(action_chunks(actions, horizon)[0], **settings)

    def encode(self, actions: Float[Array, "b h d"]) -> Int64[Array, "b n"]:
        """Ids of action chunks; a coordinate beyond the bins falls in the outer one. ValueError on
        a wrong shape, NaN, or a value outside [-1, 1]."""
        actions = check_chunks(actions, self._horizon, self.action_dim)
        found = np.zeros((len(actions), *self._shape), np.int64)
        safe = np.where(self._width > 0, self._width, 1.0)
        for first in range(0, len(actions), _BLOCK):
            told = self._coordinates(actions[first : first + _BLOCK])
            bins = np.floor((told - self._low) / safe)
            found[first : first + _BLOCK] = np.clip(bins, 0, self._n_bins - 1)
        return found.reshape(len(actions), self.n_tokens)

    def decode(self, ids: Int64[Array, "b n"]) -> Float32[Array, "b h d"]:
        """Chunks in [-1, 1]; ValueError on a wrong shape or an id that has no bin."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.shape[1] != self.n_tokens:
            raise ValueError(f"Ids have shape {ids.shape}; expected [b, n={self.n_tokens}].")
        return self.decode_prefix(ids)

    def decode_prefix(self, ids: Int64[Array, "b i"]) -> Float32[Array, "b h d"]:
        """Chunks of the first i <= n ids of decisions: a coarser chunk, all later coordinates being
        0, or a mean that is not there yet the middle of its bins."""
        ids = np.asarray(ids)
        known = ids.shape[1]
        bins = self._n_bins.ravel()[:known]
        illegal = (ids < 0) | (ids >= bins)
        if illegal.any():
            row, place = np.argwhere(illegal)[0].tolist()
            raise ValueError(
                f"Id {ids[row, place]} (row {row}, place {place}) is not legal: there are "
                f"{bins[place]} bins. Mask the logits with legal_tokens before choosing."
            )
        told = np.zeros((len(ids), self.n_tokens))
        told[:, : self.action_dim] = (self._low[0] + self._high[0]) / 2
        low, width = self._low.ravel()[:known], self._width.ravel()[:known]
        told[:, :known] = low + (ids + 0.5) * width
        actions = self._actions(told.reshape(-1, *self._shape))
        return np.clip(actions, -1, 1).astype(np.float32)

    def legal_tokens(self, prefix: Int64[Array, "b i"]) -> Bool[Array, "b v"]:
        """A bin of the coordinate whose turn it is, whatever came before."""
        batch, place = prefix.shape
        if place >= self.n_tokens:
            raise ValueError(
                f"The prefix has {place} ids, but a decision has {self.n_tokens} tokens."
            )
        legal = np.arange(self.vocab_size) < self._n_bins.ravel()[place]
        return np.broadcast_to(legal, (batch, self.vocab_size)).copy()

    def real_tokens(
        self, ids: Int64[Array, "b n"], actions: Int64[Array, " b"]
    ) -> Bool[Array, "b n"]:
        """All of them: each stands for all steps of the chunk, also at the end of a log."""
        return np.broadcast_to(np.asarray(actions)[:, None] > 0, ids.shape).copy()

    def coordinate_tables(self) -> tuple[Bool[Array, "n v"], Float32[Array, "n v"]]:
        """Which ids are legal at each place, and the coordinate that each stands for (0 if not)."""
        low, width = self._low.ravel(), self._width.ravel()
        legal = np.arange(self.vocab_size) < self._n_bins.ravel()[:, None]
        centers = low[:, None] + (np.arange(self.vocab_size) + 0.5) * width[:, None]
        return legal, np.where(legal, centers, 0.0).astype(np.float32)

    def linear_map(self) -> tuple[Float32[Array, "m a"], Float32[Array, " a"]]:
        """Matrix and offset from the n coordinates to the h x d actions, before clipping."""
        told = np.eye(self.n_tokens).reshape(-1, *self._shape)
        matrix = self._actions(told).reshape(self.n_tokens, -1)
        return matrix.astype(np.float32), np.zeros(matrix.shape[1], np.float32)

    def clipped(self, actions: Float[Array, "b h d"]) -> Bool[Array, "b d"]:
        """Whether a coordinate of a chunk's dimension lies beyond its bins."""
        told = self._coordinates(actions)
        slack = MIN_WIDTH + 1e-9
        return ((told < self._low - slack) | (told > self._high + slack)).any(1)

    def to_json(self) -> dict[str, Any]:
        """kind, horizon, degrees, and low, high, n_bins of each coordinate and dimension."""
        return {
            "kind": self.kind,
            "horizon": self._horizon,
            "degrees": self._degrees.tolist(),
            "low": self._low.tolist(),
            "high": self._high.tolist(),
            "n_bins": self._n_bins.tolist(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SplineTokenizer:
        """The tokenizer that `to_json` described; ValueError when it is of another kind."""
        if value.get("kind") != cls.kind:
            raise ValueError(
                f"This describes a tokenizer of kind {value.get('kind')!r}; "
                f"{cls.__name__} reads kind {cls.kind!r}."
            )
        return cls(
            np.asarray(value["low"], np.float64),
            np.asarray(value["high"], np.float64),
            np.asarray(value["n_bins"], np.int64),
            int(value["horizon"]),
            np.asarray(value["degrees"], np.int64),
        )

    def __repr__(self) -> str:
        return (
            f"SplineTokenizer(horizon={self._horizon}, action_dim={self.action_dim}, "
            f"points={self.points}, degrees={self._degrees.tolist()})"
        )

    def _coordinates(self, actions: Array) -> Array:
        """Coordinates of the nearest splines, [b, points, d]."""
        found = [actions[:, :, j] @ basis.T for j, basis in enumerate(self._basis)]
        return np.stack(found, -1)

    def _actions(self, told: Array) -> Array:
        return np.stack([told[:, :, j] @ basis for j, basis in enumerate(self._basis)], -1)


def spline_basis(horizon: int, points: int, degree: int) -> Array:
    """Clamped uniform B-splines at the steps of a chunk, [points, horizon]; each column sums to 1
    (Cox and de Boor)."""
    inner = np.linspace(0, 1, points - degree + 1)
    knots = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    # Steps are the middles of equal pieces, so that each piece of steps has its share of them.
    step = (np.arange(horizon) + 0.5) / horizon
    basis = ((knots[:-1, None] <= step) & (step < knots[1:, None])).astype(np.float64)
    for p in range(1, degree + 1):
        left, right = knots[p:-1] - knots[: -p - 1], knots[p + 1 :] - knots[1:-p]
        rise = (step - knots[: -p - 1, None]) / np.where(left > 0, left, 1)[:, None]
        fall = (knots[p + 1 :, None] - step) / np.where(right > 0, right, 1)[:, None]
        basis = rise * basis[:-1] * (left > 0)[:, None] + fall * basis[1:] * (right > 0)[:, None]
    return basis


def smooth_basis(horizon: int, points: int, degree: int) -> Array:
    """An orthonormal basis of these splines, smoothest first, [points, horizon]."""
    orthonormal, _ = np.linalg.qr(spline_basis(horizon, points, degree).T)
    steps = np.diff(orthonormal, axis=0)
    _, turned = np.linalg.eigh(steps.T @ steps)
    basis = (orthonormal @ turned).T
    # The sign of an eigenvector is free: the first step is positive.
    return basis * np.where(basis[:, :1] < 0, -1.0, 1.0)


def _two_valued(actions: Array) -> Array:
    """Dimensions that take two values and no more."""
    return np.array([len(np.unique(column)) == 2 for column in actions.T])
