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
