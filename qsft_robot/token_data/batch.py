"""TokenBatch: the contexts and decisions that models and losses read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Contexts and the tokens of the decisions taken there, for models and losses."""

    state: Float[Tensor, "b k s"]
    frame_mask: Bool[Tensor, "b k"]  # False: the episode is younger than this history frame
    text_ids: Int[Tensor, "b l"]
    action_ids: Int[Tensor, "b n"]
    token_mask: Bool[Tensor, "b n"]
    legal: Bool[Tensor, "b n v"]
    features: Float[Tensor, "b k m c"] | None = None  # image tokens, computed once per frame
    images: dict[str, Tensor] | None = None  # camera -> uint8 [b, k, height, width, 3]
    returns: Float[Tensor, " b"] | None = None  # for the return-conditioned baseline
    # Of the last j steps, newest last: words of the command that led there and of what was said.
    words: Int[Tensor, "b j w"] | None = None

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        if self.images is not None:
            moved["images"] = {key: x.to(device) for key, x in self.images.items()}
        return replace(self, **moved)
