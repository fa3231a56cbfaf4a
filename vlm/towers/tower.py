"""Pretrained image and text towers for the RT-style model: frozen, or fine-tuned by choice."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlm.blocks import Film
from vlm.towers.input import TowerInput
from vlm.towers.open_clip import (
    build_open_clip_images,
    build_open_clip_text,
    build_tokenizer,
    open_clip_maps,
    prune_open_clip,
)
from vlm.towers.timm import build_timm, prune_timm, timm_maps
from vlm.towers.weights import weights_digest

TIMM, OPEN_CLIP = "timm:", "open_clip:"
# Instructions whose embeddings a frozen text tower keeps at a time.
_KEPT_TEXTS = 4096
# Images that a frozen tower reads in one pass: more only take more memory.
_AT_A_TIME = 64


def is_tower(encoder: str) -> bool:
    """Whether an encoder's name is that of a tower of timm or open_clip."""
    return encoder.startswith((TIMM, OPEN_CLIP))


def is_pretrained(encoder: str, weights: str | None) -> bool:
    """Whether a tower starts from weights: from a file or the hub, or those its name brings."""
    return weights is not None or ":local-dir:" in encoder or ":hf-hub:" in encoder


class Tower(nn.Module):
    """The base of image and text towers: frozen means frozen, whatever the model's mode.

    A frozen tower computes without gradients, is always in eval mode, and a copy of it is itself:
    behavior and value then hold it once.
    """

    frozen: bool
    description: dict[str, Any]
    backbone: Any

    def hold(self, backbone: nn.Module, description: dict[str, Any], frozen: bool) -> None:
        """Take the backbone, and freeze it if asked to."""
        self.backbone, self.frozen = backbone, frozen
        # As it will be read from a file: lists where the library has tuples.
        self.description = json.loads(json.dumps(description))
        if frozen:
            self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Tower:
        super().train(mode and not self.frozen)
        if self.description["weights"] is not None:
            # Training and inference then compute the same features.
            for part in self.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tower:
        if self.frozen:
            return self
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


