"""Any `timm` model as an image encoder: its deepest map that is still fine enough, then FiLM."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlm.images import Film


class TimmEncoder(nn.Module):
    """A pretrained backbone, a projection to `channels`, and one FiLM that starts as identity.

    The map is the deepest with at least 4 x 4 positions. Models of one fixed input size get their
    images resized. With loaded weights the batch norms keep their statistics (frozen), so that
    training and inference compute the same features.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        weights: str | None,
        load_weights: bool,
        image_size: tuple[int, int],
        condition_width: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.channels, self.frozen_statistics = channels, weights is not None
        backbone = _create(name, pretrained=load_weights and weights == "hub")
        if load_weights and weights not in (None, "hub"):
            load_local_weights(backbone, name, Path(str(weights)))
        config = backbone.pretrained_cfg
        fixed = config.get("fixed_input_size", False) and not hasattr(backbone, "dynamic_img_size")
        self.input_size = tuple(config["input_size"][1:]) if fixed else image_size
        self.index, map_channels = _choose_map(backbone, name, self.input_size)
        backbone.prune_intermediate_layers([self.index], prune_norm=True, prune_head=True)
        self.backbone: Any = backbone
        self.register_buffer("mean", torch.tensor(config["mean"])[:, None, None], False)
        self.register_buffer("std", torch.tensor(config["std"])[:, None, None], False)
        self.project = nn.Conv2d(map_channels, channels, 1)
        self.norm = nn.GroupNorm(8, channels)
        self.film = Film(condition_width, channels, std=0.0)

    def train(self, mode: bool = True) -> TimmEncoder:
        super().train(mode)
        if self.frozen_statistics:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(
        self, images: Float[Tensor, "b 3 h w"], condition: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c h2 w2"]:
        """Feature maps of images in [0, 1]."""
        if tuple(images.shape[2:]) != self.input_size:
            images = F.interpolate(images, self.input_size, mode="bilinear", antialias=True)
        (features,) = self.backbone.forward_intermediates(
            (images - self.mean) / self.std,
            indices=[self.index],
            output_fmt="NCHW",
            stop_early=True,
            intermediates_only=True,
        )
        return F.relu(self.film(self.norm(self.project(features)), condition))


def _create(name: str, pretrained: bool) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"the image encoder timm:{name} needs timm: pip install 'qsft-robot[train]'"
        ) from error
    base = name.split(".", maxsplit=1)[0]
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=3, cutoff=0.3)
        raise ValueError(f"timm has no model {name!r}; the nearest names are {near}.")
    try:
        # A vision transformer then interpolates its positions to the size of our images.
        return timm.create_model(name, pretrained=pretrained, dynamic_img_size=True)
    except TypeError:
        return timm.create_model(name, pretrained=pretrained)


def _choose_map(backbone: Any, name: str, size: tuple[int, int]) -> tuple[int, int]:
    if not hasattr(backbone, "forward_intermediates"):
        raise ValueError(
            f"timm model {name!r} gives no feature maps (it has no forward_intermediates): choose "
            f"a convolutional network or a vision transformer, for example 'resnet18'."
        )
    stages = list(backbone.feature_info)
    fine = [i for i, stage in enumerate(stages) if min(size) // stage["reduction"] >= 4]
    index = fine[-1] if fine else 0
    return index, stages[index]["num_chs"]


def load_local_weights(backbone: Any, name: str, path: Path) -> None:
    """Load a safetensors file of the full timm model; its classifier may be missing or different.

    FileNotFoundError where there is no such file; ValueError for another format, for keys that are
    missing and for shapes that differ (the first of them are named).
    """
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path}: only safetensors weights are read, because pickle files can run code: "
            f"convert it with safetensors.torch.save_file(state_dict, '{path.stem}.safetensors')."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; image_weights is a local path or 'hub'.")
    from safetensors.torch import load_file

    given, expected = load_file(path), backbone.state_dict()
    heads = backbone.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    wanted = {key: value for key, value in expected.items() if not key.startswith(heads)}
    missing = [key for key in wanted if key not in given]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(wanted)} weights of timm model {name!r} are missing, "
            f"first {missing[:3]}; the file has {sorted(given)[:3]} ...: is it for another model?"
        )
    differ = [key for key, value in wanted.items() if given[key].shape != value.shape]
    if differ:
        shapes = [f"{key} {list(given[key].shape)} in the file" for key in differ[:3]]
        shapes = [
            f"{s}, {list(wanted[k].shape)} in the model"
            for s, k in zip(shapes, differ, strict=False)
        ]
        raise ValueError(
            f"{path}: {len(differ)} weights differ in shape from timm model {name!r}: "
            f"{'; '.join(shapes)}."
        )
    backbone.load_state_dict({key: given[key] for key in wanted}, strict=False)
