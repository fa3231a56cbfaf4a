"""Draw a strip of frames of one filmed episode, for a page that can't play the film."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np

GAP = 4  # white pixels between frames


def strip(frames: np.ndarray, at: Sequence[int], columns: int) -> np.ndarray:
    """The frames uint8 [t, h, w, 3] at these places, row by row, on white, uint8 [h', w', 3]."""
    _, height, width, _ = frames.shape
    rows = -(-len(at) // columns)
    paper = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, frame in enumerate(at):
        row, column = divmod(i, columns)
        top, left = row * (height + GAP), column * (width + GAP)
        paper[top : top + height, left : left + width] = frames[frame]
    return paper


def main() -> None:
    """Write the strip; print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("film", type=Path, help="mp4 of `qsft-robot evaluate --videos`")
    parser.add_argument("--out", type=Path, default=Path("runs/episode.png"))
    parser.add_argument("--count", type=int, default=6, help="frames, first and last among them")
    parser.add_argument("--at", type=int, nargs="+", help="frames by number instead, 0 the start")
    parser.add_argument("--columns", type=int, default=3)
    options = parser.parse_args()
    if not options.film.is_file():
        sys.exit(f"error: {options.film}: no such film; make one with evaluate RUN --videos 4")
    frames = np.asarray(iio.imread(options.film))
    at = options.at
    if at is None:
        at = sorted({round(x) for x in np.linspace(0, len(frames) - 1, options.count)})
    if min(at) < 0 or max(at) >= len(frames):
        sys.exit(f"error: --at {max(at)}: the film has frames 0 to {len(frames) - 1}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(options.out, strip(frames, at, options.columns))
    print(options.out)


if __name__ == "__main__":
    main()
