"""Camera frames of a demonstration file as uint8 arrays on disk, one a camera, read row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import h5py
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from qsft_robot.files import atomic_folder, read_json, write_json
from qsft_robot.logs.checks import check_demo, demo_group, open_demonstrations
from qsft_robot.logs.hdf5_members import arrays
from qsft_robot.logs.hdf5_rows import kind_of
from qsft_robot.logs.images import Images, images_in, next_images, why_no_images
from qsft_robot.names import no_such
from qsft_robot.printed_text import printable
from qsft_robot.token_data.disk_cache import GIB, InUse, in_use, make_room
from qsft_robot.token_data.row_file import RowFile

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8

INDEX = "index.json"


class FrameCache:
    """Rows of all logs one after the other, t + 1 a log: row `start[name] + i` is observation i.

    A cache may be sent to workers by fork or spawn alike.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a cache that `build` has made; ValueError when `folder` holds none."""
        self.folder = Path(folder)
        held = in_use(self.folder, INDEX)
        if held is None:
            raise ValueError(f"{self.folder}: no frame cache ({INDEX} is missing); build it.")
        self._held: InUse = held
        value = read_json(self.folder / INDEX)
        self.start: dict[str, int] = value["start"]
        self.rows: dict[str, int] = value["rows"]
        # camera -> (height, width)
        self.cameras: dict[str, tuple[int, int]] = {
            camera: (size[0], size[1]) for camera, size in value["cameras"].items()
        }
        self._files: dict[str, RowFile] = {}

    @classmethod
    def build(
        cls,
        path: str | Path,
        cameras: Sequence[str],
        names: Sequence[str],
        folder: str | Path,
        *,
        byte_budget: int,
        truncated: Collection[str] = (),
        show_progress: bool = True,
    ) -> FrameCache:
        """Copy the frames of `names` to `folder`/<key> unless they are there already.

        The key hashes path, size and modification time of the file, the names and the cameras: to
        hash gigabytes of pixels would take as long as to copy them. The last row of a log comes
        from next_obs; where that is missing it repeats the last frame, which is an error for the
        logs that `truncated` names. ValueError also on an unknown camera, frames that differ in
        size, more bytes than `byte_budget`, or a full disk. Other files' frames that nothing reads
        make room (`cache_room.make_room`).
        """
        path = Path(path)
        with open_demonstrations(path) as file:
            layout = _measure(file, cameras, names, truncated)
            need = sum(layout["rows"].values()) * sum(
                h * w * 3 for h, w in layout["cameras"].values()
            )
            if need > byte_budget:
                raise ValueError(
                    f"{path}: its frames take {need / GIB:.3f} GiB, the frame cache may hold "
                    f"{byte_budget / GIB:.3f} GiB. Allow more with --data.frame-cache-gib "
                    f"{np.ceil(need / GIB * 1000) / 1000:.3f}, or use fewer cameras or logs."
                )
            status = path.stat()
            source = [str(path.resolve()), status.st_size, status.st_mtime_ns, layout]
            source += [frames_file(c) for c in cameras if frames_file(c) != f"{c}.npy"]
            key = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:16]
            target = Path(folder) / key
            held = in_use(target, INDEX)
            if held is None:
                make_room(target.parent, need)
                with atomic_folder(target) as temporary:
                    _copy(file, layout, temporary, show_progress)
            return cls(target)

    def read(
        self, camera: str, rows: Int64[np.ndarray, "*rows"]
    ) -> UInt8[np.ndarray, "*rows h w 3"]:
        """Frames by row number; ValueError on an unknown camera, IndexError past the end."""
        if camera not in self.cameras:
            raise ValueError(f"{self.folder}: {no_such('camera', camera, self.cameras)}")
        if camera not in self._files:
            self._files[camera] = RowFile(self.folder / frames_file(camera))
        return self._files[camera].read(rows)


def frames_file(camera: str) -> str:
    """Name of the file of a camera's frames: a key may hold slashes (images/left), or lead out of
    the folder."""
    name = quote(camera, safe="")
    if len(name) > 200:
        name = hashlib.sha256(camera.encode(errors="surrogateescape")).hexdigest()
    return f"{name}.npy"


def _measure(
    file: h5py.File, cameras: Sequence[str], names: Sequence[str], truncated: Collection[str]
) -> dict[str, Any]:
    """Rows, first rows and camera sizes, after checking that every log has the same."""
    rows: dict[str, int] = {}
    start: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}
    total = 0
    for name in names:
        demo = demo_group(file, name)
        start[name], rows[name] = total, check_demo(demo) + 1
        total += rows[name]
        obs, after = arrays(demo, "obs"), arrays(demo, "next_obs")
        for camera in cameras:
            where = f"{file.filename}: data/{name}/obs"
            if camera not in obs:
                raise ValueError(f"{where}: {no_such('camera', camera, obs)}")
            frames = _images(f"{where}/{camera}", obs[camera])
            size = sizes.setdefault(camera, frames.size)
            if frames.size != size:
                raise ValueError(
                    f"{where}/{camera}: differs in size: {frames.size} here, {size} in "
                    f"{names[0]}. One policy needs one size; convert the file or select by mask."
                )
            if camera in after:
                next_images(frames, after[camera])
            elif name in truncated:
                raise ValueError(
                    f"{where}/{camera}: the log is truncated, and without next_obs/{camera} "
                    "nothing tells what was seen after its last action. Write next_obs, or call "
                    "its end terminal (--data.log-end)."
                )
    return {"start": start, "rows": rows, "cameras": sizes}


def _images(where: str, dataset: h5py.Dataset) -> Images:
    images = images_in(dataset)
    if images is None:
        why = why_no_images(dataset) or f"{kind_of(dataset)} {dataset.shape}"
        raise ValueError(f"{where}: {why.removesuffix('.')}. A camera is uint8 [t, h, w, 3].")
    return images


def _copy(file: h5py.File, layout: dict[str, Any], folder: Path, show: bool) -> None:
    total = sum(layout["rows"].values())
    with Progress(console=Console(stderr=True), transient=True, disable=not show) as progress:
        for camera, size in layout["cameras"].items():
            task = progress.add_task(f"Caching {escape(printable(camera))}", total=total)
            out = np.lib.format.open_memmap(
                folder / frames_file(camera), mode="w+", dtype=np.uint8, shape=(total, *size, 3)
            )
            for name, first in layout["start"].items():
                demo, steps = demo_group(file, name), layout["rows"][name] - 1
                frames = _images(camera, arrays(demo, "obs")[camera])
                after = arrays(demo, "next_obs").get(camera)
                later = frames if after is None else next_images(frames, after)
                frames.read(0, steps, out[first : first + steps])
                later.read(steps - 1, steps, out[first + steps : first + steps + 1])
                progress.advance(task, steps + 1)
            out.flush()
    write_json(folder / INDEX, layout)
