"""Episode videos: mp4 whose frames show the instruction, the value estimate and the success."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from qsft_robot.printed_text import one_line

BAR_HEIGHT, LINE_HEIGHT = 40, 13
COMMAND_HEIGHT = 3 + 2 * LINE_HEIGHT
_DIM = (150, 150, 150)
_WHITE = (255, 255, 255)
_GREEN = (80, 220, 100)
_RED = (240, 90, 80)
_BLUE = (90, 170, 255)
_YELLOW = (250, 220, 110)


def draw_overlay(
    frame: np.ndarray,
    instruction: str,
    values: Sequence[float | None],
    outcome: bool | None,
    command: str | None = None,
    refused: bool = False,
) -> np.ndarray:
    """Return `frame` uint8 [h, w, 3] with a bar below it, uint8 [h', w', 3], both sizes even.

    The bar holds the instruction, the curve of `values` so far (in [0, 1], one a frame, None where
    the policy has no value) with the newest as a number, and SUCCESS or FAIL once `outcome` says.
    A policy that acts by text has two lines for its last `command` as well, red where the
    environment `refused` it; None for no such lines.
    """
    from PIL import Image, ImageDraw

    height, width = frame.shape[:2]
    line = 0 if command is None else COMMAND_HEIGHT
    canvas = Image.new("RGB", (width + width % 2, height + height % 2 + line + BAR_HEIGHT))
    canvas.paste(Image.fromarray(frame), (0, 0))
    draw = ImageDraw.Draw(canvas)
    top = height + height % 2
    if command:
        said = f"> {command} (refused)" if refused else f"> {command}"
        said_lines = _wrapped(draw, said, width - 8, 2)
        for i, text in enumerate(reversed(said_lines), 1):
            at = (4, top + COMMAND_HEIGHT - i * LINE_HEIGHT)
            draw.text(at, text, fill=_RED if refused else _YELLOW)
    top += line
    draw.text((4, top + 3), _wrapped(draw, instruction, width - 8, 1)[0], fill=_WHITE)
    newest = values[-1] if values else None
    if newest is not None:
        draw.text((4, top + 22), f"V {newest:.2f}", fill=_BLUE)
        # A pixel a frame; commands are few, so each has several.
        wide = 1.0 if command is None else 3.0
        _draw_curve(draw, values, wide, left=52, right=width - 64, top=top + 20, bottom=top + 37)
    if outcome is not None:
        word, color = ("SUCCESS", _GREEN) if outcome else ("FAIL", _RED)
        draw.text((width - 4 - draw.textlength(word), top + 22), word, fill=color)
    return np.asarray(canvas)


def _wrapped(draw: Any, text: str, width: float, lines: int) -> list[str]:
    """The text on at most so many lines, broken between words where it can be, then cut."""
    # Measured letter by letter below, and lines can't be measured.
    text = one_line(text)[:500]
    # PIL's own bitmap font draws Latin-1 alone.
    text = text.encode("latin-1", "replace").decode("latin-1")
    if draw.textlength(text) <= width:
        return [text]
    if lines > 1:
        kept = text.rsplit(" ", 1)[0]
        while " " in kept and draw.textlength(kept) > width:
            kept = kept.rsplit(" ", 1)[0]
        if draw.textlength(kept) <= width:
            return [kept, *_wrapped(draw, text[len(kept) + 1 :], width, lines - 1)]
    while text and draw.textlength(text + "...") > width:
        text = text[:-1]
    return [text + "..."]


def _draw_curve(
    draw: Any,
    values: Sequence[float | None],
    wide: float,
    *,
    left: int,
    right: int,
    top: int,
    bottom: int,
) -> None:
    draw.line([(left, bottom), (right, bottom)], fill=_DIM)
    draw.line([(left, top), (right, top)], fill=(60, 60, 60))
    # The curve fills from the left and is squeezed once it is longer.
    step = min(wide, (right - left) / max(len(values) - 1, 1))
    points = [
        (left + i * step, bottom - (bottom - top) * min(max(v, 0.0), 1.0))
        for i, v in enumerate(values)
        if v is not None
    ]
    if len(points) > 1:
        draw.line(points, fill=_BLUE)


def check_video() -> None:
    """Raise ImportError with the install line where mp4 can't be written."""
    try:
        import imageio_ffmpeg
        import PIL  # noqa: F401

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"videos need imageio, imageio-ffmpeg and Pillow ({error}). "
            "Install them with: pip install 'qsft-robot[train]'"
        ) from error


class VideoFile:
    """An mp4 that grows frame by frame and appears under its name at `keep`, or not at all."""

    def __init__(self, folder: str | Path, fps: float) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._temporary = self._folder / f".{uuid.uuid4().hex[:12]}.tmp.mp4"
        self._fps = fps
        self._writer: Any = None
        self.frames = 0

    def append(self, frame: np.ndarray) -> None:
        """Add one frame, uint8 [h, w, 3], both sizes even and the same for all frames."""
        if self._writer is None:
            import imageio

            self._writer = imageio.get_writer(
                self._temporary, fps=self._fps, codec="libx264", quality=7, macro_block_size=2
            )
        self._writer.append_data(frame)
        self.frames += 1

    def keep(self, name: str) -> Path:
        """Finish the file under `name` in its folder; ValueError when it has no frame."""
        if self._writer is None:
            raise ValueError(f"{name}: a video without a frame")
        self._writer.close()
        path = self._folder / name
        os.replace(self._temporary, path)
        return path

    def discard(self) -> None:
        """Stop and remove what was written; without effect after `keep`."""
        if self._writer is not None:
            self._writer.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.discard()
