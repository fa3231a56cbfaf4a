"""Digests of camera frames: what the checks keep of an image once it was read."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Rows and columns of a frame that are compared with the frame before.
_LOOKED_AT = 64
# Rows and columns of the picture that tells cameras from one another.
_COARSE = 8


@dataclass(frozen=True)
class FrameDigests:
    """Digests of the t frames of one camera in one log."""

    shape: tuple[int, ...]  # of one frame
    hashes: np.ndarray  # uint32 [t], of all pixels
    # Mean difference from the frame before, in grey levels of 255; 0 for the first. float32 [t]
    change: np.ndarray
    low: np.ndarray  # uint8 [t], the darkest value
    high: np.ndarray  # uint8 [t], the brightest
    mean: np.ndarray  # float32 [t]
    coarse: np.ndarray  # float32 [8, 8, 3], the mean picture

    def __len__(self) -> int:
        return len(self.hashes)


def digest_frames(frames: Iterable[np.ndarray]) -> FrameDigests | None:
    """Digests of frames uint8 [h, w, 3] that come one by one; None when none comes."""
    shape: tuple[int, ...] = ()
    rows: list[tuple[int, float, int, int, float]] = []
    before: np.ndarray | None = None
    total = np.zeros((_COARSE, _COARSE, 3))
    for frame in frames:
        shape = frame.shape
        seen = frame[:: _stride(shape[0], _LOOKED_AT), :: _stride(shape[1], _LOOKED_AT)].astype(int)
        change = 0.0 if before is None else float(np.abs(seen - before).mean())
        rows.append(
            (
                zlib.crc32(np.ascontiguousarray(frame).data),
                change,
                int(frame.min()),
                int(frame.max()),
                float(seen.mean()),
            )
        )
        before = seen
        total += _coarse(seen)
    if not rows:
        return None
    hashes, changes, low, high, mean = zip(*rows, strict=True)
    return FrameDigests(
        shape,
        np.array(hashes, np.uint32),
        np.array(changes, np.float32),
        np.array(low, np.uint8),
        np.array(high, np.uint8),
        np.array(mean, np.float32),
        (total / len(rows)).astype(np.float32),
    )


def _stride(size: int, wanted: int) -> int:
    return max(1, size // wanted)


def _coarse(frame: np.ndarray) -> np.ndarray:
    """The picture in 8 x 8 cells, each the pixel in its middle."""
    rows = (np.arange(_COARSE) + 0.5) / _COARSE
    i, j = (rows * frame.shape[0]).astype(int), (rows * frame.shape[1]).astype(int)
    return frame[i][:, j]
