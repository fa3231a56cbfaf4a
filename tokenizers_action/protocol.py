"""The protocol of action tokenizers: actions to token ids and back, and legal next ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tokenizers_action.arrays import Array, Bool, Float, Float32, Int64


@runtime_checkable
class ActionTokenizer(Protocol):
    """A two-way map between action chunks [h, d] in [-1, 1] and n token ids in [0, vocab_size).

    Where actions are text commands (d = 0) a chunk is object [h] of str instead.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def n_tokens(self) -> int: ...

    @property
    def horizon(self) -> int: ...

    @property
    def action_dim(self) -> int: ...

    def encode(self, actions: Float[Array, "b h d"]) -> Int64[Array, "b n"]:
        """Ids of action chunks in [-1, 1]; ValueError on NaN or a value outside."""
        ...

    def decode(self, ids: Int64[Array, "b n"]) -> Float32[Array, "b h d"]:
        """Action chunks in [-1, 1] of legal ids; ValueError on an illegal id."""
        ...

    def legal_tokens(self, prefix: Int64[Array, "b i"]) -> Bool[Array, "b v"]:
        """Which ids may follow `prefix` (0 <= i < n); at least one id a row."""
        ...

    def real_tokens(
        self, ids: Int64[Array, "b n"], actions: Int64[Array, " b"]
    ) -> Bool[Array, "b n"]:
        """Which tokens carry something, where only the first `actions` of each chunk's h are real
        (the rest is past the end of a log); False on what fills a decision up to n tokens."""
        ...

    @classmethod
    def fit(
        cls, actions: Any, *, horizon: int = 1, n_bins: int = 256, free: bool = False
    ) -> ActionTokenizer:
        """A tokenizer for the actions [N, d] in [-1, 1] of all logs, or for all their commands; a
        kind ignores the settings that it has no use for."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Everything `from_json` needs, JSON types only; "kind" names the class."""
        ...

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ActionTokenizer:
        """The tokenizer that `to_json` described; ValueError when the kind is another."""
        ...


@runtime_checkable
class PositionalTokenizer(ActionTokenizer, Protocol):
    """One whose token i stands for number i of the chunk, whatever the other tokens are."""

    def position_tables(
        self,
    ) -> tuple[Bool[Array, "n v"], Float32[Array, "n v"]]:
        """Which ids are legal at each place, and the number that each stands for (0 if illegal)."""
        ...


@runtime_checkable
class ChunkTokenizer(ActionTokenizer, Protocol):
    """One that is fit to whole chunks, whose tokens stand for no single action."""

    @classmethod
    def fit_chunks(
        cls,
        chunks: Float[Array, "N h d"],
        *,
        n_bins: int = 256,
        points: int | None = None,
        vocabulary: int = 1024,
        scale: float = 10.0,
        max_tokens: int | None = None,
    ) -> ChunkTokenizer:
        """A tokenizer for the chunks at every step of the logs; a kind ignores the settings that it
        has no use for."""
        ...

    def decode_prefix(self, ids: Int64[Array, "b i"]) -> Float32[Array, "b h d"]:
        """Coarser chunks, of the first i <= n ids of decisions."""
        ...

    def clipped(self, actions: Float[Array, "b h d"]) -> Bool[Array, "b d"]:
        """Whether the code can't reach what a dimension of a chunk does, but for rounding."""
        ...

    def linear_map(self) -> tuple[Float32[Array, "m a"], Float32[Array, " a"]]:
        """Matrix and offset from the m numbers of a code to h x d actions, before they are clipped
        to [-1, 1]."""
        ...


@runtime_checkable
class CoordinateTokenizer(ChunkTokenizer, Protocol):
    """One whose token i stands for number i of the code, whatever the other tokens are."""

    def coordinate_tables(self) -> tuple[Bool[Array, "n v"], Float32[Array, "n v"]]:
        """Which ids are legal at each place, and the number that each stands for (0 if illegal)."""
        ...


@runtime_checkable
class SequenceTokenizer(ChunkTokenizer, Protocol):
    """One whose ids stand for several numbers of the code each, in order; id 0 for none: it ends
    the decision, all further numbers being 0."""

    def sequence_tables(self) -> tuple[Int64[Array, " v"], Float32[Array, "v l"]]:
        """How many numbers each id stands for, and these numbers, 0 after them."""
        ...


@runtime_checkable
class TextTokenizer(ActionTokenizer, Protocol):
    """One for text commands, whose legal sets may differ from row to row."""

    # Whether policies decode without the rows' own commands: any words.
    free: bool

    def within(self, admissible: Sequence[str]) -> RowTokenizer:
        """The tokenizer bound to rows, each with its own commands, one a line."""
        ...


class RowTokenizer(ActionTokenizer, Protocol):
    """A tokenizer bound to b rows: `legal_tokens` takes prefixes of exactly these."""

    def __getitem__(self, rows: Array) -> RowTokenizer:
        """The same, bound to some of the rows, int [b']."""
        ...


def legal_along(tokenizer: ActionTokenizer, ids: Int64[Array, "b n"]) -> Bool[Array, "b n v"]:
    """The legal set at every position of whole decisions: row i is what may follow ids[:, :i]."""
    return np.stack([tokenizer.legal_tokens(ids[:, :i]) for i in range(tokenizer.n_tokens)], axis=1)


def action_chunks(actions: Array, horizon: int) -> tuple[Array, Array]:
    """The next `horizon` actions of each step of a log, [t, h, d] or commands [t, h], and which of
    them are real, bool [t, h]; past the end of the log the last action stands in, masked."""
    index = np.arange(len(actions))[:, None] + np.arange(horizon)
    return actions[np.minimum(index, len(actions) - 1)], index < len(actions)
