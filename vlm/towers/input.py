"""Preprocessing of a tower: the resizing and normalization it was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class TowerInput(nn.Module):
    """Images in [0, 1] to the size, mean and deviation that a tower was trained with.

    The whole image is resized, squashed if it has another aspect: the border of a camera image,
    which a center crop throws away, is where an arm meets its objects. On images of the tower's own
    aspect this is what open_clip's transforms do, up to the rounding of pixels to 8 bits.

    Resizing is separable: two small matrices, made by resizing the unit matrix with the library's
    own filter. Any exporter understands a product of matrices; antialiased resizing, few do.
    """

    mean: Tensor
    std: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        image_size: tuple[int, int],
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: str,
    ) -> None:
        super().__init__()
        self.resizes = image_size != size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], False)
        sides = zip(image_size, size, strict=True)
        rows, columns = (resize_matrix(given, wanted, interpolation) for given, wanted in sides)
        self.register_buffer("rows", rows, False)
        self.register_buffer("columns", columns.t().contiguous(), False)

    @classmethod
    def of(cls, image_size: tuple[int, int], description: Mapping[str, Any]) -> TowerInput:
        """The input stage that a tower's description tells."""
        size = (int(description["size"][0]), int(description["size"][1]))
        names = ("mean", "std", "interpolation")
        return cls(image_size, size, *(description[name] for name in names))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """The input of the tower: images resized and normalized, in the dtype they came in."""
        if self.resizes:
            rows, columns = self.rows.to(images.dtype), self.columns.to(images.dtype)
            # A cubic filter overshoots at edges; 8-bit images, which the towers saw, can't.
            images = (rows @ images @ columns).clamp(0, 1)
        return (images - self.mean.to(images.dtype)) / self.std.to(images.dtype)


def resize_matrix(given: int, wanted: int, interpolation: str) -> Float[Tensor, "wanted given"]:
    """The matrix that resizes a line of `given` pixels to `wanted` as the named filter does."""
    mode = interpolation if interpolation in ("bilinear", "bicubic") else "bicubic"
    lines = torch.eye(given)[None, None]  # line j is 1 at pixel j
    return F.interpolate(lines, (given, wanted), mode=mode, antialias=True)[0, 0].t().contiguous()
