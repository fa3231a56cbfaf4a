"""What a policy does with an observation before any network: checks, and the state vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qsft_robot.normalize import NormStats
from qsft_robot.types import Observation

if TYPE_CHECKING:
    from jaxtyping import Float

# Instructions whose words a policy keeps; a server may be asked for ever new ones.
MAX_TEXTS = 1000


def check_observation(
    observation: Observation,
    cameras: Mapping[str, Sequence[int]],
    state_keys: Sequence[str],
    text_keys: Sequence[str] = (),
) -> None:
    """Raise ValueError, naming the key, unless every camera (key -> height, width), state key and
    text key is there and the images are uint8 of the right size."""
    for camera, size in cameras.items():
        if camera not in observation.images:
            raise ValueError(
                f"the policy needs the camera {camera!r}, which the observation lacks; it has "
                f"{sorted(observation.images)}."
            )
        image = observation.images[camera]
        if list(image.shape) != [*size, 3]:
            raise ValueError(
                f"camera {camera!r} gives {image.shape}, but the policy was trained on "
                f"({size[0]}, {size[1]}, 3); resize the image or train on this size."
            )
        if image.dtype != np.uint8:
            raise ValueError(
                f"camera {camera!r} gives {image.dtype}; the policy takes uint8 images."
            )
    for key in state_keys:
        if key not in observation.state:
            raise ValueError(
                f"the policy needs the observation key {key!r}; the observation has "
                f"{sorted(observation.state)}."
            )
    for key in text_keys:
        if key not in observation.texts:
            raise ValueError(
                f"the policy needs the text {key!r}; the observation has the texts "
                f"{sorted(observation.texts)}."
            )


def state_vector(
    observations: Mapping[str, np.ndarray], keys: Sequence[str], norm_stats: NormStats, rows: int
) -> Float[np.ndarray, "rows s"]:
    """The normalized low-dimensional keys side by side, float32; no columns for no keys."""
    if not keys:
        return np.zeros((rows, 0), np.float32)
    parts = [norm_stats.normalize(key, observations[key]).reshape(rows, -1) for key in keys]
    return np.concatenate(parts, -1, dtype=np.float32)
