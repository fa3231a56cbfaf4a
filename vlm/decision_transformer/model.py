"""A Decision Transformer: past actions, returns to go and states in one causal sequence.

Chen et al., arXiv 2106.01345; with a language model as its trunk LaMo, arXiv 2310.20587.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vlm.decision_transformer.config import CONTINUOUS, DecisionConfig
from vlm.decision_transformer.embeddings import projection
from vlm.decision_transformer.trunk import (
    LanguageTrunk,
    ScratchTrunk,
    build_trunk,
    depth_of,
    load_trunk,
    width_of,
)
from vlm.model import ModelOutput, check_frames
from vlm.rt.config import RTConfig
from vlm.rt.perceptron import PrefixDecisions, PrefixSum, ResidualPerceptron


class DecisionTransformer(PrefixDecisions):
    """K frames, each the actions before it, the return to go, its image tokens and its state.

    The last numbers of a frame's `state` are those actions and that return (`past_dim`). A decision
    is read off the last token of its frame: its tokens, or one number for each action dimension.
    The actions before the oldest frame are hidden, so that the window holds whole steps.
    """

    places: Tensor

    def __init__(self, config: RTConfig, load_image_weights: bool = True) -> None:
        own = DecisionConfig(**(config.decision or {}))
        trunk: LanguageTrunk | ScratchTrunk | None = None
        if own.language_model is not None and not load_image_weights:
            trunk = build_trunk(own)
        elif own.base is not None:
            trunk, own = load_trunk(own)
        if own.language_model is not None:
            config = replace(config, width=width_of(own), depth=depth_of(own), heads=1)
        config = replace(config, decision=asdict(own))
        super().__init__(config, load_image_weights)
        self.own, c, n = own, self.config.width, config.n_tokens
        inner = round(config.mlp_ratio * c)
        seen = config.state_dim - own.past_dim
        self.state_token = projection(own.embeddings, seen, c, inner) if seen else None
        self.return_to_go = projection(own.embeddings, 1, c, inner)
        self.past_actions = projection(own.embeddings, own.past_dim - 1, c, inner)
        # What an RT-style model reads returns and empty windows with.
        del self.return_token, self.no_return, self.readout
        if not own.reads_instruction:
            del self.instruction
        if trunk is None:
            sizes = (config.heads, config.depth, config.mlp_ratio, config.dropout)
            trunk = ScratchTrunk(self._tokens, c, *sizes)
        self.trunk = trunk
        # Inputs as large as the trunk is used to.
        self.embedding_norm = nn.LayerNorm(c)
        nn.init.constant_(self.embedding_norm.weight, trunk.scale)
        if own.head == CONTINUOUS:
            del self.action_embedding
            self.numbers = projection(own.embeddings, c, n, inner)
            places = torch.tensor(own.places, dtype=torch.float32)
            self.register_buffer("places", places, persistent=False)
            return
        self.gains = nn.Parameter(torch.randn(n, c))
        self.positions = nn.Parameter(torch.randn(n, c) * 0.5)
        self.forgotten = nn.Dropout(config.dropout)
        self.token_block = ResidualPerceptron(c, inner, config.dropout)
        self.norm = nn.LayerNorm(c)
        self.head = nn.Linear(c, config.vocab_size, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    @property
    def _tokens(self) -> int:
        """Tokens of the longest window."""
        config = self.config
        per_frame = 2 + config.frame_image_tokens + (self.state_token is not None)
        return self.own.reads_instruction + config.history * per_frame

    def gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute the trunk's activations in the backward pass: memory for time."""
        self.trunk.gradient_checkpointing(on)

    def image_parameters(self) -> Iterator[nn.Parameter]:
        return (p for p in super().image_parameters() if p.requires_grad)

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        return (p for p in super().decoder_parameters() if p.requires_grad)

    def read(
        self,
        features: Float[Tensor, "b k m c"] | None,
        state: Float[Tensor, "b k s"] | None,
        frame_mask: Bool[Tensor, "b k"],
        text_ids: Int64[Tensor, "b l"],
    ) -> Float[Tensor, "b k c"]:
        """Hidden states at the end of every frame, which has seen those before it."""
        check_frames(self.config, features, state, frame_mask.shape)
        assert state is not None
        b, k = frame_mask.shape
        dtype = self.embedding_norm.weight.dtype
        # Set to zero, not only hidden: 0 * NaN is NaN.
        state = state.to(dtype).masked_fill(~frame_mask[..., None], 0.0)
        seen, past = state.split([state.shape[2] - self.own.past_dim, self.own.past_dim], 2)
        parts = [self.past_actions(past[..., :-1])[:, :, None]]
        parts.append(self.return_to_go(past[..., -1:])[:, :, None])
        if features is not None:
            parts.append(features.to(dtype).masked_fill(~frame_mask[:, :, None, None], 0.0))
        if self.state_token is not None:
            parts.append(self.state_token(seen)[:, :, None])
        frames = torch.cat(parts, 2)
        per_frame = frames.shape[2]
        followed = F.pad(frame_mask[:, :-1], (1, 0), value=False) & frame_mask
        rest = frame_mask[:, :, None].expand(b, k, per_frame - 1)
        visible = torch.cat([followed[:, :, None], rest], 2).flatten(1)
        x = frames.flatten(1, 2)
        if self.own.reads_instruction:
            instruction: Any = self.instruction
            task = instruction(self.text(text_ids)).to(dtype)
            x = torch.cat([task[:, None], x], 1)
            visible = F.pad(visible, (1, 0), value=True)
        hidden = self.trunk(self.embedding_norm(x), visible)
        return hidden[:, self.own.reads_instruction :].unflatten(1, (k, per_frame))[:, :, -1]

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
        `frame_mask` is False have no effect. Returns stand in the state: `returns` has no part.
        """
        return self.decisions(self.read(features, state, frame_mask, text_ids)[:, -1], action_ids)

    def decisions(
        self, hidden: Float[Tensor, "b c"], action_ids: Int64[Tensor, "b n"]
    ) -> ModelOutput:
        """Whole decisions at the ends of frames."""
        if self.own.head == CONTINUOUS:
            return self._rounded(hidden)
        return super().decisions(hidden, action_ids)

    def means(self, hidden: Float[Tensor, "*b c"]) -> Float[Tensor, "*b n"]:
        """The continuous head: actions in [-1, 1], step by step."""
        return torch.tanh(self.numbers(hidden))

    @torch.no_grad()
    def prefill(
        self,
        features: Float[Tensor, "b k m c"] | None,
        state: Float[Tensor, "b k s"] | None,
        frame_mask: Bool[Tensor, "b k"],
        text_ids: Int64[Tensor, "b l"],
        returns: Float[Tensor, " b"] | None = None,
        words: Int64[Tensor, "b j w"] | None = None,
    ) -> tuple[ModelOutput, PrefixSum | RoundedNumbers]:
        """Read the context: the output for action token 0 (n = 1), and what `decode` extends."""
        hidden = self.read(features, state, frame_mask, text_ids)[:, -1]
        if self.own.head == CONTINUOUS:
            numbers = RoundedNumbers(self._rounded(hidden))
            return numbers.output(), numbers
        cache = PrefixSum(self, hidden, 0)
        return cache.output(), cache

    def _rounded(self, hidden: Tensor) -> ModelOutput:
        """Numbers as a normal distribution over the bins, its deviation half a bin: the likeliest
        bin is the nearest one."""
        first, width = self.places.t()
        bins = torch.arange(self.config.vocab_size, device=hidden.device)
        centers = first[:, None] + width[:, None] * bins
        apart = (self.means(hidden)[..., None] - centers) / width.clamp(min=1e-6)[:, None]
        # A place of one bin has no width; nothing is to be chosen there.
        logits = -2.0 * apart.square() * (width > 0)[:, None]
        return ModelOutput(hidden[:, None].expand(-1, logits.shape[1], -1), logits)


@dataclass
class RoundedNumbers:
    """A decision whose numbers are all there; `decode` goes to the next."""

    whole: ModelOutput
    read: int = 0

    def decode(self, ids: Int64[Tensor, " b"]) -> ModelOutput:
        """The output (n = 1) for the next token, whatever was taken before."""
        if self.read + 1 >= self.whole.logits.shape[1]:
            raise ValueError(
                f"the decision is complete: it has {self.whole.logits.shape[1]} tokens."
            )
        self.read += 1
        return self.output()

    def output(self) -> ModelOutput:
        """The output (n = 1) for the present token."""
        here = slice(self.read, self.read + 1)
        return ModelOutput(self.whole.hidden[:, here], self.whole.logits[:, here])
