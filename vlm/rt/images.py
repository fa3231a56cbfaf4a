"""Images to a few tokens: a convolutional encoder, FiLM by instruction, and a token learner."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from vlm.blocks import Film, InstructionEncoder
from vlm.towers.tower import EmbeddedInstruction, ImageTower, TowerEncoder, is_tower
from vlm.words import ASCII_WORDS

# x, y, and their sines and cosines at two frequencies: a token that is a mean over positions then
# says WHERE it looks to more than one digit.
COORDINATES = 10


def random_shift(
    images: UInt8[Tensor, "b h w 3"], pad: int, generator: torch.Generator | None = None
) -> UInt8[Tensor, "b h w 3"]:
    """Each image moved by its own whole number of pixels in [-pad, pad] along both axes.

    The border is replicated (DrQ, Kostrikov et al. 2020). Training only; a pure function of the
    images and the generator's state (a CPU generator).
    """
    b, h, w, _ = images.shape
    shift = torch.randint(-pad, pad + 1, (2, b), generator=generator).to(images.device)
    rows = (torch.arange(h, device=images.device) + shift[0, :, None]).clamp_(0, h - 1)
    columns = (torch.arange(w, device=images.device) + shift[1, :, None]).clamp_(0, w - 1)
    batch = torch.arange(b, device=images.device)
    return images[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


class _FilmBlock(nn.Module):
    def __init__(self, channels: int, condition_width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(8, channels)
        self.film = Film(condition_width, channels, std=condition_width**-0.5 / 2)
        self.conv_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = F.relu(self.film(self.norm(self.conv_in(x)), condition))
        return x + self.conv_out(hidden)


class SmallEncoder(nn.Module):
    """Four-fold smaller maps from two strided convolutions and two FiLM blocks.

    Coordinate channels (x, y in [-1, 1]) enter with the pixels (CoordConv, Liu et al. 2018).
    """

    stride = 4

    def __init__(self, condition_width: int, channels: int, blocks: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.conv_pixels = nn.Conv2d(3, channels // 2, 5, stride=2, padding=2)
        self.conv_coordinates = nn.Conv2d(2, channels // 2, 1, bias=False)
        self.conv_down = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(_FilmBlock(channels, condition_width) for _ in range(blocks))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(
        self, images: Float[Tensor, "b 3 h w"], condition: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c h4 w4"]:
        """Feature maps of images in [0, 1]."""
        x = self.conv_pixels(images.sub(0.5).mul(4))
        # Convolving the coordinates apart and adding them is the same as concatenating them,
        # without a five-channel copy of the batch.
        x = F.relu(x + self.conv_coordinates(coordinate_maps(x.shape[2], x.shape[3], x)[:, :2]))
        x = F.relu(self.conv_down(x))
        for block in self.blocks:
            x = block(x, condition)
        return x


class TokenLearner(nn.Module):
    """A map to m tokens: each is a mean of the map under a softmax over positions.

    The queries come from the condition, so words choose where to look; coordinates are averaged
    with the features, so a token says where it looked (TokenLearner, Ryoo et al. 2021).

    The scores of a query are standardized over the positions and start three deviations sharp:
    with plain scores the softmax starts flat, a small object moves a token by one part in a
    hundred, and finding it from words took no step forward in 400 updates of 64 images (32 bins,
    cross-entropy 3.33 of 3.47); standardized it was found to the bin (.05).
    """

    def __init__(self, channels: int, condition_width: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens, self.key_width = tokens, 32
        self.keys = nn.Linear(channels, self.key_width, bias=False)
        self.queries = nn.Linear(condition_width, tokens * self.key_width)
        self.query_bias = nn.Parameter(torch.randn(tokens, self.key_width))
        self.sharpness = nn.Parameter(torch.full((tokens, 1), 3.0))
        self.norm_features = nn.LayerNorm(channels)
        self.values = nn.Linear(channels + COORDINATES, width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "b c h w"], condition: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b m width"]:
        b, _, h, w = x.shape
        flat = x.permute(0, 2, 3, 1).reshape(b, h * w, -1)
        queries = self.queries(condition).view(b, self.tokens, self.key_width) + self.query_bias
        scores = F.layer_norm(queries @ self.keys(flat).transpose(1, 2), (h * w,))
        attention = (scores * self.sharpness).softmax(-1)
        where = attention @ coordinate_maps(h, w, x)[0].flatten(1).t()
        # Averaging before projecting: m rows go through `values`, not h * w.
        what = self.norm_features(attention @ flat)
        return self.norm(self.values(torch.cat([what, 2 * where], -1)))


def coordinate_maps(h: int, w: int, like: Tensor) -> Float[Tensor, "1 10 h w"]:
    """x, y in [-1, 1], sines and cosines of pi and 2 pi times them; dtype and device as `like`."""
    y = torch.linspace(-1, 1, h, device=like.device)[:, None].expand(h, w)
    x = torch.linspace(-1, 1, w, device=like.device)[None, :].expand(h, w)
    place = torch.stack([x, y])
    angles = torch.cat([math.pi * place, 2 * math.pi * place])
    return torch.cat([place, angles.sin(), angles.cos()]).to(like.dtype)[None]


class ImageTokens(nn.Module):
    """All images of one frame to tokens: what a model with cameras adds to the decoder.

    The cameras share every weight; each has its own embedding in the condition, so that FiLM and
    the queries can tell them apart. The instruction encoder is the image side's own.
    """

    def __init__(
        self,
        cameras: tuple[str, ...],
        image_size: tuple[int, int],
        encoder: str,
        weights: str | None,
        load_weights: bool,
        channels: int,
        tokens: int,
        width: int,
        text_length: int,
        text_buckets: int,
        condition_width: int = 64,
        tower: Mapping[str, Any] | None = None,
        fine_tune: bool = False,
        text_width: int | None = None,
        shrink: int = 1,
        word_scheme: int = ASCII_WORDS,
    ) -> None:
        """`tower` describes a tower that a checkpoint brings; `text_width` is that of the
        embeddings of a text tower, where one reads the instructions."""
        super().__init__()
        self.cameras, self.image_size, self.shrink = cameras, image_size, shrink
        self.instruction: nn.Module
        if text_width is None:
            self.instruction = InstructionEncoder(
                text_length, text_buckets, 64, condition_width, word_scheme
            )
        else:
            self.instruction = EmbeddedInstruction(text_width, condition_width)
        self.camera_embedding = nn.Parameter(torch.randn(len(cameras), condition_width) * 0.5)
        self.encoder: nn.Module
        if encoder == "small":
            if weights is not None:
                raise ValueError(
                    "image_weights is set but the image encoder is 'small', which has no "
                    "pretrained weights: leave image_weights out or name a 'timm:<name>' or "
                    "'open_clip:<name>' encoder."
                )
            self.encoder = SmallEncoder(condition_width, channels)
        elif is_tower(encoder):
            source = ImageTower(encoder, weights, load_weights, image_size, tower, fine_tune)
            self.encoder = TowerEncoder(source, condition_width, channels)
        else:
            raise ValueError(
                f"unknown image encoder {encoder!r}: it is 'small', 'timm:<name>' with a name of "
                "timm.list_models(), or 'open_clip:<name>' with one of open_clip.list_models()."
            )
        self.token_learner = TokenLearner(self.encoder.channels, condition_width, tokens, width)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        images: Mapping[str, Tensor],
        text: Int64[Tensor, "b l"] | Float[Tensor, "b e"],
    ) -> Float[Tensor, "b m c"]:
        """Tokens of all cameras, in the order of `cameras`. uint8 images, or floats in [0, 1], or
        what `patches` made of them. `text` is word ids, or a text tower's embedding."""
        b = text.shape[0]
        batch = torch.cat([self._image(images, camera, b) for camera in self.cameras])
        condition = self.instruction(text)[None] + self.camera_embedding[:, None]
        condition = condition.flatten(0, 1)  # camera-major, as the images
        encode: Any = self.encoder if batch.ndim == 4 else self.encoder.from_patches
        tokens = self.token_learner(encode(batch, condition), condition)
        return tokens.view(len(self.cameras), b, -1, tokens.shape[-1]).transpose(0, 1).flatten(1, 2)

    @property
    def tower(self) -> Any:
        """The pretrained tower (vlm.towers.tower.ImageTower), or None for our own encoder."""
        return getattr(self.encoder, "tower", None)

    @torch.no_grad()
    def patches(self, image: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b p t"]:
        """A frozen tower's own features of one camera's images: they don't change in training, so
        that they may be computed once and given in place of the images."""
        encoder: Any = self.encoder
        return encoder.patches(image.permute(0, 3, 1, 2).to(self.camera_embedding.dtype).div_(255))

    def _image(self, images: Mapping[str, Tensor], camera: str, b: int) -> Tensor:
        if camera not in images:
            raise ValueError(
                f"camera {camera!r} is missing: the model reads {list(self.cameras)} and was given "
                f"{sorted(images)}."
            )
        image = images[camera]
        if image.ndim == 3 and self.tower is not None:
            wanted = (b, math.prod(self.tower.grid), self.tower.channels)
            if image.shape != wanted:
                raise ValueError(
                    f"camera {camera!r}: features of shape {list(image.shape)}; the tower gives "
                    f"{list(wanted)}."
                )
            return image.to(self.camera_embedding.dtype)
        if image.shape != (b, *self.image_size, 3):
            raise ValueError(
                f"camera {camera!r}: images of shape {list(image.shape)}, but the model expects "
                f"{[b, *self.image_size, 3]}; resize them, or train with this image_size."
            )
        dtype = self.camera_embedding.dtype
        # [b, h, w, 3] permuted is already in channels_last order: no copy beside the conversion.
        image = image.permute(0, 3, 1, 2)
        image = image.to(dtype).div_(255) if image.dtype == torch.uint8 else image.to(dtype)
        return image if self.shrink == 1 else F.avg_pool2d(image, self.shrink)
