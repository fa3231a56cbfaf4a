"""The context of a decision as embeddings: prompt, frames and text, what is hidden moved away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlm.model import check_frames
from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.prompt import STATE_LIMIT, STATE_STEPS, Prompt


@dataclass(frozen=True)
class EmbeddedContext:
    """Embeddings with everything hidden on the left, so that the last token is always the last."""

    embeddings: Tensor  # [b, t, c]
    visible: Tensor  # bool [b, t]
    positions: Tensor  # [b, t], or [3, b, t] where image tokens have rows and columns
    next_position: Tensor  # [b], of the first action token
    image_slots: Tensor | None = None  # bool [b, t]; with `deep`
    deep: tuple[Tensor, ...] = ()  # each [visible image tokens of the batch, c]

    def deep_arguments(self, more: int = 0) -> dict[str, Any]:
        """The language model's arguments for deep-stack features, `more` tokens to follow."""
        if self.image_slots is None:
            return {}
        slots = nn.functional.pad(self.image_slots, (0, more))
        return {"visual_pos_masks": slots, "deepstack_visual_embeds": list(self.deep)}

    @classmethod
    def joined(cls, contexts: Sequence[EmbeddedContext]) -> EmbeddedContext:
        """Contexts of equal length as one batch, one after the other."""
        slots = [c.image_slots for c in contexts if c.image_slots is not None]
        return cls(
            torch.cat([c.embeddings for c in contexts]),
            torch.cat([c.visible for c in contexts]),
            torch.cat([c.positions for c in contexts], -2),
            torch.cat([c.next_position for c in contexts]),
            torch.cat(slots) if slots else None,
            tuple(torch.cat(level) for level in zip(*(c.deep for c in contexts), strict=True)),
        )


