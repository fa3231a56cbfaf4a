"""A head by which image tokens learn what is in their cell; thrown away after the pretraining."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from qsft_robot.captions.questions import SEEN
from qsft_robot.captions.scenes import CAMERAS, CaptionScene

_RARE = 5.0  # weight of a cell that holds a thing against one that does not


class CellHead(nn.Module):
    """For each image token and name: whether the thing's center is in the token's cell, and where.

    Vision towers of VLMs come from a pretraining of their own; this stands for it. Without it a
    model of this size did not look at the image within the first hundreds of updates.
    """

    def __init__(self, width: int, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.output = nn.Linear(width, 3 * len(self.names))

    def forward(self, tokens: Float[Tensor, "i m c"], targets: Float[Tensor, "i m n 3"]) -> Tensor:
        """Cross-entropy of presence plus the distance (smooth L1) of places that are present."""
        told = self.output(tokens.float()).unflatten(-1, (len(self.names), 3))
        present = targets[..., 0]
        weight = torch.tensor(_RARE)
        presence = F.binary_cross_entropy_with_logits(told[..., 0], present, pos_weight=weight)
        off = F.smooth_l1_loss(told[..., 1:], targets[..., 1:], reduction="none").sum(-1)
        return presence + (off * present).sum() / present.sum().clamp(min=1)


def cell_targets(
    scenes: Sequence[CaptionScene], names: Sequence[str], side: int
) -> Float[Tensor, "i m n 3"]:
    """Presence (0 or 1) and place in the cell (0 to 1 from its left, then from its top) of each
    name in each of side * side cells, row by row; images in the order scene, camera."""
    targets = np.zeros((len(scenes), len(CAMERAS), side, side, len(names), 3), np.float32)
    for i, scene in enumerate(scenes):
        for j, camera in enumerate(CAMERAS):
            for name, sighting in scene.truth.sightings[camera].items():
                if sighting.share >= SEEN and name in names:
                    column, row = side * sighting.column, side * sighting.row
                    cell = targets[i, j, int(row), int(column), names.index(name)]
                    cell[:] = 1.0, column % 1, row % 1
    return torch.from_numpy(targets.reshape(-1, side * side, len(names), 3))
