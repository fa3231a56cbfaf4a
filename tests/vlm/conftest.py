"""Shared by the model's tests: one small model with images, state and a history of two frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from vlm.rt.model import RTModel
from vlm.rt.sizes import rt_tiny
from vlm.words import hash_words

CAMERAS = ("front_image", "wrist_image")


@dataclass
class Batch:
    images: dict[str, torch.Tensor]  # camera -> uint8 [b, h, w, 3], of the newest frame
    features: torch.Tensor  # [b, k, m, c]
    state: torch.Tensor  # [b, k, s]
    frame_mask: torch.Tensor  # [b, k]
    text_ids: torch.Tensor  # [b, l]
    action_ids: torch.Tensor  # [b, n]

    @property
    def context(self) -> tuple[torch.Tensor, ...]:
        return self.features, self.state, self.frame_mask, self.text_ids


def words(*instructions: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([hash_words(text) for text in instructions]))


@pytest.fixture
def model() -> RTModel:
    torch.manual_seed(0)
    return rt_tiny(32, 4, 7, cameras=CAMERAS, image_size=(32, 48), history=2, width=64).eval()


@pytest.fixture
def batch(model: RTModel) -> Batch:
    generator = torch.Generator().manual_seed(1)
    b = 3
    images = {
        camera: torch.randint(0, 256, (b, 32, 48, 3), dtype=torch.uint8, generator=generator)
        for camera in CAMERAS
    }
    text_ids = words("put the red cube in the blue bowl", "open the drawer", "")
    with torch.no_grad():
        newest = model.encode_images(images, text_ids)
    return Batch(
        images=images,
        features=torch.stack([torch.randn(newest.shape, generator=generator), newest], 1),
        state=torch.randn(b, 2, 7, generator=generator),
        frame_mask=torch.ones(b, 2, dtype=torch.bool),
        text_ids=text_ids,
        action_ids=torch.randint(0, 32, (b, 4), generator=generator),
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Family -> folder of a small pretrained model with random weights."""
    from vlm.tiny.models import build_tiny_model

    root = tmp_path_factory.mktemp("models")
    return cache(lambda family: build_tiny_model(family, root / family))
