"""FAST: a chunk's cosine transform, rounded, as byte pairs (Pertsch et al., arXiv 2501.09747).

Each dimension is scaled by its 1st and 99th percentile, transformed along the chunk (orthonormal
DCT-II), multiplied by `scale` and rounded. The numbers are read lowest frequency first, all
dimensions of one frequency together, and byte-pair encoding makes few tokens of them. `END` says
that all that is left is 0. So every sequence decodes, and so does every prefix of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from tokenizers_action.arrays import Array, Bool, Float, Float32, Int64
from tokenizers_action.pair_merges import (
    END,
    MAX_SYMBOLS,
    Merges,
    apply_merges,
    expansions,
    learn_merges,
)
from tokenizers_action.protocol import action_chunks
from tokenizers_action.ranges import MAX_HORIZON, check_chunks, quantile_ranges

# Chunks that are encoded at a time.
_BLOCK = 4096
# Chunks, and numbers in them, that merges are learned from.
_LEARNED_CHUNKS, _LEARNED_NUMBERS = 50_000, 4_000_000
# No coefficient that any vocabulary holds comes near.
_LARGEST = 2**30
# Share of the chunks that the places of a decision suffice for; others lose their last numbers.
_FITTING = 0.999
# Share of the chunks' dimensions that may have a number without a symbol before a scale is refused.
_MAX_CLIPPED = 0.01


class FastTokenizer:
    """Byte pairs of rounded cosine coefficients; make one with `fit_chunks`.

    Ids: END, the numbers span[0] to span[1], then one id a merge. A decision has `n_tokens` places;
    a chunk that needs more loses its highest frequencies.
    """

    kind: ClassVar[str] = "fast"

    def __init__(
        self,
        low: Array,
        high: Array,
        horizon: int,
        scale: float,
        span: tuple[int, int],
        merges: Merges,
        n_tokens: int,
    ) -> None:
        self._low, self._high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        if not 1 <= horizon <= MAX_HORIZON or not 1 <= len(self._low) == len(self._high):
            raise ValueError(
                f"A FAST tokenizer needs 1 <= horizon <= {MAX_HORIZON} and a range for each "
                f"dimension, got {horizon}, {len(self._low)} and {len(self._high)}."
            )
        sound = np.isfinite(self._low) & np.isfinite(self._high) & (self._low <= self._high)
        if not sound.all() or not 0 < scale < np.inf:
            raise ValueError(f"A FAST tokenizer needs low <= high and scale > 0, got {scale}.")
        if not span[0] <= 0 <= span[1] or span[1] - span[0] >= MAX_SYMBOLS or n_tokens < 1:
            raise ValueError(
                f"A FAST tokenizer needs a span around 0 and n_tokens >= 1, got {span}, {n_tokens}."
            )
        self._horizon, self._scale, self._span, self._n = horizon, scale, span, n_tokens
        self._merges = [(int(left), int(right)) for left, right in merges]
        self._symbols = span[1] - span[0] + 1
        self._cosines = cosines(horizon)
        made = expansions(self._merges, self._symbols, self._numbers)
        self._lengths = np.array([len(x) for x in made], np.int64)
        self._begins = np.cumsum(self._lengths) - self._lengths
        self._expanded = np.concatenate(made).astype(np.int64) - 1 + span[0]

    @property
    def action_dim(self) -> int:
        return len(self._low)

    @property
    def horizon(self) -> int:
        return self._horizon

    @property
    def n_tokens(self) -> int:
        return self._n

    @property
    def vocab_size(self) -> int:
        return len(self._lengths)

    @property
    def _numbers(self) -> int:
        """Coefficients of one chunk."""
        return self._horizon * len(self._low)

    @classmethod
    def fit_chunks(
        cls,
        chunks: Float[Array, "N h d"],
        *,
        vocabulary: int = 1024,
        scale: float = 10.0,
        max_tokens: int | None = None,
        **_: object,
    ) -> FastTokenizer:
        """Ranges, symbols and merges of the chunks at every step of the logs, in [-1, 1].

        `max_tokens`: places of a decision; None: what 99.9 % of the chunks need. ValueError on no
        chunks, NaN, a value outside [-1, 1], or a scale whose numbers the vocabulary can't hold.
        """
        low, high = quantile_ranges(chunks[:, 0])
        horizon, action_dim = chunks.shape[1:]
        check_chunks(chunks, horizon, action_dim)
        most = (vocabulary - 1) // 2
        wave = cosines(horizon)
        numbers = np.concatenate(
            [_rounded(block, low, high, wave * scale) for block in _blocks(chunks)]
        )
        span = _span(numbers, most)
        outside = (numbers < span[0]) | (numbers > span[1])
        beyond = float(outside.reshape(len(chunks), horizon, action_dim).any(1).mean())
        if beyond > _MAX_CLIPPED:
            raise ValueError(
                f"at scale {scale:g} the numbers of these chunks run from {numbers.min()} to "
                f"{numbers.max()}, and half of a vocabulary of {vocabulary} holds {most} of them "
                f"({100 * beyond:.1f} % of the dimensions of chunks have one beyond): raise "
                "--tokenizer.vocabulary or lower --tokenizer.scale."
            )
        every = max(len(numbers) // _LEARNED_CHUNKS, numbers.size // _LEARNED_NUMBERS) + 1
        sample = np.clip(numbers[::every], *span)
        rows = [row[: _length(row)] - span[0] + 1 for row in sample]
        symbols = span[1] - span[0] + 1
        merges = learn_merges(rows, symbols, vocabulary, horizon * action_dim)
        whole = cls(low, high, horizon, scale, span, merges, horizon * action_dim)
        if max_tokens is None:
            lengths = [int((row != END).sum()) for row in whole.encode(chunks[::every])]
            max_tokens = max(1, int(np.ceil(np.quantile(lengths, _FITTING))))
        return cls(low, high, horizon, scale, span, merges, max_tokens)

    @classmethod
    def fit(
        cls, actions: Float[Array, "N d"], *, horizon: int = 1, **settings: Any
    ) -> FastTokenizer:
        """`fit_chunks` of the chunks of one log."""
        return cls.fit_chunks(action_chunks(actions, horizon)[0], **settings)

    def encode(self, actions: Float[Array, "b h d"]) -> Int64[Array, "b n"]:
        """Ids of action chunks; ValueError on a wrong shape, NaN, or a value outside [-1, 1]."""
        actions = check_chunks(actions, self._horizon, self.action_dim)
        found = np.zeros((len(actions), self._n), np.int64)
        first = 0
        for block in _blocks(actions):
            self._encode(block, found[first : first + len(block)])
            first += len(block)
        return found

    def decode(self, ids: Int64[Array, "b n"]) -> Float32[Array, "b h d"]:
        """Chunks in [-1, 1]; ValueError on a wrong shape or an id that is not legal where it
        stands."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.shape[1] != self._n:
            raise ValueError(f"Ids have shape {ids.shape}; expected [b, n={self._n}].")
        return self.decode_prefix(ids)

    def decode_prefix(self, ids: Int64[Array, "b i"]) -> Float32[Array, "b h d"]:
        """Chunks of the first i <= n ids of decisions, all numbers that they don't reach being 0:
        a coarser chunk, since high frequencies come last."""
        ids = np.asarray(ids)
        known = (ids >= 0) & (ids < self.vocab_size)
        lengths = self._lengths[np.where(known, ids, END)]
        ends = np.cumsum(lengths, 1)
        closed = np.cumsum(ids == END, 1) - (ids == END) > 0
        illegal = ~known | (ends > self._numbers) | (closed & (ids != END))
        if illegal.any():
            row, place = np.argwhere(illegal)[0].tolist()
            raise ValueError(
                f"Id {ids[row, place]} (row {row}, place {place}) is not legal: ids lie in "
                f"[0, {self.vocab_size}), stand for {self._numbers} numbers in all, and nothing "
                f"follows END ({END}). Mask the logits with legal_tokens before choosing."
            )
        numbers = np.zeros((len(ids), self._numbers))
        within = lengths.ravel()
        into = np.arange(within.sum()) - np.repeat(np.cumsum(within) - within, within)
        starts = (ends - lengths + np.arange(len(ids))[:, None] * self._numbers).ravel()
        source = np.repeat(self._begins[ids.ravel()], within) + into
        numbers.ravel()[np.repeat(starts, within) + into] = self._expanded[source]
        return self._actions(numbers)

    def legal_tokens(self, prefix: Int64[Array, "b i"]) -> Bool[Array, "b v"]:
        """Ids that stand for no more numbers than are left, and END; END alone after it, and where
        none is left."""
        if prefix.shape[1] >= self._n:
            raise ValueError(
                f"The prefix has {prefix.shape[1]} ids, but a decision has {self._n} tokens."
            )
        left = self._numbers - self._lengths[prefix].sum(1)
        left = np.where((prefix == END).any(1), 0, left)
        return self._lengths <= left[:, None]

    def real_tokens(
        self, ids: Int64[Array, "b n"], actions: Int64[Array, " b"]
    ) -> Bool[Array, "b n"]:
        """The tokens up to the first END; not an END after numbers that already fill the chunk.
        A chunk at the end of a log counts whole: each of its tokens stands for all of its steps."""
        before = np.cumsum(self._lengths[ids], 1) - self._lengths[ids]
        closed = np.cumsum(ids == END, 1) - (ids == END) > 0
        return ~closed & (before < self._numbers) & (np.asarray(actions)[:, None] > 0)

    def sequence_tables(self) -> tuple[Int64[Array, " v"], Float32[Array, "v l"]]:
        """How many numbers each id stands for, and these numbers, 0 after them."""
        table = np.zeros((self.vocab_size, int(self._lengths.max())), np.float32)
        inside = np.arange(table.shape[1]) < self._lengths[:, None]
        table[inside] = self._expanded
        return self._lengths.copy(), table

    def linear_map(self) -> tuple[Float32[Array, "m a"], Float32[Array, " a"]]:
        """Matrix and offset from the numbers of a chunk to its h x d actions, before clipping."""
        unit = np.eye(self._numbers)
        offset = self._unclipped(np.zeros((1, self._numbers)))[0]
        matrix = self._unclipped(unit) - offset
        shape = (self._numbers, self._numbers)
        return matrix.reshape(shape).astype(np.float32), offset.reshape(-1).astype(np.float32)

    def clipped(self, actions: Float[Array, "b h d"]) -> Bool[Array, "b d"]:
        """Whether a number of a chunk's dimension lies beyond the symbols."""
        found = [self._rounded(block) for block in _blocks(actions)]
        numbers = np.concatenate(found).reshape(len(actions), self._horizon, self.action_dim)
        return ((numbers < self._span[0]) | (numbers > self._span[1])).any(1)

    def to_json(self) -> dict[str, Any]:
        """kind, horizon, low, high, scale, span, n_tokens, and the pair of ids of each merge."""
        return {
            "kind": self.kind,
            "horizon": self._horizon,
            "low": self._low.tolist(),
            "high": self._high.tolist(),
            "scale": self._scale,
            "span": list(self._span),
            "n_tokens": self._n,
            "merges": [list(pair) for pair in self._merges],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FastTokenizer:
        """The tokenizer that `to_json` described; ValueError when it is of another kind."""
        if value.get("kind") != cls.kind:
            raise ValueError(
                f"This describes a tokenizer of kind {value.get('kind')!r}; "
                f"{cls.__name__} reads kind {cls.kind!r}."
            )
        first, last = value["span"]
        return cls(
            np.asarray(value["low"], np.float64),
            np.asarray(value["high"], np.float64),
            int(value["horizon"]),
            float(value["scale"]),
            (int(first), int(last)),
            [(left, right) for left, right in value["merges"]],
            int(value["n_tokens"]),
        )

    def __repr__(self) -> str:
        return (
            f"FastTokenizer(horizon={self._horizon}, action_dim={self.action_dim}, "
            f"scale={self._scale:g}, {self.vocab_size} ids, n_tokens={self._n})"
        )

    def _rounded(self, actions: Array) -> Array:
        return _rounded(actions, self._low, self._high, self._cosines * self._scale)

    def _encode(self, actions: Array, ids: Array) -> None:
        numbers = np.clip(self._rounded(actions), *self._span)
        count, columns = numbers.shape
        last = columns - np.argmax(numbers[:, ::-1] != 0, 1)
        last[~numbers.any(1)] = 0
        padded = np.zeros((count, columns + 1), np.int32)
        padded[:, :-1] = numbers - self._span[0] + 1
        place = np.arange(columns + 1)
        padded[place >= last[:, None]] = END
        flat = apply_merges(padded[place <= last[:, None]], self._merges, self._symbols)
        ends = np.flatnonzero(flat == END)
        lengths = np.diff(ends, prepend=-1) - 1
        row = np.repeat(np.arange(count), lengths + 1)
        column = np.arange(len(flat)) - np.repeat(ends - lengths, lengths + 1)
        fits = column < self._n
        ids[row[fits], column[fits]] = flat[fits]

    def _unclipped(self, numbers: Array) -> Array:
        shaped = (numbers / self._scale).reshape(-1, self._horizon, self.action_dim)
        scaled = np.tensordot(shaped, self._cosines, (1, 0)).swapaxes(1, 2)
        return self._low + (scaled + 1) / 2 * (self._high - self._low)

    def _actions(self, numbers: Array) -> Array:
        return np.clip(self._unclipped(numbers), -1, 1).astype(np.float32)


def cosines(horizon: int) -> Array:
    """The orthonormal DCT-II, [frequency, step]."""
    step = np.arange(horizon) + 0.5
    matrix = np.sqrt(2 / horizon) * np.cos(np.pi / horizon * np.outer(np.arange(horizon), step))
    matrix[0] /= np.sqrt(2)
    return matrix


def _rounded(actions: Array, low: Array, high: Array, wave: Array) -> Array:
    """The rounded coefficients of chunks, int [b, h x d], lowest frequencies first; `wave` is the
    transform, scaled."""
    width = high - low
    scaled = np.where(width > 0, 2 * (actions - low) / np.where(width > 0, width, 1.0) - 1, 0.0)
    mixed = np.tensordot(scaled, wave, (1, 1)).swapaxes(1, 2)
    return np.clip(np.rint(mixed), -_LARGEST, _LARGEST).astype(np.int32).reshape(len(actions), -1)


def _blocks(chunks: Array) -> Iterator[Array]:
    for first in range(0, len(chunks), _BLOCK):
        yield chunks[first : first + _BLOCK]


def _length(row: Array) -> int:
    """Numbers up to the last that is not 0."""
    found = np.flatnonzero(row)
    return int(found[-1]) + 1 if len(found) else 0


def _span(numbers: Array, most: int) -> tuple[int, int]:
    """Lowest and highest number that get a symbol: all, or `most` around 0."""
    lowest, highest = min(0, int(numbers.min())), max(0, int(numbers.max()))
    low = max(lowest, -((most - 1) // 2))
    high = min(highest, low + most - 1)
    return max(lowest, high - most + 1), high
