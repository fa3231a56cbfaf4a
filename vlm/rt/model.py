"""The RT-style transformer: a causal decoder of action tokens after words, images and state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm.blocks import Block, causal_mask
from vlm.decision import Cache, decode_token, transposed
from vlm.model import ModelOutput
from vlm.rt.config import RTConfig
from vlm.rt.context import ContextReader
from vlm.rt.copied_words import Copyable


class RTModel(ContextReader):
    """The task (instruction and return), the frames, the action tokens: one causal sequence.

    Action token 0 is predicted at the last context token: the newest text or state, or a learned
    readout where there is neither.
    """

    def __init__(self, config: RTConfig, load_image_weights: bool = True) -> None:
        super().__init__(config, load_image_weights)
        c = config.width
        self.positions = nn.Parameter(torch.randn(config.slots, c) * 0.5)
        self.blocks: Any = nn.ModuleList(
            Block(c, config.heads, config.mlp_ratio, config.dropout, config.depth)
            for _ in range(config.depth)
        )
        self.checkpointed = False
        self.norm = nn.LayerNorm(c)
        self.head = nn.Linear(c, config.vocab_size, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass: memory for time."""
        self.checkpointed = on

    def forward(
        self,
        features: Float[Tensor, "b k m c"] | None,
        state: Float[Tensor, "b k s"] | None,
        frame_mask: Bool[Tensor, "b k"],
        text_ids: Int64[Tensor, "b l"],
        action_ids: Int64[Tensor, "b n"],
        returns: Float[Tensor, " b"] | None = None,
        words: Int64[Tensor, "b j w"] | None = None,
    ) -> ModelOutput:
        """Hidden states [b, n, c] and logits [b, n, v]; index i has seen action tokens < i only.

        `action_ids[:, n - 1]` is never an input. The newest frame is the last; frames whose
        `frame_mask` is False have no effect. `words` are those of `encode_frame` for the last j
        steps, newest last, all 0 before the episode began.
        """
        context, mask = self._context(features, state, frame_mask, text_ids, returns, words)
        readout = context.shape[1] - 1
        tokens = self.action_embedding(action_ids[:, :-1])
        x = torch.cat([context, tokens], 1) + self.positions[: context.shape[1] + tokens.shape[1]]
        causal = causal_mask(x, mask, first=0)
        *blocks, last_block = self.blocks
        for block in blocks:
            if self.checkpointed and self.training:
                x = checkpoint(block, x, causal, use_reentrant=False)
            else:
                x = block(x, causal)
        x = last_block(x, causal_mask(x, mask, first=readout), first=readout)
        previous = torch.cat([torch.full_like(action_ids[:, :1], -1), action_ids[:, :-1]], 1)
        return self._output(x, previous, self._copyable(text_ids, words))

    @torch.no_grad()
    def prefill(
        self,
        features: Float[Tensor, "b k m c"] | None,
        state: Float[Tensor, "b k s"] | None,
        frame_mask: Bool[Tensor, "b k"],
        text_ids: Int64[Tensor, "b l"],
        returns: Float[Tensor, " b"] | None = None,
        words: Int64[Tensor, "b j w"] | None = None,
    ) -> tuple[ModelOutput, Cache]:
        """Read the context: the output for action token 0 (n = 1), and the cache for `decode`."""
        x, mask = self._context(features, state, frame_mask, text_ids, returns, words)
        b, t, c = x.shape
        x = x + self.positions[:t]
        heads, slots = self.config.heads, len(self.positions)
        grown: list[Tensor] = []
        targets: Sequence[Any] = [grown] * self.config.depth
        if not torch.compiler.is_compiling():  # a graph has no slots to write into: it appends
            targets = x.new_empty(self.config.depth, b, 2, heads, slots, c // heads).unbind(0)
        causal, last = causal_mask(x, mask, first=0), causal_mask(x, mask, first=t - 1)
        *blocks, last_block = self.blocks
        for block, target in zip(blocks, targets[:-1], strict=True):
            x = block(x, causal, cache=target)
        x = last_block(x, last, first=t - 1, cache=targets[-1])
        tensors = tuple(transposed(block.tensors()) for block in self.blocks)
        ends = (self.action_embedding.weight, self.positions, *self.norm.parameters())
        ends = (*ends, self.head.weight.t())
        source, copied = self._copyable(text_ids, words), self.copied
        cache = Cache(tuple(grown or targets), tensors, ends, mask, t)
        if copied is not None and source is not None:
            cache.more_logits = lambda hidden, ids: copied(hidden, ids, source)
        first = torch.full((b, 1), -1, device=x.device)
        return self._output(x, first, source), cache

    @torch.no_grad()
    def decode(self, ids: Int64[Tensor, " b"], cache: Cache) -> ModelOutput:
        """Read one more action token; the output (n = 1) for the next. The cache grows in place."""
        if cache.length >= len(self.positions):
            raise ValueError(f"the decision is complete: it has {self.config.n_tokens} tokens.")
        return decode_token(ids, cache)

    def _copyable(self, text_ids: Tensor, words: Tensor | None) -> Copyable | None:
        return None if self.copied is None or words is None else self.copied.read(text_ids, words)

    def _output(self, x: Tensor, previous: Tensor, source: Copyable | None) -> ModelOutput:
        hidden = self.norm(x)
        logits = self.head(hidden)
        if self.copied is not None and source is not None:
            logits = logits + self.copied(hidden, previous, source)
        return ModelOutput(hidden, logits)
