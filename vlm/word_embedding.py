"""Embeddings of hashed words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlm.words import ASCII_WORDS


class WordEmbedding(nn.Embedding):
    """Ids of `hash_words` to vectors.

    With ASCII_WORDS an id is a row of one table. Else it is a pair of rows of two tables, and its
    vector their sum: 4,096 rows each tell 16 million words apart, where one table of as many lets
    two of 260 household words in eight share a row.
    """

    def __init__(self, buckets: int, width: int, scheme: int, std: float = 1.0) -> None:
        super().__init__(buckets, width)
        # Vectors have deviation `std`, however many tables they are summed from.
        std = std if scheme == ASCII_WORDS else std * 0.5**0.5
        with torch.no_grad():
            self.weight *= std
        self.second: nn.Parameter | None = None
        if scheme != ASCII_WORDS:
            self.second = nn.Parameter(torch.randn(buckets, width) * std)

    def forward(self, ids: Int64[Tensor, "*rows"]) -> Float[Tensor, "*rows c"]:
        """One vector a word; that of padding (0) means nothing."""
        if self.second is None:
            return super().forward(ids)
        low, high = self._rows(ids)
        return F.embedding(low, self.weight) + F.embedding(high, self.second)

    def bag(self, ids: Int64[Tensor, "n w"]) -> Float[Tensor, "n c"]:
        """The sum of the vectors of each row, without those of padding (0)."""
        if self.second is None:
            return F.embedding_bag(ids, self.weight, mode="sum", padding_idx=0)
        low, high = (rows.masked_fill(ids == 0, 0) for rows in self._rows(ids))
        return F.embedding_bag(low, self.weight, mode="sum", padding_idx=0) + F.embedding_bag(
            high, self.second, mode="sum", padding_idx=0
        )

    def _rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The first is the row that the id has with ASCII_WORDS."""
        counted, rows = (ids - 1).clamp(min=0), self.num_embeddings - 1
        return counted % rows + 1, counted // rows + 1
