"""Words of a command that are copied: from the instruction, and from what was said before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


class Copyable(NamedTuple):
    """Words that a decision may copy; ids are action tokens, the vocabulary's size for none."""

    asked: Float[Tensor, "b v"]  # 1 where the instruction has the word
    # Neighbors in the remembered commands, and in the newest step's command and texts.
    command_first: Int64[Tensor, "b p"]
    command_second: Int64[Tensor, "b p"]
    newest_first: Int64[Tensor, "b q"]
    newest_second: Int64[Tensor, "b q"]


class CopiedWords(nn.Module):
    """Adds to the logits of words that the instruction has, and of words that followed the last one
    before: "take", and then what the goal names; "drawer", and then a number that was not tried.

    Each is one learned number of the hidden state for all words alike, 0 at the start, so that what
    one word teaches holds for every other. (Without it, 600 logs of ALFWorld and 900 updates of
    128 left a policy that took whatever lay there.)
    """

    def __init__(self, action_words: Sequence[int], command_length: int, width: int) -> None:
        """`action_words`: each action token's word as an id of `hash_words`, 0 for none."""
        super().__init__()
        self.size, self.command_length = len(action_words), command_length
        ids, tokens = torch.tensor(action_words).sort(stable=True)
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("tokens", tokens, persistent=False)
        self.gates = nn.Linear(width, 3)
        nn.init.zeros_(self.gates.weight)
        nn.init.zeros_(self.gates.bias)

    def read(self, instruction: Int64[Tensor, "b l"], words: Int64[Tensor, "b j w"]) -> Copyable:
        """The tokens that may be copied, from word ids as the model reads them."""
        asked = torch.zeros(len(instruction), self.size + 1, device=instruction.device)
        asked.scatter_(1, self._token_of(instruction), 1.0)
        commands = self._token_of(words[..., : self.command_length])
        newest = self._token_of(words[:, -1])
        return Copyable(
            asked[:, : self.size],
            commands[..., :-1].flatten(1),
            commands[..., 1:].flatten(1),
            newest[:, :-1],
            newest[:, 1:],
        )

    def _token_of(self, ids: Tensor) -> Tensor:
        """The action token of each word, the vocabulary's size for none; of two tokens whose words
        share an id, the later."""
        known: Any = self.ids
        at = (torch.searchsorted(known, ids.contiguous(), right=True) - 1).clamp(min=0)
        found = (known[at] == ids) & (ids != 0)
        return torch.where(found, self.tokens[at], self.size)  # type: ignore[index]

    def forward(
        self,
        hidden: Float[Tensor, "b n c"],
        previous: Int64[Tensor, "b n"],
        source: Copyable,
    ) -> Float[Tensor, "b n v"]:
        """The addition to the logits; `previous` is the action token before each, -1 for none."""
        gates = self.gates(hidden).unsqueeze(-1)
        commands = self._following(previous, source.command_first, source.command_second)
        newest = self._following(previous, source.newest_first, source.newest_second)
        asked = source.asked[:, None].to(gates.dtype)
        return gates[:, :, 0] * asked + gates[:, :, 1] * commands + gates[:, :, 2] * newest

    def _following(self, previous: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """log(1 + how often a word stood after the previous one), [b, n, v]."""
        b, n = previous.shape
        found = (first[:, None] == previous[:, :, None]).to(self.gates.weight.dtype)
        table = found.new_zeros(b, n, self.size + 1)
        table.scatter_add_(2, second[:, None].expand(b, n, -1), found)
        return table[..., : self.size].log1p()
