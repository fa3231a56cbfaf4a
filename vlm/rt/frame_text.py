"""The command and the texts of each step as one token: bags of hashed words and word pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlm.word_embedding import WordEmbedding
from vlm.words import ASCII_WORDS, hash_text

# Spreads the pairs of neighboring words over the buckets (a prime).
_PAIR = 1_000_003


def frame_words(
    command: str,
    texts: Sequence[str],
    command_length: int,
    text_length: int,
    buckets: int,
    scheme: int = ASCII_WORDS,
) -> Int64[np.ndarray, " w"]:
    """Word ids of one step: the command that led there, then what was said; what is longer than
    its places is cut, and 0 fills up."""
    said = hash_text(" ".join(texts), text_length, buckets, scheme)
    return np.concatenate([hash_text(command, command_length, buckets, scheme), said])


class FrameText(nn.Module):
    """Words of j steps to j tokens.

    Each part (command, texts) is three sums of embeddings: of its words, of its pairs of
    neighbors (cabinet 1 is not drawer 1), and once more of those words that the instruction has
    too, so that seeing what the goal names needs no learning word by word. Sums, not attention:
    they cost less than the decoder's reading of their one token a step.
    """

    def __init__(
        self,
        command_length: int,
        text_length: int,
        buckets: int,
        width: int,
        word_scheme: int = ASCII_WORDS,
    ) -> None:
        super().__init__()
        inner = min(64, width)
        self.parts = [n for n in (command_length, text_length) if n]
        self.words = WordEmbedding(buckets, inner, word_scheme, std=0.5)
        # There are more pairs than words.
        self.pairs = nn.Embedding(2 * buckets, inner)
        nn.init.normal_(self.pairs.weight, std=0.5)
        # What any word of the instruction says, whichever it is.
        self.any_shared = nn.Parameter(torch.randn(inner) * 0.5)
        width_in = 3 * inner * len(self.parts)
        self.norm = nn.LayerNorm(width_in)
        self.out = nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width))

    def forward(
        self, words: Int64[Tensor, "b j w"], instruction: Int64[Tensor, "b l"]
    ) -> Float[Tensor, "b j c"]:
        """One token a step; the instruction is hashed into the same buckets."""
        if words.shape[-1] != sum(self.parts):
            raise ValueError(
                f"steps of {words.shape[-1]} words; the model reads {sum(self.parts)} (make them "
                "with encode_frame)."
            )
        b, j, _ = words.shape
        if not torch.compiler.is_compiling():  # padding stands at the end: compare no more of it
            instruction = instruction[:, : max(1, int((instruction != 0).sum(1).max()))]
        asked = torch.where(instruction == 0, -1, instruction)
        shared = (words[..., None] == asked[:, None, None, :]).any(-1)
        bags = []
        for ids, both in zip(
            words.split(self.parts, -1), shared.split(self.parts, -1), strict=True
        ):
            pair = (ids[..., 1:] * _PAIR + ids[..., :-1]) % (len(self.pairs.weight) - 1) + 1
            pair = pair.masked_fill((ids[..., 1:] == 0) | (ids[..., :-1] == 0), 0)
            kept = ids.masked_fill(~both, 0)
            count = both.sum(-1, keepdim=True).to(self.any_shared.dtype)
            bags += [
                self._bag(ids),
                _bag(pair, self.pairs),
                self._bag(kept) + count * self.any_shared,
            ]
        x = torch.cat(bags, -1)
        return self.out(self.norm(x)).view(b, j, -1)

    def _bag(self, ids: Tensor) -> Tensor:
        return self.words.bag(ids.flatten(0, -2)).view(*ids.shape[:-1], -1)


def _bag(ids: Tensor, table: nn.Embedding) -> Tensor:
    """The sum of the embeddings of ids [..., w], without those of padding (0)."""
    if not ids.shape[-1]:  # a command of one word has no pairs
        return table.weight.new_zeros(*ids.shape[:-1], table.weight.shape[1])
    summed = F.embedding_bag(ids.flatten(0, -2), table.weight, mode="sum", padding_idx=0)
    return summed.view(*ids.shape[:-1], -1)
