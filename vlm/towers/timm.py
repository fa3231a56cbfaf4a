"""timm's side of a tower: a backbone by name, its weights, and the map that the policy reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vlm.towers.checks import check_timm
from vlm.towers.weights import (
    fetch_from_hub,
    fit_weights,
    missing_package,
    read_weights,
    unknown_name,
)

# Names that bring their own weights: a folder, or a repository of the hub, in timm's format.
SCHEMAS = ("local-dir:", "hf-hub:")


def build_timm(
    name: str,
    weights: str | None,
    load: bool,
    image_size: tuple[int, int],
    description: Mapping[str, Any] | None,
) -> tuple[Any, dict[str, Any]]:
    """A timm model with its weights, and its description; neither pruned nor frozen.

    `name` is one of timm.list_models(), `local-dir:<folder>` or `hf-hub:<repository>`; `weights` a
    safetensors file, "hub", or None for what the name brings. With `description` the model of a
    checkpoint is built again, without the hub and without weights.
    """
    if description is not None:
        check_timm(_timm(name), description)
        backbone = _create(description["architecture"], description["arguments"])
        return backbone, dict(description)
    timm = _timm(name)
    has_schema = name.startswith(SCHEMAS)
    base = name.split(".", maxsplit=1)[0]
    if not has_schema and not timm.is_model(base):
        raise unknown_name("timm", name, timm.list_models())
    if load and (weights == "hub" or (has_schema and weights is None)):
        backbone = _create(name, {}, fetch_timm(name))
    else:
        backbone = _create(name, {})
        if load and weights is not None:
            load_local_weights(backbone, name, Path(weights))
    config = backbone.pretrained_cfg
    loads = weights is not None or has_schema
    # Random weights learn at the size of our images, unless the architecture has one size only.
    fixed = config.get("fixed_input_size", False) and not hasattr(backbone, "dynamic_img_size")
    size = list(config["input_size"][1:]) if loads or fixed else list(image_size)
    index, last = choose_map(backbone, name, (size[0], size[1]))
    arguments = {k: x for k, x in vars(backbone).get("_model_args", {}).items() if _is_json(x)}
    return backbone, {
        "library": "timm",
        "version": timm.__version__,
        "architecture": config["architecture"],
        "arguments": {k: x for k, x in arguments.items() if k != "dynamic_img_size"},
        "size": size,
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": config["interpolation"],
        "map": index,
        "norm": last,
    }


def timm_maps(backbone: Any, description: Mapping[str, Any], x: Tensor) -> Float[Tensor, "b c h w"]:
    """The map that the description names, of preprocessed images [b, 3, h, w]."""
    (maps,) = backbone.forward_intermediates(
        x,
        indices=[description["map"]],
        norm=description["norm"],
        output_fmt="NCHW",
        stop_early=True,
        intermediates_only=True,
    )
    return maps


def prune_timm(backbone: Any, description: Mapping[str, Any]) -> nn.Module:
    """The backbone without what comes after the map."""
    backbone.prune_intermediate_layers(
        [description["map"]], prune_norm=not description["norm"], prune_head=True
    )
    return backbone


def choose_map(backbone: Any, name: str, size: tuple[int, int]) -> tuple[int, bool]:
    """The deepest map with at least 4 x 4 positions: its index, and whether it is the last.

    A vision transformer's last map is then normalized as its own forward does.
    """
    if not hasattr(backbone, "forward_intermediates"):
        raise ValueError(
            f"timm model {name!r} gives no feature maps (it has no forward_intermediates): choose "
            f"a convolutional network or a vision transformer, for example 'resnet18'."
        )
    stages = list(backbone.feature_info)
    fine = [i for i, stage in enumerate(stages) if min(size) // stage["reduction"] >= 4]
    index = fine[-1] if fine else 0
    return index, index == len(stages) - 1


def load_local_weights(backbone: Any, name: str, path: Path) -> None:
    """Load a safetensors file of the full timm model; its classifier may be missing or different.

    FileNotFoundError where there is no such file; ValueError for another format, for keys that are
    missing or too many and for shapes that differ (the first of them are named).
    """
    heads = backbone.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    fit_weights(backbone, read_weights(path), path, f"timm model {name!r}", optional=heads)


def fetch_timm(name: str) -> Path:
    """The safetensors file of a model on the hub or in a folder; its pickled weights are not used.

    ValueError where there are none, OSError where the hub can't be reached.
    """
    if name.startswith("local-dir:"):
        return Path(name.removeprefix("local-dir:")) / "model.safetensors"
    config = None if name.startswith("hf-hub:") else _timm(name).get_pretrained_cfg(name)
    where = name.removeprefix("hf-hub:") if config is None else config.hf_hub_id
    if not where:
        raise ValueError(f"timm has no weights of {name!r} on the hub: name a local file instead.")
    given = None if config is None else config.hf_hub_filename
    return fetch_from_hub(str(where), given or "model.safetensors", f"timm:{name}")


def _create(name: str, arguments: Mapping[str, Any], file: Path | None = None) -> Any:
    timm = _timm(name)
    words: dict[str, Any] = {"pretrained": False, **arguments}
    if file is not None:
        read_weights(file)  # refuses what is no safetensors file
        overlay = {"file": str(file), "source": "", "hf_hub_id": None, "custom_load": False}
        words |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        # A vision transformer then interpolates its positions to the size of our images.
        return timm.create_model(name, **words, dynamic_img_size=True)
    except TypeError:
        return timm.create_model(name, **words)


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing_package("timm", f"timm:{name}", "train") from error
    return timm


def _is_json(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_json(x) for x in value)
    return value is None or isinstance(value, bool | int | float | str)
