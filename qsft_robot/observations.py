"""Checks of observations, and the normalized state vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qsft_robot.normalize import NormStats
from qsft_robot.types import Observation

if TYPE_CHECKING:
    from jaxtyping import Float

# Instructions whose words a policy keeps; a server may be asked for ever new ones.
MAX_TEXTS = 1000
# Beyond any unit's sense, and far from what overflows once it is normalized.
MAX_STATE = 1e9


def check_observation(
    observation: Observation,
    cameras: Mapping[str, Sequence[int]],
    state_keys: Sequence[str],
    text_keys: Sequence[str] = (),
) -> None:
    """Raise ValueError, naming the key, unless every camera (key -> height, width), state key and
    text key is there, the images are uint8 of the right size and the state is finite numbers."""
    for name, given in (("images", observation.images), ("state", observation.state)):
        if not isinstance(given, Mapping):
            raise ValueError(
                f"{name} of the observation: {_kind(given)}, where a dictionary of arrays is taken."
            )
    for camera, size in cameras.items():
        if camera not in observation.images:
            raise ValueError(
                f"the policy needs the camera {camera!r}, which the observation lacks; it has "
                f"{sorted(observation.images)}."
            )
        check_image(camera, observation.images[camera], size)
    for key in state_keys:
        if key not in observation.state:
            raise ValueError(
                f"the policy needs the observation key {key!r}; the observation has "
                f"{sorted(observation.state)}."
            )
        check_state(key, observation.state[key])
    for key in text_keys:
        if key not in observation.texts:
            raise ValueError(
                f"the policy needs the text {key!r}; the observation has the texts "
                f"{sorted(observation.texts)}."
            )
        if not isinstance(observation.texts[key], str):
            raise ValueError(f"the text {key!r} is {_kind(observation.texts[key])}, no string.")
    if not isinstance(observation.instruction, str):
        raise ValueError(f"the instruction is {_kind(observation.instruction)}, no string.")


def check_image(camera: str, image: Any, size: Sequence[int]) -> None:
    """ValueError unless an image is uint8 [height, width, 3] of this (height, width)."""
    _check_whole(f"camera {camera!r}", image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else _kind(image)
        raise ValueError(f"camera {camera!r} gives {kind}; the policy takes uint8 images.")
    if image.shape != (*size, 3):
        raise ValueError(
            f"camera {camera!r} gives {image.shape}, but the policy was trained on "
            f"({size[0]}, {size[1]}, 3); resize the image or train on this size."
        )


def check_state(key: str, row: Any) -> None:
    """ValueError unless a reading is numbers [s], each finite and at most MAX_STATE: the network
    would answer NaN with an action all the same."""
    _check_whole(repr(key), row)
    row = np.asarray(row)
    if row.dtype.kind not in "biuf" or row.ndim > 1:
        raise ValueError(f"{key!r} is {_kind(row)}; the policy takes a row of numbers.")
    if not (np.abs(row, dtype=np.float64) <= MAX_STATE).all():  # which NaN is not either
        raise ValueError(
            f"{key!r} holds a number that is NaN, infinite or beyond {MAX_STATE:g}: "
            f"{np.array2string(row, precision=4, threshold=12)}. Send the last sound reading, or "
            "let the robot hold."
        )


def _check_whole(what: str, value: Any) -> None:
    """ValueError where a masked array marks numbers as missing: numpy would hand out what lies
    beneath the mask."""
    if np.ma.is_masked(value):
        raise ValueError(f"{what} has masked entries, which are no readings; send sound ones.")


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return f"a {type(value).__name__}"


def state_vector(
    observations: Mapping[str, np.ndarray], keys: Sequence[str], norm_stats: NormStats, rows: int
) -> Float[np.ndarray, "rows s"]:
    """The normalized low-dimensional keys side by side, float32; no columns for no keys."""
    if not keys:
        return np.zeros((rows, 0), np.float32)
    parts = [norm_stats.normalize(key, observations[key]).reshape(rows, -1) for key in keys]
    return np.concatenate(parts, -1, dtype=np.float32)
