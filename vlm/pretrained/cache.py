"""Decoding with transformers' cache: one model, or two LoRA twins in one batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from vlm.model import Context
from vlm.pretrained.adapters import pair_lora
from vlm.pretrained.context_tokens import EmbeddedContext
from vlm.pretrained.families import Family


class PretrainedCache:
    """Keys and values of one decision, extended by each `decode`.

    `embed(ids [b]) -> [b', 1, c]` and `output(hidden [b', 1, c])` are the models' own ends; b' is
    a multiple of b where several models read together.
    """

    def __init__(
        self,
        language_model: Any,
        family: Family,
        n_tokens: int,
        embed: Callable[[Tensor], Tensor],
        output: Callable[[Tensor], Any],
    ) -> None:
        from transformers import DynamicCache

        self.language_model, self.family, self.n_tokens = language_model, family, n_tokens
        self.embed, self.output = embed, output
        self.keys_values = DynamicCache(config=language_model.config)
        self.remaining = n_tokens - 1

    def read(self, context: EmbeddedContext) -> Any:
        """The output (n = 1) for action token 0."""
        self.visible, self.position = context.visible, context.next_position
        x = context.embeddings
        mask = prompt_mask(self.family, context.visible, x.shape[1], x.dtype)
        return self._read(x, mask, context.positions, **context.deep_arguments())

    def decode(self, ids: Int64[Tensor, " b"]) -> Any:
        """Read action tokens; the output (n = 1) for the next."""
        if self.remaining == 0:
            raise ValueError(f"the decision is complete: it has {self.n_tokens} tokens.")
        self.remaining -= 1
        self.visible = F.pad(self.visible, (0, 1), value=True)
        position = self.position[:, None]
        self.position = self.position + 1
        if self.family.grid_positions:
            position = position.expand(3, -1, -1)
        dtype = self.language_model.get_input_embeddings().weight.dtype
        return self._read(self.embed(ids).to(dtype), self.visible.long(), position)

    def _read(self, x: Tensor, mask: Tensor, positions: Tensor, **deep: Any) -> Any:
        hidden = self.language_model(
            inputs_embeds=x,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.keys_values,
            use_cache=True,
            **deep,
        ).last_hidden_state
        return self.output(hidden[:, -1:])


class PretrainedPair:
    """Two LoRA twins that read the same tokens in one batch: the base's weights are read once."""

    def __init__(self, models: Sequence[Any]) -> None:
        first, second = models
        self.models = list(models)
        lm = first.language_model
        shared = {id(x): x for x in [*lm.parameters(), *lm.buffers()]}
        self.language_model = copy.deepcopy(lm, shared).eval()
        pair_lora(self.language_model, second.language_model)

    @torch.no_grad()
    def prefill(self, contexts: Sequence[Context]) -> tuple[list[Any], PretrainedCache]:
        """Outputs of both models for action token 0, and the cache that decodes for both."""
        read = [m.context_tokens(m, *c[:5]) for m, c in zip(self.models, contexts, strict=True)]
        cache = PretrainedCache(
            self.language_model,
            self.models[0].family,
            self.models[0].config.n_tokens,
            lambda ids: torch.cat([m.embed_actions(ids[:, None]) for m in self.models]),
            lambda hidden: [
                m.output(h) for m, h in zip(self.models, hidden.chunk(len(read)), strict=True)
            ],
        )
        return cache.read(EmbeddedContext.joined(read)), cache


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
