"""The image side of a pretrained model: which parts it is, and images to tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.prompt import Prompt


def image_parameters(base: Any) -> Iterator[nn.Parameter]:
    """Vision tower and projector: what is neither language model nor head."""
    own = {id(p) for p in base.get_decoder().parameters()}
    own |= {id(p) for p in base.get_output_embeddings().parameters()}
    return (p for p in base.parameters() if id(p) not in own)


def image_modules(base: Any) -> list[nn.Module]:
    """The largest modules that hold no part of language model or head."""
    parts = [*base.get_decoder().modules(), *base.get_output_embeddings().modules()]
    language = {id(m) for m in parts}
    found: list[nn.Module] = []

    def walk(module: nn.Module) -> None:
        for child in module.children():
            if not {id(m) for m in child.modules()} & language:
                found.append(child)
            elif id(child) not in language:
                walk(child)

    walk(base)
    return found


def stacked_images(config: PretrainedConfig, images: Mapping[str, Tensor]) -> list[Tensor]:
    """The images of all cameras, camera-major, each uint8 [3, h, w]; ValueError names what is
    missing or of another size."""
    flat: list[Tensor] = []
    for camera in config.cameras:
        if camera not in images:
            raise ValueError(
                f"camera {camera!r} is missing: the model reads {list(config.cameras)} and was "
                f"given {sorted(images)}."
            )
        x = images[camera]
        if tuple(x.shape[1:]) != (*config.image_size, 3) or x.dtype != torch.uint8:
            raise ValueError(
                f"camera {camera!r}: images of shape {list(x.shape)} and {x.dtype}, but the "
                f"model expects uint8 [b, {', '.join(map(str, config.image_size))}, 3]."
            )
        flat.extend(x.permute(0, 3, 1, 2))
    return flat


def image_levels(base: Any, prompt: Prompt, images: Sequence[Tensor]) -> list[Tensor]:
    """Image tokens and then deep-stack features, each [images, tokens, c]."""
    inputs = prompt.pixels(list(images))
    device = base.get_input_embeddings().weight.device
    inputs = {k: x.to(device) if isinstance(x, Tensor) else x for k, x in inputs.items()}
    read = base.model.get_image_features(**inputs, return_dict=True)
    deep = getattr(read, "deepstack_features", None) or []
    levels = [
        x if isinstance(x, Tensor) else torch.stack(list(x)) for x in (read.pooler_output, *deep)
    ]
    # transformers 5.17 gives the deep-stack features of all images as the rows of one table
    return [x if x.ndim == 3 else x.unflatten(0, (len(images), -1)) for x in levels]


@torch.no_grad()
def measure_image_tokens(base: Any, prompt: Prompt, config: PretrainedConfig) -> int:
    """Image tokens of one frame, counted on a blank image.

    ValueError where the processor marks another number than the model makes.
    """
    blank = torch.zeros(3, *config.image_size, dtype=torch.uint8)
    levels = image_levels(base, prompt, [blank])
    _, tokens, width = levels[0].shape
    if tokens != prompt.image_tokens or width != config.width:
        raise ValueError(
            f"{config.base}: its processor marks an image with {prompt.image_tokens} tokens of "
            f"width {config.width}, and its model makes {tokens} of width {width}: the processor "
            "does not match the model; take both from one source."
        )
    return len(levels) * tokens * len(config.cameras)
