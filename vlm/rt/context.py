"""What models of our own read a context with: words, returns, images, states and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vlm.blocks import InstructionEncoder, ReturnToken, additive_mask
from vlm.decision import decide_together
from vlm.model import ActionModel, Context, ModelOutput, check_frames
from vlm.rt.config import RTConfig
from vlm.rt.copied_words import CopiedWords
from vlm.rt.frame_text import FrameText, frame_words
from vlm.rt.images import ImageTokens
from vlm.towers.tower import EmbeddedInstruction, TextTower
from vlm.words import hash_words


class ContextReader(ActionModel):
    """Encoders of everything before the action tokens, one vector a token; a trunk is added.

    The task (instruction and return) is a token; a frame is its image tokens and then its state
    token; where there are texts, one token for each of the last steps follows. (One token each for
    instruction, return, state and readout cost 1.4 times as much on state observations.)

    `load_image_weights=False` builds the image encoder without reading `image_weights`: for a
    caller that loads a checkpoint next.
    """

    reads_frames = True
    config: RTConfig

    def __init__(self, config: RTConfig, load_image_weights: bool = True) -> None:
        super().__init__()
        c = config.width
        self.text_tower: TextTower | None = None
        if config.text_encoder != "words":
            self.text_tower = TextTower(
                config.text_encoder,
                config.text_weights,
                load_image_weights,
                config.text_tower,
                config.fine_tune_towers,
            )
            config = replace(config, text_tower=self.text_tower.description)
        text_width = None if self.text_tower is None else self.text_tower.width
        self.images: ImageTokens | None = None
        if config.cameras:
            self.images = ImageTokens(
                cameras=config.cameras,
                image_size=config.image_size,
                shrink=config.image_shrink,
                word_scheme=config.word_scheme,
                encoder=config.image_encoder,
                weights=config.image_weights,
                load_weights=load_image_weights,
                channels=config.image_channels,
                tokens=config.image_tokens,
                width=c,
                text_length=config.text_length,
                text_buckets=config.text_buckets,
                tower=config.image_tower,
                fine_tune=config.fine_tune_towers,
                text_width=text_width,
            )
            if self.images.tower is not None:
                config = replace(config, image_tower=self.images.tower.description)
        self.config = config
        self.instruction: nn.Module
        if text_width is None:
            self.instruction = InstructionEncoder(
                config.text_length, config.text_buckets, 64, c, config.word_scheme
            )
        else:
            self.instruction = EmbeddedInstruction(text_width, c)
        self.no_return = nn.Parameter(torch.randn(c) * 0.5)
        self.return_token = ReturnToken(c)
        self.state_token: nn.Module | None = None
        if config.state_dim:
            self.state_token = nn.Sequential(
                nn.Linear(config.state_dim, c), nn.SiLU(), nn.Linear(c, c)
            )
        self.frame_text: FrameText | None = None
        if config.text_history:
            self.frame_text = FrameText(
                config.command_length,
                config.frame_text_length,
                config.text_buckets,
                c,
                config.word_scheme,
            )
        self.copied: CopiedWords | None = None
        if config.action_words:
            self.copied = CopiedWords(config.action_words, config.command_length, c)
        self.readout = nn.Parameter(torch.randn(c) * 0.5) if config.has_readout else None
        self.action_embedding = nn.Embedding(config.vocab_size, c)
        nn.init.normal_(self.action_embedding.weight, std=0.5)

    def image_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters behind the features: image encoder, FiLM, token learner, and their own
        words (with cameras also the text tower, which FiLM reads)."""
        return iter(()) if self.images is None else self._parameters_of(images=True)

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters: those that a value stage on frozen features trains."""
        return self._parameters_of(images=False)

    @property
    def frozen_tower(self) -> Any:
        """The image tower, if it never changes: its features may be computed once per frame."""
        tower = None if self.images is None else self.images.tower
        return tower if tower is not None and tower.frozen else None

    def _parameters_of(self, images: bool) -> Iterator[nn.Parameter]:
        parts = ("images.", "text_tower.") if self.images is not None else ("images.",)
        return (p for name, p in self.named_parameters() if name.startswith(parts) == images)

    def encode_words(self, instruction: str) -> Int64[np.ndarray, " l"]:
        """An instruction as the model reads it: hashed words, or the text tower's tokens."""
        if self.text_tower is not None:
            return self.text_tower.encode_words(instruction)
        c = self.config
        return hash_words(instruction, c.text_length, c.text_buckets, c.word_scheme)

    def encode_frame(self, command: str, texts: Sequence[str]) -> Int64[np.ndarray, " w"]:
        """The command that led to a step, and what was said there, as the model reads them."""
        c = self.config
        lengths = c.command_length, c.frame_text_length
        return frame_words(command, texts, *lengths, c.text_buckets, c.word_scheme)

    def text(self, text_ids: Int64[Tensor, "b l"]) -> Tensor:
        """The input of the instruction encoders: word ids, or the text tower's embedding."""
        return text_ids if self.text_tower is None else self.text_tower(text_ids)

    def encode_images(
        self, images: Mapping[str, Tensor], text_ids: Int64[Tensor, "b l"]
    ) -> Float[Tensor, "b m c"]:
        """Image tokens of one frame: camera -> uint8 [b, h, w, 3], or floats in [0, 1]."""
        if self.images is None:
            raise ValueError("the model has no cameras: pass features=None and no images.")
        return self.images(images, self.text(text_ids))

    def decide(
        self,
        features: Float[Tensor, "b k m c"] | None,
        state: Float[Tensor, "b k s"] | None,
        frame_mask: Bool[Tensor, "b k"],
        text_ids: Int64[Tensor, "b l"],
        legal: Callable[[Tensor], Tensor],
        choose: Callable[[Tensor, int], Tensor],
        returns: Float[Tensor, " b"] | None = None,
    ) -> Int64[Tensor, "b n"]:
        """The n action tokens of one decision.

        `legal(prefix ids [b, i]) -> bool [b, v]` says which tokens may come next;
        `choose(logits [b, v], i) -> ids [b]` picks token i, illegal logits being -inf.
        """

        def choose_masked(outputs: Sequence[ModelOutput], allowed: Tensor, i: int) -> Tensor:
            return choose(outputs[0].logits[:, 0].masked_fill(~allowed, float("-inf")), i)

        context = Context(features, state, frame_mask, text_ids, returns)
        return decide_together([self], [context], legal, choose_masked)

    def _context(
        self,
        features: Tensor | None,
        state: Tensor | None,
        frame_mask: Tensor,
        text_ids: Tensor,
        returns: Tensor | None,
        words: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Context tokens [b, t, c] without positions, and what hides unseen frames from attention
        (additive, [b, 1, 1, slots of the whole decision]) or None where nothing is hidden."""
        dtype = self.no_return.dtype
        frames = self._frames(features, state, frame_mask.shape, dtype)
        b, k, per_frame, c = frames.shape
        # The causal kernel needs no mask. On a GPU looking would stall the queue, and an exported
        # graph can't look: mask always.
        exporting = torch.compiler.is_compiling()
        whole = not exporting and frame_mask.device.type == "cpu" and bool(frame_mask.all())
        mask = None
        if not whole:
            # Set to zero, not only hidden: 0 * NaN is NaN.
            frames = frames.masked_fill(~frame_mask[:, :, None, None], 0.0)
            visible = frame_mask.new_ones(b, self.config.slots)
            visible[:, 1 : 1 + k * per_frame] = frame_mask.repeat_interleave(per_frame, 1)
            mask = additive_mask(visible[:, None, None, :], dtype)
        task = self.instruction(self.text(text_ids))
        task = task + (self.no_return if returns is None else self.return_token(returns))
        context = [task[:, None], frames.flatten(1, 2)]
        if self.frame_text is not None:
            if words is None or words.shape[:2] != (b, self.config.text_history):
                given = None if words is None else list(words.shape)
                wanted = [b, self.config.text_history, "w"]
                raise ValueError(f"words of shape {given}; the model expects {wanted}.")
            context.append(self.frame_text(words, text_ids))
        if self.readout is not None:
            context.append(self.readout.expand(b, 1, c))
        return torch.cat(context, 1), mask

    def _frames(
        self, features: Tensor | None, state: Tensor | None, shape: torch.Size, dtype: torch.dtype
    ) -> Tensor:
        """Tokens of all frames, [b, k, tokens of one frame, c], after their shapes were checked."""
        check_frames(self.config, features, state, shape)
        b, k = shape
        parts = [] if features is None else [features.to(dtype)]
        if self.state_token is not None:
            assert state is not None
            parts.append(self.state_token(state.to(dtype))[:, :, None])
        if not parts:  # a model of texts alone
            return self.no_return.new_zeros(b, k, 0, self.config.width)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
