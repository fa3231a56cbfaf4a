"""The pre-norm transformer block, and the instruction encoder that is made of one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


class Block(nn.Module):
    """Self-attention and a perceptron, each behind a LayerNorm and added to its input."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, dropout: float, depth: int
    ) -> None:
        super().__init__()
        self.heads, self.head_width, self.dropout = heads, width // heads, dropout
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, round(mlp_ratio * width))
        self.mlp_out = nn.Linear(round(mlp_ratio * width), width)
        for layer in (self.query_key_value, self.attention_out, self.mlp_in, self.mlp_out):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        # The residual sum has 2 * depth terms; it starts with the variance of one.
        for layer in (self.attention_out, self.mlp_out):
            with torch.no_grad():
                layer.weight.mul_((2 * depth) ** -0.5)

    def forward(
        self,
        x: Float[Tensor, "b t c"],
        mask: Float[Tensor, " ..."] | None,
        first: int = 0,
        cache: Float[Tensor, "b 2 heads slots head_width"] | None = None,
    ) -> Float[Tensor, "b t_out c"]:
        """Outputs at the positions `first` ... t - 1 (what comes before is only attended to).

        `mask` is added to the attention scores (0 or -inf) and broadcast to
        [b, heads, t - first, t]; None with more than one query means causal. `cache` receives the
        keys and values of positions 0 ... t - 1.
        """
        b, t, c = x.shape
        normed = self.norm_attention(x)
        if first:
            # The last block: the context needs keys and values, but no output of its own.
            weight, bias = self.query_key_value.weight, self.query_key_value.bias
            query = F.linear(normed[:, first:], weight[:c], bias[:c])
            key_value = F.linear(normed, weight[c:], bias[c:]).view(b, t, 2, self.heads, -1)
            query = query.view(b, t - first, self.heads, -1).transpose(1, 2)
            key, value = key_value.permute(2, 0, 3, 1, 4).unbind(0)
            x = x[:, first:]
        else:
            packed = self.query_key_value(normed).view(b, t, 3, self.heads, -1)
            query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if cache is not None:
            cache[:, 0, :, :t] = key
            cache[:, 1, :, :t] = value
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            self.dropout if self.training else 0.0,
            is_causal=mask is None and query.shape[2] > 1,
        )
        return self._finish(x, attended)

    def tensors(self) -> tuple[Tensor, ...]:
        """The parameters in the order that `decode_step` takes them."""
        layers = (
            self.norm_attention,
            self.query_key_value,
            self.attention_out,
            self.norm_mlp,
            self.mlp_in,
            self.mlp_out,
        )
        return tuple(tensor for layer in layers for tensor in (layer.weight, layer.bias))

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        attended = attended.transpose(1, 2).reshape(x.shape)
        x = x + self._drop(self.attention_out(attended))
        return x + self._drop(self.mlp_out(F.silu(self.mlp_in(self.norm_mlp(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


def decode_step(
    x: Tensor, tensors: tuple[Tensor, ...], cache: Tensor, mask: Tensor | None, position: int
) -> Tensor:
    """A Block at one new position: x [b, c] to [b, c]; its key and value enter the cache in place.

    Written with functions on bare tensors: at batch 1 modules and their attributes cost as much as
    the arithmetic (a decision of 7 tokens is then 1.8 times slower).
    """
    (
        norm1,
        norm1_bias,
        qkv,
        qkv_bias,
        out,
        out_bias,
        norm2,
        norm2_bias,
        up,
        up_bias,
        down,
        down_bias,
    ) = tensors
    b, _, heads, _, head_width = cache.shape
    width = norm1.shape
    normed = torch.layer_norm(x, width, norm1, norm1_bias)
    packed = F.linear(normed, qkv, qkv_bias).view(b, 3, heads, 1, head_width)
    cache.narrow(3, position, 1).copy_(packed.narrow(1, 1, 2))
    key, value = cache.narrow(3, 0, position + 1).unbind(1)
    attended = F.scaled_dot_product_attention(packed.select(1, 0), key, value, mask)
    x = x + F.linear(attended.reshape(x.shape), out, out_bias)
    normed = torch.layer_norm(x, width, norm2, norm2_bias)
    return x + F.linear(F.silu(F.linear(normed, up, up_bias)), down, down_bias)


class InstructionEncoder(nn.Module):
    """Word ids to one vector: embeddings with positions, one Block, the mean over the words.

    A learned start token is always there, so that the empty instruction has a vector too.
    """

    def __init__(self, length: int, buckets: int, width: int, out_width: int) -> None:
        super().__init__()
        self.length = length
        self.embedding = nn.Embedding(buckets, width)
        self.positions = nn.Parameter(torch.randn(1 + length, width) * 0.5)
        self.block = Block(width, heads=max(1, width // 32), mlp_ratio=2.0, dropout=0.0, depth=1)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, out_width)

    def forward(self, text_ids: Int64[Tensor, "b l"]) -> Float[Tensor, "b c"]:
        """One vector an instruction; each different row of the batch is computed once."""
        if text_ids.shape[1] != self.length:
            raise ValueError(
                f"text_ids have {text_ids.shape[1]} words and the model reads {self.length}: "
                f"make them with hash_words(instruction, length={self.length})."
            )
        if len(text_ids) == 1 or torch.compiler.is_compiling():
            return self._encode(text_ids)
        rows, index = torch.unique(text_ids, dim=0, return_inverse=True)
        return self._encode(rows)[index]

    def _encode(self, text_ids: Tensor) -> Tensor:
        is_word = F.pad(text_ids != 0, (1, 0), value=True)
        # An id of 0 is masked everywhere, so the embedding's row 0 never matters.
        x = self.positions + F.pad(self.embedding(text_ids), (0, 0, 1, 0))
        mask = additive_mask(is_word[:, None, None, :], x.dtype)
        x = self.norm(self.block(x, mask))
        weight = is_word.to(x.dtype)[..., None]
        return self.out((x * weight).sum(1) / weight.sum(1))


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