class ImageTower(Tower):
    """A library's image encoder behind its own preprocessing: images in [0, 1] to a feature map."""

    def __init__(
        self,
        encoder: str,
        weights: str | None,
        load: bool,
        image_size: tuple[int, int],
        description: Mapping[str, Any] | None = None,
        fine_tune: bool = False,
    ) -> None:
        """`encoder` is "timm:<name>" or "open_clip:<name>". With `description`, that of a
        checkpoint, neither hub nor files are asked; its weights are loaded if `load` says so."""
        super().__init__()
        library, _, name = encoder.partition(":")
        build: Any
        if library == "timm":
            build, self._maps, prune = build_timm, timm_maps, prune_timm
            backbone, known = build(name, weights, load, image_size, description)
        else:
            build, self._maps, prune = build_open_clip_images, open_clip_maps, prune_open_clip
            backbone, known = build(name, weights, load, description)
        backbone = prune(backbone, known).eval()
        pretrained = is_pretrained(encoder, weights)
        self.input = TowerInput.of(image_size, known)
        if "grid" not in known:
            known["channels"], *known["grid"] = self._probe(backbone, known)
            known["weights"] = weights_digest(backbone) if pretrained and load else None
        self.hold(backbone, known, frozen=pretrained and not fine_tune)
        self.channels: int = known["channels"]
        self.grid = (int(known["grid"][0]), int(known["grid"][1]))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Feature maps of images in [0, 1]."""
        if not self.frozen:
            return self._map(images)
        with torch.no_grad():
            if torch.compiler.is_compiling() or len(images) <= _AT_A_TIME:
                return self._map(images)
            return torch.cat([self._map(part) for part in images.split(_AT_A_TIME)])

    def _map(self, images: Tensor) -> Tensor:
        return self._maps(self.backbone, self.description, self.input(images))

    @torch.no_grad()
    def _probe(self, backbone: nn.Module, known: dict[str, Any]) -> list[int]:
        """[t, h, w] of the map, by making one: how a convolution rounds, only it knows."""
        gray = torch.zeros(1, 3, *known["size"])
        return [int(n) for n in self._maps(backbone, known, gray).shape[1:]]


class TowerEncoder(nn.Module):
    """A tower, and what is trained on it: a projection to `channels`, and one FiLM that starts as
    identity, both on the tower's map whether it was computed here or read from a cache."""

    def __init__(self, tower: ImageTower, condition_width: int, channels: int) -> None:
        super().__init__()
        self.tower, self.channels = tower, channels
        self.project = nn.Conv2d(tower.channels, channels, 1)
        self.norm = nn.GroupNorm(8, channels)
        self.film = Film(condition_width, channels, std=0.0)

    def forward(
        self, images: Float[Tensor, "b 3 h w"], condition: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c h2 w2"]:
        """Feature maps of images in [0, 1]."""
        return self.modulate(self.tower(images), condition)

    def patches(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p t"]:
        """The tower's own features, one row a position of its map: what a cache keeps."""
        return self.tower(images).flatten(2).transpose(1, 2)

    def from_patches(
        self, patches: Float[Tensor, "b p t"], condition: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c h2 w2"]:
        """`forward` of images whose `patches` are known."""
        return self.modulate(patches.transpose(1, 2).unflatten(2, self.tower.grid), condition)

    def modulate(
        self, maps: Float[Tensor, "b t h2 w2"], condition: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c h2 w2"]:
        """The trained part."""
        return F.relu(self.film(self.norm(self.project(maps)), condition))


class TextTower(Tower):
    """The text half of an open_clip model: token ids to one embedding an instruction.

    Each different row of a batch is computed once; frozen, each different instruction is.
    """

    def __init__(
        self,
        encoder: str,
        weights: str | None,
        load: bool,
        description: Mapping[str, Any] | None = None,
        fine_tune: bool = False,
    ) -> None:
        super().__init__()
        name = open_clip_name(encoder)
        backbone, known = build_open_clip_text(name, weights, load, description)
        pretrained = is_pretrained(encoder, weights)
        if "weights" not in known:
            known["weights"] = weights_digest(backbone) if pretrained and load else None
        self.hold(backbone.eval(), known, frozen=pretrained and not fine_tune)
        self.width: int = known["embed_dim"]
        self.length: int = known["text_cfg"].get("context_length", 77)
        self._known: dict[tuple[int, ...], Tensor] = {}
        self._words: Callable[[str], np.ndarray] | None = None
        # A policy that is opened fetches nothing; whoever trains has named the tower.
        self._fetch = description is None

    def encode_words(self, instruction: str) -> Int64[np.ndarray, " l"]:
        """Token ids of an instruction, as the model's own tokenizer makes them."""
        if self._words is None:
            self._words = build_tokenizer(self.description, self._fetch)
        return self._words(instruction)

    def forward(self, text_ids: Int64[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        """One embedding an instruction, scaled to a mean square of 1."""
        if text_ids.shape[1] != self.length:
            raise ValueError(
                f"text_ids have {text_ids.shape[1]} tokens and the text tower reads {self.length}: "
                "make them with encode_words."
            )
        if torch.compiler.is_compiling():
            return self._encode(text_ids)
        rows, index = torch.unique(text_ids, dim=0, return_inverse=True)
        return (self._look_up(rows) if self.frozen else self._encode(rows))[index]

    def _look_up(self, rows: Tensor) -> Tensor:
        keys = [tuple(row) for row in rows.tolist()]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if len(self._known) + len(new) > _KEPT_TEXTS:
            self._known.clear()
            new = list(range(len(keys)))
        if new:
            # Not inference tensors: what acting has embedded, training may read.
            with torch.inference_mode(False), torch.no_grad():
                for i, embedding in zip(new, self._encode(rows[new]), strict=True):
                    self._known[keys[i]] = embedding
        return torch.stack([self._known[key].to(rows.device) for key in keys])

    def _encode(self, text_ids: Tensor) -> Tensor:
        return F.normalize(self.backbone(text_ids).float(), dim=-1) * self.width**0.5

    def _load_from_state_dict(self, *arguments: Any, **words: Any) -> None:
        self._known.clear()
        super()._load_from_state_dict(*arguments, **words)


class EmbeddedInstruction(nn.Module):
    """A text tower's embedding to the width of what reads it: the trained part."""

    def __init__(self, text_width: int, out_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_width)
        self.out = nn.Linear(text_width, out_width)
        nn.init.normal_(self.out.weight, std=text_width**-0.5)

    def forward(self, embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b c"]:
        return self.out(self.norm(embedding))


def open_clip_name(encoder: str) -> str:
    """The name behind "open_clip:"; ValueError for an encoder that has no text half."""
    if not encoder.startswith(OPEN_CLIP):
        raise ValueError(
            f"unknown text encoder {encoder!r}: it is 'words' (hashed, learnt from scratch) or "
            "'open_clip:<name>' with a name of open_clip.list_models()."
        )
    return encoder.removeprefix(OPEN_CLIP)
