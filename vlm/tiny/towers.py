"""Small towers of real architectures with random weights, for tests and trials without a hub."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

# What the kinds of CLIP that open_clip knows look like inside: its own transformer, pooled by a
# class token; its own residual network; and a timm trunk pooled by attention, with SigLIP's pixels.
CLIP = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
CLIP_RESNET = {"image_size": 128, "layers": (1, 1, 1, 1), "width": 8, "patch_size": None}
SIGLIP = {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "", "timm_proj": "linear"}
SIGLIP_PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}


def write_open_clip(
    folder: Path, vision: dict[str, Any] | None = None, seed: int = 0, **pixels: Any
) -> Path:
    """A folder as open_clip writes it, config and weights; CLIP's transformer if not told."""
    from open_clip import CLIPTextCfg, CLIPVisionCfg, create_model

    folder.mkdir(parents=True)
    text = CLIPTextCfg(context_length=12, width=16, heads=2, layers=2)
    model = {
        "embed_dim": 24,
        "vision_cfg": _written(CLIPVisionCfg(**(vision or CLIP))),
        "text_cfg": _written(text),
        "custom_text": "timm_model_name" in (vision or CLIP),
    }
    config = {"model_cfg": model, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    weights = create_model(f"local-dir:{folder}", load_weights=False).state_dict()
    weights = {key: x.contiguous() for key, x in weights.items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def _written(part: Any) -> dict[str, Any]:
    """A config class as in open_clip's files, which leave out what is not set."""
    return {key: x for key, x in asdict(part).items() if x is not None}


def write_timm(path: Path, name: str = "test_vit", seed: int = 0) -> Path:
    """A safetensors file of a timm model, its classifier included."""
    import timm

    torch.manual_seed(seed)
    save_file(timm.create_model(name).state_dict(), path)
    return path
