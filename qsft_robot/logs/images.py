"""Camera images of HDF5 logs, in whatever layout they were written, as uint8 [t, h, w, 3].

Read are RGB, RGBA and gray, channels last or first; floats in [0, 1]; JPEG and PNG, one a row (rows
of bytes padded to one length, of any length, or text). What looks like images and can't be told
for certain (depth, floats of another range, bytes of another kind) has a reason instead.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from qsft_robot.logs.hdf5_members import place
from qsft_robot.logs.hdf5_rows import kind_of, read_rows

# Java and some converters know no unsigned bytes.
_BYTES = (np.uint8, np.int8)
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# Names that only images have: rows of bytes under them are no state.
# Sides of a map of numbers; smaller arrays may be state of another shape.
_SMALLEST = 8
_NAMED = re.compile(r"(^|[^a-z])(images?|img|rgb|rgba|cam|camera|jpe?g|png)s?([^a-z]|$)")
# Pillow's modes that become RGB without a choice to make (16-bit and CMYK need one).
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
# Half a gray level: what resizing leaves beyond [0, 1].
_SLACK = 0.5 / 255
# Pixels of one image; more are made to fill a reader's memory.
_MOST = 1 << 26
# Bytes that are converted at once.
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Images:
    """The images of one dataset [t, ...]."""

    dataset: h5py.Dataset
    size: tuple[int, int]  # height, width
    encoded: bool = False
    # Axis of the channels in [t, ...]; None where there is none, [t, h, w].
    channels: int | None = 3

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.dataset), *self.size, 3)

    def read(self, begin: int, end: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rows begin <= row < end as uint8 [n, h, w, 3], into `out` where it is given; a few at a
        time, so that memory beyond `out` doesn't grow with the log. ValueError names the row."""
        if out is None:
            out = np.empty((end - begin, *self.size, 3), np.uint8)
        if not self.encoded and self.dataset.dtype == np.uint8 and self.shape == self.dataset.shape:
            return read_rows(self.dataset, np.s_[begin:end], out)
        step = self.block
        for at in range(begin, end, step):
            stop = min(at + step, end)
            raw = read_rows(self.dataset, np.s_[at:stop], raw=True)
            part = out[at - begin : stop - begin]
            if self.encoded:
                for i, row in enumerate(raw):
                    part[i] = _decoded(self.dataset, at + i, row, self.size)
            else:
                part[:] = self._converted(raw, at)
        return out

    @property
    def block(self) -> int:
        """Rows that are read at once."""
        wide = 1 if self.encoded else self.dataset.dtype.itemsize
        return max(1, _BLOCK // max(1, self.size[0] * self.size[1] * 4 * wide))

    def _converted(self, raw: np.ndarray, at: int) -> np.ndarray:
        pixels = raw[..., None] if self.channels is None else np.moveaxis(raw, self.channels, -1)
        if pixels.shape[-1] == 4:
            pixels = pixels[..., :3]
        if pixels.dtype != np.uint8:
            wrong = ~((pixels >= -_SLACK) & (pixels <= 1 + _SLACK))  # NaN, too
            if wrong.any():
                step = at + int(np.argwhere(wrong)[0][0])
                raise ValueError(
                    f"{place(self.dataset)}: {_OUTSIDE.format(value=pixels[wrong][0], step=step)}"
                )
            pixels = np.rint(pixels.astype(np.float32).clip(0, 1) * 255).astype(np.uint8)
        return pixels  # one channel spreads over the three of what it is assigned to


_OUTSIDE = (
    "an image of floats must lie in [0, 1], and {value:.4g} stands in step {step}: scale it, or "
    "write uint8 [t, h, w, 3]."
)


def images_in(dataset: h5py.Dataset) -> Images | None:
    """The images that a dataset holds; None where it holds none that can be told for certain."""
    found = _look(dataset)
    return found if isinstance(found, Images) else None


def is_camera(dataset: h5py.Dataset) -> bool:
    """Whether a dataset holds images that are read."""
    return images_in(dataset) is not None


def next_images(images: Images, after: h5py.Dataset) -> Images:
    """The images of next_obs, in a layout of their own; ValueError where they are of another size
    than those of obs."""
    found = _look(after)
    if not isinstance(found, Images) or found.size != images.size:
        said = f"images of {found.size}" if isinstance(found, Images) else found or "no images"
        raise ValueError(f"{place(images.dataset)}: images of {images.size}, but next_obs: {said}")
    return found


def why_no_images(dataset: h5py.Dataset) -> str:
    """Why a dataset that looks like images is not read as such, and what to do; "" where it is, or
    where it holds numbers [t, s] or text."""
    found = _look(dataset)
    return found if isinstance(found, str) else ""


def is_depth(dataset: h5py.Dataset) -> bool:
    """Whether it holds one number a pixel and is no image: depth or labels, which nobody who
    recorded them takes for a camera."""
    if kind_of(dataset) != "number" or dataset.ndim not in (3, 4) or dataset.dtype == np.uint8:
        return False
    one = dataset.ndim == 3 or 1 in (dataset.shape[1], dataset.shape[3])
    sides = [side for side in dataset.shape[1:] if side != 1]
    return one and len(sides) == 2 and min(sides) >= _SMALLEST


def rows_decide(dataset: h5py.Dataset) -> bool:
    """Whether it takes a look at the rows to tell images from state or text."""
    if kind_of(dataset) == "number":
        return dataset.ndim > 2 or dataset.dtype in _BYTES
    return _has_name_of_images(dataset)


def _look(dataset: h5py.Dataset) -> Images | str | None:
    kind = kind_of(dataset)
    if dataset.shape is None or not dataset.ndim or not len(dataset):
        return None
    if kind == "number":
        if dataset.ndim == 2 and dataset.dtype in _BYTES:
            return _look_at_bytes(dataset)
        return _look_at_pixels(dataset) if dataset.ndim > 2 else None
    vlen = h5py.check_vlen_dtype(dataset.dtype) if _has_dtype(dataset) else None
    if kind == "text" or vlen in _BYTES or (_has_dtype(dataset) and dataset.dtype.kind == "V"):
        return _look_at_bytes(dataset) if dataset.ndim == 1 and not dataset.dtype.names else None
    return None


def _has_dtype(dataset: h5py.Dataset) -> bool:
    try:
        return dataset.dtype is not None
    except Exception:  # types that numpy lacks
        return False


def _look_at_pixels(dataset: h5py.Dataset) -> Images | str:
    shape, dtype = dataset.shape, dataset.dtype
    said = f"{dtype} {list(shape)}"
    if dtype != np.uint8 and dtype.kind != "f":
        return f"{said}: depth, labels or images of another scale; write images as uint8."
    if len(shape) == 3 and dtype == np.uint8:
        return Images(dataset, (shape[1], shape[2]), channels=None)
    if len(shape) != 4:
        return f"{said}: no layout of images that is known; write uint8 [t, h, w, 3]."
    last, first = shape[3] in (1, 3, 4), shape[1] in (1, 3, 4)
    if last and first and shape[3] != 3 and shape[1:3] != (1, 1):
        return f"{said}: channels last or first can't be told; write uint8 [t, h, w, 3]."
    if not last and not first:
        return f"{said}: an image has 1, 3 or 4 channels; write uint8 [t, h, w, 3]."
    channels = 3 if last else 1
    size = (shape[1], shape[2]) if last else (shape[2], shape[3])
    if dtype == np.uint8:
        return Images(dataset, size, channels=channels)
    if shape[channels] == 1:
        return f"{said}: one channel of floats may be depth; write gray images as uint8 [t, h, w]."
    found = Images(dataset, size, channels=channels)
    try:
        found.read(0, 1)
    except ValueError as error:
        return f"{said}: {str(error).removeprefix(f'{place(dataset)}: ')}"
    return found


def _look_at_bytes(dataset: h5py.Dataset) -> Images | str | None:
    data = _bytes(read_rows(dataset, 0, raw=True))
    if data.startswith((_JPEG, _PNG)):
        try:
            height, width = _decoded(dataset, 0, data, None).shape[:2]
        except ValueError as error:
            return str(error).removeprefix(f"{place(dataset)}: ")
        return Images(dataset, (height, width), encoded=True)
    named = _has_name_of_images(dataset)
    if kind_of(dataset) == "number" and not named:
        return None
    if kind_of(dataset) == "text" and (not named or not data or _is_words(data)):
        return None
    return (
        f"{dataset.dtype} {list(dataset.shape)}: bytes that begin neither as JPEG nor as PNG do; "
        "write uint8 [t, h, w, 3]."
    )


def _has_name_of_images(dataset: h5py.Dataset) -> bool:
    name = (dataset.name or "").lower().split("obs/")[-1].replace("_", " ")
    return _NAMED.search(name) is not None


def _is_words(data: bytes) -> bool:
    try:
        return data.decode().isprintable() or "\n" in data.decode()
    except UnicodeDecodeError:
        return False


def _bytes(row: Any) -> bytes:
    return row if isinstance(row, bytes) else np.asarray(row).tobytes()


def _decoded(dataset: h5py.Dataset, step: int, row: Any, size: tuple[int, int] | None) -> Any:
    """One JPEG or PNG image, uint8 [h, w, 3]; ValueError on what is none or of another size."""
    where = f"{place(dataset)}: step {step}"
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            f"{place(dataset)}: JPEG or PNG images, which Pillow reads. Install it with: "
            "pip install 'qsft-robot[train]'"
        ) from error
    try:
        with Image.open(io.BytesIO(_bytes(row)), formats=("JPEG", "PNG")) as image:
            mode, (width, height) = image.mode, image.size
            pixels = None
            if mode in _MODES and width * height <= _MOST and size in (None, (height, width)):
                pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises OSError, SyntaxError, EOFError, zlib's and others
        reason = "no such image" if "cannot identify" in str(error) else str(error)
        raise ValueError(f"{where}: its JPEG or PNG can't be read ({reason}); mend it.") from error
    if mode not in _MODES:
        raise ValueError(f"{where}: {mode} pixels (16-bit or print colors); write 8-bit RGB.")
    if pixels is None:
        raise ValueError(
            f"{where}: an image of {height}x{width}"
            + (f", {size[0]}x{size[1]} at step 0; one size is needed." if size else ": too large.")
        )
    return pixels