class ContextTokens(nn.Module):
    """Lays out prefix, frames (images, state), return and text; it has no weights of its own."""

    prefix_ids: Tensor
    image_before: Tensor
    image_after: Tensor
    state_before: Tensor
    state_after: Tensor
    state_table: Tensor
    frame_advance: Tensor
    frame_offset: Tensor
    frame_slots: Tensor

    def __init__(self, config: PretrainedConfig, prompt: Prompt) -> None:
        super().__init__()
        self.config, self.text_state = config, prompt.state_table.size > 0
        cameras = len(config.cameras)
        self.image_tokens = prompt.image_tokens * cameras
        for name in ("prefix_ids", "image_before", "image_after", "state_before", "state_after"):
            self._constant(name, torch.tensor(getattr(prompt, name), dtype=torch.long))
        self._constant("state_table", torch.from_numpy(prompt.state_table))
        # By how much each token of a frame moves the position on, and where it stands beside it.
        image_advance = torch.ones(prompt.image_tokens, dtype=torch.long)
        image_offset = torch.zeros(3, prompt.image_tokens, dtype=torch.long)
        if prompt.image_grid is not None:
            rows, columns = prompt.image_grid
            image_advance = torch.zeros_like(image_advance)
            image_advance[-1] = max(rows, columns)
            image_offset[1] = torch.arange(rows).repeat_interleave(columns)
            image_offset[2] = torch.arange(columns).repeat(rows)
        before, after = len(prompt.image_before), len(prompt.image_after)
        image = [torch.ones(before).long(), image_advance, torch.ones(after).long()]
        offset = nn.functional.pad(image_offset, (before, after))
        slots = nn.functional.pad(torch.ones(prompt.image_tokens).bool(), (before, after))
        state = 0
        if self.text_state:
            state = len(prompt.state_before) + len(prompt.state_after)
            state += config.state_dim * prompt.state_table.shape[1]
        elif config.state_dim:
            state = 1
        advance = torch.cat([*image * cameras, torch.ones(state).long()])
        self._constant("frame_advance", advance)
        self._constant("frame_offset", nn.functional.pad(offset.repeat(1, cameras), (0, state)))
        self._constant("frame_slots", nn.functional.pad(slots.repeat(cameras), (0, state)))
        self.grid = prompt.image_grid is not None
        self.first_position = prompt.family.first_position
        self.length = len(prompt.prefix_ids) + config.history * len(advance) + 1
        self.length += config.text_length

    def forward(
        self,
        model: Any,
        features: Tensor | None,
        state: Tensor | None,
        frame_mask: Tensor,
        text_ids: Tensor,
        returns: Tensor | None = None,
    ) -> EmbeddedContext:
        """The context of a batch, after its shapes were checked; `model` has the embeddings."""
        self._check(features, state, frame_mask, text_ids)
        b, k = frame_mask.shape
        embed = model.base.get_input_embeddings()
        dtype = embed.weight.dtype
        frames, seen = self._frames(model, embed, features, state, frame_mask)
        parts = [embed(self.prefix_ids).expand(b, -1, -1), frames.flatten(1, 2)]
        visible = [text_ids.new_ones(b, len(self.prefix_ids), dtype=torch.bool), seen.flatten(1)]
        if returns is not None:
            parts.append(model.return_token(returns)[:, None].to(dtype))
            visible.append(visible[0].new_ones(b, 1))
        is_text = text_ids >= 0
        parts.append(embed(text_ids.clamp(min=0)))
        visible.append(is_text)
        x, shown = torch.cat(parts, 1), torch.cat(visible, 1)
        prefix = len(self.prefix_ids)
        rest = x.shape[1] - prefix - k * frames.shape[2]
        advance = torch.cat(
            [
                self.frame_advance.new_ones(prefix),
                self.frame_advance.repeat(k),
                self.frame_advance.new_ones(rest),
            ]
        )
        moved = advance * shown
        positions = moved.cumsum(1) - moved + self.first_position
        following = moved.sum(1) + self.first_position
        if self.grid:
            offset = nn.functional.pad(self.frame_offset.repeat(1, k), (prefix, rest))
            positions = positions + offset[:, None]
        slots = nn.functional.pad(self.frame_slots.repeat(k), (prefix, rest)) & shown
        return compact(x, shown, positions, following, slots, self._deep(features, frame_mask))

    def _frames(
        self,
        model: Any,
        embed: Any,
        features: Tensor | None,
        state: Tensor | None,
        frame_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Tokens of all frames [b, k, f, c] and which of them are seen [b, k, f]."""
        (b, k), dtype = frame_mask.shape, embed.weight.dtype
        parts: list[Tensor] = []
        seen = frame_mask[:, :, None]
        visible: list[Tensor] = []

        def constant(ids: Tensor) -> None:
            parts.append(embed(ids).expand(b, k, -1, -1))
            visible.append(seen.expand(b, k, len(ids)))

        if features is not None:
            first = features[:, :, : self.image_tokens].to(dtype)
            # Set to zero, not only hidden: 0 * NaN is NaN.
            first = first.masked_fill(~frame_mask[:, :, None, None], 0.0)
            for image in first.chunk(len(self.config.cameras), 2):
                constant(self.image_before)
                parts.append(image)
                visible.append(seen.expand(b, k, image.shape[2]))
                constant(self.image_after)
        if state is not None and self.config.state_dim:
            state = state.masked_fill(~seen, 0.0)
            if self.text_state:
                place = (state.float() / STATE_LIMIT).clamp(-1, 1).add(1).mul(STATE_STEPS / 2)
                ids = self.state_table[place.long().clamp(max=STATE_STEPS - 1)].flatten(2)
                constant(self.state_before)
                parts.append(embed(ids.clamp(min=0)))
                visible.append(seen & (ids >= 0))
                constant(self.state_after)
            else:
                token = model.state_token(state.to(next(model.state_token.parameters()).dtype))
                parts.append(token[:, :, None].to(dtype))
                visible.append(seen)
        if not parts:  # a model of texts alone
            return embed.weight.new_zeros(b, k, 0, embed.weight.shape[1]), seen[:, :, :0]
        return torch.cat(parts, 2), torch.cat(visible, 2)

    def _deep(self, features: Tensor | None, frame_mask: Tensor) -> tuple[Tensor, ...]:
        """Deep-stack features of the seen frames, one [tokens, c] a level."""
        if features is None or features.shape[2] == self.image_tokens:
            return ()
        levels = features[:, :, self.image_tokens :].split(self.image_tokens, 2)
        return tuple(level[frame_mask].flatten(0, 1) for level in levels)

    def _check(
        self, features: Tensor | None, state: Tensor | None, frame_mask: Tensor, text_ids: Tensor
    ) -> None:
        config = self.config
        check_frames(config, features, state, frame_mask.shape)
        if text_ids.shape[1] != config.text_length:
            raise ValueError(
                f"text_ids have {text_ids.shape[1]} tokens and the model reads "
                f"{config.text_length}: make them with the model's encode_words."
            )

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)


def state_perceptron(state_dim: int, width: int, scale: float, inner: int = 256) -> nn.Module:
    """A state with unit deviations to one embedding of mean about 0 and deviation about `scale`."""
    first, last = nn.Linear(state_dim, inner), nn.Linear(inner, width)
    nn.init.normal_(first.weight, std=state_dim**-0.5)
    # The mean square of SiLU of a standard normal is 0.356.
    nn.init.normal_(last.weight, std=scale * (0.356 * inner) ** -0.5)
    nn.init.zeros_(first.bias)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.SiLU(), last)


def compact(
    x: Tensor,
    visible: Tensor,
    positions: Tensor,
    following: Tensor,
    slots: Tensor,
    deep: tuple[Tensor, ...],
) -> EmbeddedContext:
    """Move what is hidden to the left, and cut off what is hidden in every row.

    The language model then sees a common left-padded batch, wherever the padding stood.
    """
    longest = x.shape[1]
    if not torch.compiler.is_compiling():
        longest = int(visible.sum(1).max())
    # All keys differ, so that the order is the same by any sort (ONNX has no stable one).
    keys = visible * x.shape[1] + torch.arange(x.shape[1], device=x.device)
    order = keys.argsort(dim=1)[:, x.shape[1] - longest :]
    image_slots = slots.gather(1, order) if deep else None
    return EmbeddedContext(
        x.gather(1, order[..., None].expand(-1, -1, x.shape[2])),
        visible.gather(1, order),
        positions.gather(-1, order.expand(*positions.shape[:-1], -1)),
        following,
        image_slots,
        deep,
    )
