"""Features of a frozen image encoder, computed once a frame and kept on disk as float16."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from torch import Tensor

from qsft_robot.algorithms.networks import PolicyNetworks, inference
from qsft_robot.config.train import TrainConfig
from qsft_robot.files import SUMS, atomic_folder, cache_folder, write_json
from qsft_robot.parallel.distributed import processes
from qsft_robot.parallel.passes import from_all, my_share
from qsft_robot.printed_text import printable
from qsft_robot.token_data.disk_cache import GIB, InUse, found_room, in_use, make_room
from qsft_robot.token_data.frames import INDEX, FrameCache, frames_file
from qsft_robot.token_data.row_file import RowFile
from qsft_robot.token_data.run_data import RunData
from qsft_robot.token_data.token_data import TokenData

if TYPE_CHECKING:
    from jaxtyping import Float16, Int64

BATCH = 64
FEATURES = "features.npy"
# Images of one camera, uint8 [b, h, w, 3], to the tower's features [b, p, t].
Encode = Callable[[Tensor], Tensor]


class FeatureCache:
    """Rows as in the FrameCache that it was made of, p features of t channels in place of pixels.

    It is read in place of the frames (`FrameSource`), by both stages of training.
    """

    def __init__(self, start: Mapping[str, int], folders: Mapping[str, Path]) -> None:
        self.start = start
        self.folders = dict(folders)
        self._held = [InUse(folder) for folder in folders.values()]
        self._files = {camera: RowFile(folder / FEATURES) for camera, folder in folders.items()}

    @classmethod
    def build(
        cls,
        frames: FrameCache,
        encode: Encode,
        tower: Mapping[str, Any],
        folder: Path,
        *,
        byte_budget: int,
        device: str = "cpu",
        show_progress: bool = True,
    ) -> FeatureCache:
        """Encode every frame to `folder`/<key> unless that was done before, one key a camera.

        The key hashes the camera's frames and `tower`, which describes the tower: its architecture,
        preprocessing, the digest of its weights and the version of its library. An interrupted
        build leaves the cameras that were finished. ValueError where the features take more than
        `byte_budget`, the disk is full, or a feature does not fit into float16.
        """
        folders = {camera: folder / cache_key(frames, camera, tower) for camera in frames.cameras}
        held = {c: in_use(target, INDEX) for c, target in folders.items()}
        missing = [camera for camera in folders if held[camera] is None]
        rows = sum(frames.rows.values())
        shape = (rows, int(np.prod(tower["grid"])), int(tower["channels"]))
        each = 2 * int(np.prod(shape))
        if each * len(folders) > byte_budget:
            need = each * len(folders) / GIB
            raise ValueError(
                f"the tower's features of {rows} frames x {len(folders)} cameras take {need:.3f} "
                f"GiB ({shape[1]} x {shape[2]} float16 a frame), the feature cache may hold "
                f"{byte_budget / GIB:.3f} GiB. Allow more with --data.feature-cache-gib "
                f"{np.ceil(need * 1000) / 1000:.3f}, take 0 to run the tower on every batch (slow),"
                " or use a tower with fewer patches, fewer cameras or fewer logs."
            )
        if missing:
            make_room(folder, each * len(missing))
        for camera in missing:
            with atomic_folder(folders[camera]) as temporary:
                out = np.lib.format.open_memmap(
                    temporary / FEATURES, mode="w+", dtype=np.float16, shape=shape
                )
                _encode_rows(frames, camera, encode, out, device, show_progress)
                write_json(temporary / INDEX, {"shape": list(shape), "tower": dict(tower)})
        return cls(frames.start, folders)

    def read(
        self, camera: str, rows: Int64[np.ndarray, "*rows"]
    ) -> Float16[np.ndarray, "*rows p t"]:
        """Features by row number."""
        return self._files[camera].read(rows)


def cache_key(frames: FrameCache, camera: str, tower: Mapping[str, Any]) -> str:
    """The name of a camera's features: a hash of its frames, pixel by pixel, and of the tower."""
    sums = (frames.folder / SUMS).read_text().splitlines()
    (pixels,) = [
        line.split("  ", 1)[0] for line in sums if line.endswith(f"  {frames_file(camera)}")
    ]
    source = json.dumps([pixels, dict(tower)], sort_keys=True)
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _encode_rows(
    frames: FrameCache, camera: str, encode: Encode, out: np.memmap, device: str, show: bool
) -> None:
    with Progress(console=Console(stderr=True), transient=True, disable=not show) as progress:
        task = progress.add_task(f"Tower features of {escape(printable(camera))}", total=len(out))
        for rows in np.array_split(np.arange(len(out)), -(-len(out) // BATCH)):
            images = torch.from_numpy(frames.read(camera, rows)).to(device)
            features = encode(images).half().cpu()
            if not bool(torch.isfinite(features).all()):
                raise ValueError(
                    f"the tower's features of {camera} pass the range of float16 (65,504): take "
                    "--data.feature-cache-gib 0 to run the tower on every batch, or another tower."
                )
            out[rows] = features.numpy()
            progress.advance(task, len(rows))
    out.flush()


def on_tower_features(config: TrainConfig, data: RunData, model: Any) -> RunData:
    """The same logs with a frozen tower's features in place of frames, where the model has one.

    Unchanged for a model without a frozen tower, for --data.feature-cache-gib 0, and where
    --features-from needs one pass over the images only.
    """
    tower = getattr(model, "frozen_tower", None)
    budget = config.data.feature_cache_gib
    if tower is None or budget <= 0 or config.features_from is not None:
        return data
    if config.model.random_shift > 0:
        raise ValueError(
            f"--model.random-shift {config.model.random_shift} moves pixels, but the features of "
            "the frozen tower are computed once per frame: use --model.random-shift 0, "
            "--model.fine-tune-towers, or --data.feature-cache-gib 0 to run the tower on every "
            "batch."
        )

    def featured(tokens: TokenData) -> TokenData:
        assert isinstance(tokens.frames, FrameCache)
        twin = copy.copy(tokens)
        twin.frames = FeatureCache.build(
            tokens.frames,
            model.images.patches,
            tower.description,
            cache_folder() / "features",
            byte_budget=int(budget * GIB),
            device=config.device,
        )
        return twin

    valid = None if data.valid is None else featured(data.valid)
    return replace(data, train=featured(data.train), valid=valid)


def image_tokens_of(config: TrainConfig, networks: PolicyNetworks, data: TokenData) -> Tensor:
    """Image tokens of phi for every row of the data, float16 [R, m, c], on the CPU.

    Those of an encoder that came from another run are kept on disk for the runs that follow, but
    not more than --data.feature-cache-gib. The key hashes the key of the frames, the logs, their
    instructions and the encoder's weights.
    """
    taken = config.features_from is not None or config.behavior_from is not None
    if not (taken and isinstance(data.frames, FrameCache)):
        return image_features(networks, data, config.device)
    assert networks.behavior is not None
    shrink = getattr(networks.behavior.config, "image_shrink", 1)
    key = hashlib.sha256(json.dumps([data.frames.folder.name, data.names, shrink]).encode())
    key.update(data.text_ids.numpy().tobytes())
    for parameter in networks.behavior.image_parameters():
        key.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    folder = cache_folder() / "features" / key.hexdigest()[:16]
    held = in_use(folder, FEATURES)
    if held is not None:
        return torch.from_numpy(np.load(folder / FEATURES))
    features = image_features(networks, data, config.device)
    room = features.nbytes <= int(config.data.feature_cache_gib * GIB)
    if room and processes().is_main and found_room(folder.parent, features.nbytes):
        with atomic_folder(folder) as temporary:
            np.save(temporary / FEATURES, features.numpy())
    return features


def on_features(data: TokenData, features: Tensor) -> TokenData:
    """The same data reading image features instead of images."""
    twin = copy.copy(data)
    twin.features = features
    return twin


def image_features(networks: PolicyNetworks, data: TokenData, device: str) -> Tensor:
    """Image tokens of phi for every row of the data, float16 [R, m, c], on the CPU."""
    model = networks.behavior
    assert model is not None
    tokens, width = model.config.frame_image_tokens, model.config.width
    features = torch.zeros(data.rows, tokens, width, dtype=torch.float16)
    with inference(networks):
        for rows in my_share(data.rows, model):
            context = data.context(rows).to(device)
            assert context.images is not None
            newest = {camera: x[:, -1] for camera, x in context.images.items()}
            features[rows] = model.encode_images(newest, context.text_ids).half().cpu()
    return from_all(features, model)
