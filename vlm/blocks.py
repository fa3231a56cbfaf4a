"""The pre-norm transformer block, and the instruction encoder that is made of one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlm.word_embedding import WordEmbedding
from vlm.words import ASCII_WORDS


class Block(nn.Module):
    """Self-attention and a perceptron, each behind a LayerNorm and added to its input.

    The projections have no bias, and the parameters are bare: at batch 1 a bias, or a module of
    its own for a projection, costs as much as the arithmetic.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, dropout: float, depth: int
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        inner = round(mlp_ratio * width)
        # The residual sum has 2 * depth terms; it starts with the variance of one.
        damp = (2 * depth) ** -0.5
        self.norm_attention_weight = nn.Parameter(torch.ones(width))
        self.norm_attention_bias = nn.Parameter(torch.zeros(width))
        self.query_key_value = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.attention_out = nn.Parameter(torch.randn(width, width) * width**-0.5 * damp)
        self.norm_mlp_weight = nn.Parameter(torch.ones(width))
        self.norm_mlp_bias = nn.Parameter(torch.zeros(width))
        self.mlp_in = nn.Parameter(torch.randn(inner, width) * width**-0.5)
        self.mlp_out = nn.Parameter(torch.randn(width, inner) * inner**-0.5 * damp)

    def tensors(self) -> tuple[Tensor, ...]:
        """All parameters, in the order of their definition."""
        return tuple(self._parameters.values())  # type: ignore[arg-type]

    def forward(
        self,
        x: Float[Tensor, "b t c"],
        mask: Float[Tensor, " ..."] | None,
        first: int = 0,
        causal: bool = True,
        cache: Float[Tensor, "b 2 heads slots head_width"] | list[Tensor] | None = None,
    ) -> Float[Tensor, "b t_out c"]:
        """Outputs at the positions `first` ... t - 1 (what comes before is only attended to).

        `mask` is added to the attention scores (0 or -inf) and broadcast to
        [b, heads, t - first, t]; where it is None, `causal` decides. `cache` receives the keys and
        values of positions 0 ... t - 1; a list gets them appended as one tensor of t slots.
        """
        norm1, norm1_bias, qkv, out, norm2, norm2_bias, mlp_in, mlp_out = self.tensors()
        b, t, c = x.shape
        normed = torch.layer_norm(x, (c,), norm1, norm1_bias)
        if first:
            # The last block: the context needs keys and values, but no output of its own.
            query = F.linear(normed[:, first:], qkv[:c]).view(b, t - first, self.heads, -1)
            packed = F.linear(normed, qkv[c:]).view(b, t, 2, self.heads, -1)
            packed = packed.permute(0, 2, 3, 1, 4)
            query, (key, value) = query.transpose(1, 2), packed.unbind(1)
            x = x[:, first:]
        else:
            packed = F.linear(normed, qkv).view(b, t, 3, self.heads, -1).permute(0, 2, 3, 1, 4)
            query, key, value = packed.unbind(1)
        if isinstance(cache, list):
            cache.append(packed[:, -2:])
        elif cache is not None:
            cache[:, :, :, :t] = packed[:, -2:]
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            self.dropout if self.training else 0.0,
            is_causal=causal and mask is None and query.shape[2] > 1,
        )
        x = x + self._drop(F.linear(attended.transpose(1, 2).reshape(x.shape), out))
        normed = torch.layer_norm(x, (c,), norm2, norm2_bias)
        return x + self._drop(F.linear(F.silu(F.linear(normed, mlp_in)), mlp_out))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class InstructionEncoder(nn.Module):
    """Word ids to one vector: embeddings with positions, one Block, the mean over the words.

    A learned start token is always there, so that the empty instruction has a vector too.
    """

    def __init__(
        self, length: int, buckets: int, width: int, out_width: int, word_scheme: int = ASCII_WORDS
    ) -> None:
        super().__init__()
        self.length = length
        self.embedding = WordEmbedding(buckets, width, word_scheme)
        self.positions = nn.Parameter(torch.randn(1 + length, width) * 0.5)
        self.block = Block(width, heads=max(1, width // 32), mlp_ratio=2.0, dropout=0.0, depth=1)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, out_width)
        nn.init.normal_(self.out.weight, std=width**-0.5)

    def forward(self, text_ids: Int64[Tensor, "b l"]) -> Float[Tensor, "b c"]:
        """One vector an instruction; each different row of the batch is computed once."""
        if text_ids.shape[1] != self.length:
            raise ValueError(
                f"text_ids have {text_ids.shape[1]} words and the model reads {self.length}: "
                f"make them with hash_words(instruction, length={self.length})."
            )
        if torch.compiler.is_compiling():
            return self._encode(text_ids)
        if len(text_ids) == 1:
            return self._encode_one(text_ids)
        rows, index = torch.unique(text_ids, dim=0, return_inverse=True)
        return self._encode(rows)[index]

    def _encode_one(self, text_ids: Tensor) -> Tensor:
        ids = text_ids[0].tolist()
        count = len(ids) - ids.count(0)
        if 0 in ids[:count]:
            return self._encode(text_ids)
        # All padding stands at the end: leave it out, and no mask is needed.
        x = self.positions[: count + 1] + F.pad(self.embedding(text_ids[:, :count]), (0, 0, 1, 0))
        return self.out(self.norm(self.block(x, None, causal=False).mean(1)))

    def _encode(self, text_ids: Tensor) -> Tensor:
        is_word = F.pad(text_ids != 0, (1, 0), value=True)
        # An id of 0 is masked everywhere, so the embedding's row 0 never matters.
        x = self.positions + F.pad(self.embedding(text_ids), (0, 0, 1, 0))
        mask = additive_mask(is_word[:, None, None, :], x.dtype)
        x = self.block(x, mask)
        weight = is_word.to(x.dtype)[..., None]
        # Normed after the mean: one word of eight then changes the vector by its share of the
        # variance, not by an eighth.
        return self.out(self.norm((x * weight).sum(1) / weight.sum(1)))


class ReturnToken(nn.Module):
    """A return in [0, 1] to one vector, by way of its waves: near returns then differ."""

    def __init__(self, width: int, frequencies: int = 4) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.out = nn.Linear(1 + 2 * frequencies, width)

    def forward(self, returns: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        returns = returns.to(self.out.weight.dtype)[:, None]
        octaves = 2.0 ** torch.arange(self.frequencies, device=returns.device)
        angles = returns * (torch.pi * octaves).to(returns.dtype)
        return self.out(torch.cat([returns, angles.cos(), angles.sin()], 1))


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `visible`, -inf elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, float("-inf")
    )


def causal_mask(x: Tensor, hidden: Tensor | None, first: int) -> Tensor | None:
    """Additive scores of the queries first ... t - 1 on t keys; None: causal, no mask needed.

    `hidden` [b, 1, 1, t or more] hides keys beside, 0 or -inf.
    """
    t = x.shape[1]
    if hidden is None and first in (0, t - 1):
        return None
    causal = torch.ones(t - first, t, dtype=torch.bool, device=x.device).tril_(diagonal=first)
    mask = additive_mask(causal, x.dtype)
    return mask if hidden is None else mask + hidden[..., :t]


class Film(nn.Module):
    """Feature-wise linear modulation: x * (1 + gain) + shift, both made from a condition."""

    def __init__(self, condition_width: int, channels: int, std: float) -> None:
        super().__init__()
        self.project = nn.Linear(condition_width, 2 * channels)
        nn.init.normal_(self.project.weight, std=std)
        nn.init.zeros_(self.project.bias)

    def forward(
        self, x: Float[Tensor, "b c h w"], condition: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c h w"]:
        gain, shift = self.project(condition)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, 1 + gain)
