"""Decoding with transformers' cache: one model, or a LoRA pair in one batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from vlm.context_tokens import Context
from vlm.decision import RTOutput
from vlm.families import Family


class PretrainedCache:
    """Keys and values of one decision of one model, extended by each `decode`."""

    def __init__(self, model: Any, context: Context) -> None:
        from transformers import DynamicCache

        self.model, self.language_model = model, model.language_model
        self.context: Context | None = context
        self.keys_values = DynamicCache(config=self.language_model.config)
        self.remaining = model.config.n_tokens - 1
        self.visible = context.visible
        self.position = context.next_position

    def read_context(self) -> Tensor:
        """Hidden state of the last context token, [b, 1, c]."""
        context = self.context
        assert context is not None
        self.context = None
        length, dtype = context.visible.shape[1], context.embeddings.dtype
        mask = prompt_mask(self.model.family, context.visible, length, dtype)
        return self._read(context.embeddings, mask, context.positions, **context.deep_arguments())[
            :, -1:
        ]

    def decode(self, ids: Int64[Tensor, " b"]) -> RTOutput:
        """Read action tokens [b]; the output (n = 1) for the next."""
        if self.remaining == 0:
            n = self.model.config.n_tokens
            raise ValueError(f"the decision is complete: it has {n} tokens.")
        self.remaining -= 1
        return self.model.output(self.step(self.model.embed_actions(ids[:, None])))

    def step(self, embeddings: Tensor) -> Tensor:
        """Hidden states [b, 1, c] after one more token per row, [b, 1, c]."""
        self.visible = F.pad(self.visible, (0, 1), value=True)
        position = self.position[:, None]
        self.position = self.position + 1
        if self.model.family.grid_positions:
            position = position.expand(3, -1, -1)
        dtype = self.language_model.get_input_embeddings().weight.dtype
        return self._read(embeddings.to(dtype), self.visible, position)

    def _read(self, x: Tensor, mask: Tensor, positions: Tensor, **deep: Any) -> Tensor:
        return self.language_model(
            inputs_embeds=x,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.keys_values,
            use_cache=True,
            **deep,
        ).last_hidden_state


def prompt_mask(family: Family, visible: Tensor, prompt: int, dtype: torch.dtype) -> Tensor:
    """The attention mask of a left-padded batch whose first `prompt` tokens are the context:
    [b, t] where attention is causal, [b, 1, t, t] (added to scores) where the prompt sees itself.
    """
    if not family.bidirectional_prompt:
        return visible.long()
    t = visible.shape[1]
    at = torch.arange(t, device=visible.device)
    allowed = (at[None, :] <= at[:, None]) | (at[None, :] < prompt)
    allowed = allowed & visible[:, None, None, :]
    low = torch.finfo(dtype).min
    return torch.zeros(allowed.shape, dtype=dtype, device=visible.device).masked_fill(~allowed, low)
