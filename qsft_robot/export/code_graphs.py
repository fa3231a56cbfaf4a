"""Legal sets and decoding of each kind of tokenizer as tensor operations, for exported graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qsft_robot.normalize import NormStats
from tokenizers_action.protocol import (
    ActionTokenizer,
    CoordinateTokenizer,
    PositionalTokenizer,
    SequenceTokenizer,
)

KINDS = (PositionalTokenizer, CoordinateTokenizer, SequenceTokenizer)


def code_graph(tokenizer: ActionTokenizer, norm_stats: NormStats) -> nn.Module:
    """The module whose `legal(prefix [b, i])`, `numbers(ids [b, n])` (of the chunk, in [-1, 1],
    [b, h x d]) and `decode(ids)` (in the environment's units, [b, h, d]) are those of a tokenizer,
    of one of KINDS."""
    if isinstance(tokenizer, SequenceTokenizer):
        return SequenceCode(tokenizer, norm_stats)
    if isinstance(tokenizer, CoordinateTokenizer):
        return CoordinateCode(tokenizer, norm_stats)
    assert isinstance(tokenizer, PositionalTokenizer)
    return PositionalCode(tokenizer, norm_stats)


class PositionalCode(nn.Module):
    """Token i is number i of the chunk: one table in the environment's units."""

    legal_table: Tensor
    number_table: Tensor
    action_table: Tensor

    def __init__(self, tokenizer: PositionalTokenizer, norm_stats: NormStats) -> None:
        super().__init__()
        legal, numbers = tokenizer.position_tables()
        self.chunk = (tokenizer.horizon, tokenizer.action_dim)
        self.register_buffer("number_table", torch.from_numpy(numbers.copy()))
        # [h, d, v] to [v, h, d] and back: the scale of the actions stands last.
        numbers = numbers.reshape(*self.chunk, -1).transpose(2, 0, 1)
        numbers = norm_stats.unnormalize_actions(numbers)
        numbers = numbers.transpose(1, 2, 0).reshape(tokenizer.n_tokens, -1)
        self.register_buffer("legal_table", torch.from_numpy(legal.copy()))
        self.register_buffer("action_table", torch.from_numpy(numbers.copy()))

    def legal(self, prefix: Tensor) -> Tensor:
        return self.legal_table[prefix.shape[1]].expand(prefix.shape[0], -1)

    def numbers(self, ids: Tensor) -> Tensor:
        return self.number_table.gather(1, ids.t()).t()

    def decode(self, ids: Tensor) -> Tensor:
        return self.action_table.gather(1, ids.t()).t().reshape(-1, *self.chunk)


class _LinearCode(nn.Module):
    """From the numbers of a code to actions: a linear map, clipped, then scaled."""

    matrix: Tensor
    offset: Tensor
    low: Tensor
    width: Tensor

    def __init__(
        self, tokenizer: CoordinateTokenizer | SequenceTokenizer, norm_stats: NormStats
    ) -> None:
        super().__init__()
        self.chunk = (tokenizer.horizon, tokenizer.action_dim)
        matrix, offset = tokenizer.linear_map()
        low, high = norm_stats.action_low, norm_stats.action_high
        for name, value in (
            ("matrix", matrix), ("offset", offset), ("low", low), ("width", (high - low) / 2),
        ):  # fmt: skip
            self.register_buffer(name, torch.from_numpy(value).float())

    def coefficients(self, ids: Tensor) -> Tensor:
        """The m numbers of the code, [b, m]."""
        raise NotImplementedError

    def numbers(self, ids: Tensor) -> Tensor:
        return (self.coefficients(ids) @ self.matrix + self.offset).clamp(-1, 1)

    def decode(self, ids: Tensor) -> Tensor:
        return self.low + (self.numbers(ids).reshape(-1, *self.chunk) + 1) * self.width


class CoordinateCode(_LinearCode):
    """Token i is number i of the code."""

    legal_table: Tensor
    table: Tensor

    def __init__(self, tokenizer: CoordinateTokenizer, norm_stats: NormStats) -> None:
        super().__init__(tokenizer, norm_stats)
        legal, numbers = tokenizer.coordinate_tables()
        self.register_buffer("legal_table", torch.from_numpy(legal.copy()))
        self.register_buffer("table", torch.from_numpy(numbers.copy()))

    def legal(self, prefix: Tensor) -> Tensor:
        return self.legal_table[prefix.shape[1]].expand(prefix.shape[0], -1)

    def coefficients(self, ids: Tensor) -> Tensor:
        return self.table.gather(1, ids.t()).t()


class SequenceCode(_LinearCode):
    """Each id is some numbers of the code in order, id 0 none and the end."""

    lengths: Tensor
    table: Tensor

    def __init__(self, tokenizer: SequenceTokenizer, norm_stats: NormStats) -> None:
        super().__init__(tokenizer, norm_stats)
        lengths, numbers = tokenizer.sequence_tables()
        self.longest, self.count = numbers.shape[1], len(self.offset)
        self.register_buffer("lengths", torch.from_numpy(lengths))
        self.register_buffer("table", torch.from_numpy(numbers.copy()).flatten())

    def legal(self, prefix: Tensor) -> Tensor:
        if prefix.shape[1] == 0:
            return (self.lengths <= self.count).expand(prefix.shape[0], -1)
        left = self.count - self.lengths[prefix].sum(1)
        left = left * ~(prefix == 0).any(1)
        return self.lengths <= left[:, None]

    def coefficients(self, ids: Tensor) -> Tensor:
        ends = self.lengths[ids].cumsum(1)  # [b, n]
        place = torch.arange(self.count, device=ids.device)
        token = (ends[:, :, None] <= place).sum(1)  # which token number m is of, [b, m]
        inside = token < ids.shape[1]
        token = token.clamp(max=ids.shape[1] - 1)
        its = ids.gather(1, token)
        within = place - (ends.gather(1, token) - self.lengths[its])
        index = its * self.longest + within.clamp(0, self.longest - 1)
        return self.table[index] * inside
