"""open_clip's side of a tower: the image or the text half of a model, and its tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from vlm.towers.checks import (
    MODEL,
    TOKENIZER,
    cached_config,
    check_files,
    check_open_clip,
    digest_of_files,
    tokenizer_words,
)
from vlm.towers.timm import choose_map, prune_timm, timm_maps
from vlm.towers.weights import (
    fetch_from_hub,
    fit_weights,
    missing_package,
    read_weights,
    unknown_name,
)

LOCAL, HUB = "local-dir:", "hf-hub:"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# The half that isn't asked for is built as small as it can be and thrown away.
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
_NO_IMAGES = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 16, "image_size": 16}


def describe_open_clip(name: str, weights: str | None, half: str) -> dict[str, Any]:
    """The description that rebuilds one half ("vision" or "text") of a model, JSON types only.

    `name` is one of open_clip.list_models(), `local-dir:<folder>` or `hf-hub:<repository>`, both
    with an open_clip_config.json. ValueError for an unknown name, with the nearest.
    """
    open_clip = _open_clip(name)
    preprocess: dict[str, Any] = {}
    if name.startswith((LOCAL, HUB)):
        config = json.loads(_config_file(name).read_text())
        model, preprocess = config["model_cfg"], config.get("preprocess_cfg", {})
    else:
        model = open_clip.get_model_config(name)
        if model is None:
            raise unknown_name("open_clip", name, open_clip.list_models())
        preprocess = _published_preprocessing(name, weights)
    part = model[f"{half}_cfg"]
    known = {
        "library": "open_clip",
        "version": open_clip.__version__,
        "name": name,
        "embed_dim": model["embed_dim"],
        "quick_gelu": model.get("quick_gelu", False),
        f"{half}_cfg": {k: x for k, x in part.items() if not k.endswith("_pretrained")},
    }
    if half == "text":
        source = part.get("hf_tokenizer_name")
        if source and name.startswith(LOCAL):
            source = name.removeprefix(LOCAL)
        known |= {TOKENIZER: source}
        for key, folder in ((TOKENIZER, source), (MODEL, part.get(MODEL))):
            if digest := digest_of_files(folder):
                known[f"{key}_sha256"] = digest
        return known
    size = part.get("image_size", 224)
    return known | {
        "size": [size, size] if isinstance(size, int) else list(size),
        "mean": list(preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        "std": list(preprocess.get("std", open_clip.OPENAI_DATASET_STD)),
        "interpolation": preprocess.get("interpolation", "bicubic"),
    }


def build_open_clip_images(
    name: str, weights: str | None, load: bool, description: Mapping[str, Any] | None
) -> tuple[Any, dict[str, Any]]:
    """The image half with its weights, not pruned, and its description with the map to read."""
    known = dict(description or describe_open_clip(name, weights, "vision"))
    visual = _build(known, "vision", fetch=description is None).visual
    if load:
        _load(visual, "visual.", name, weights)
    backbone = getattr(visual, "trunk", visual)
    if description is None:
        known |= _choose_map(backbone, name, known)
    return backbone, known


def open_clip_maps(
    backbone: Any, description: Mapping[str, Any], x: Tensor
) -> Float[Tensor, "b c h w"]:
    """The map that the description names, of preprocessed images [b, 3, h, w]."""
    if hasattr(backbone, "feature_info"):
        return timm_maps(backbone, description, x)
    found = backbone.forward_intermediates(
        x,
        indices=[description["map"]],
        normalize_intermediates=description["norm"],
        output_fmt="NCHW",
        stop_early=True,
        intermediates_only=True,
    )
    return found["image_intermediates"][0]


def prune_open_clip(backbone: Any, description: Mapping[str, Any]) -> nn.Module:
    """The backbone without what comes after the map."""
    if hasattr(backbone, "feature_info"):
        return prune_timm(backbone, description)
    if hasattr(backbone, "attnpool"):
        backbone.attnpool = nn.Identity()
    else:
        backbone.prune_intermediate_layers(
            [description["map"]], prune_norm=not description["norm"], prune_head=True
        )
    return backbone


def build_open_clip_text(
    name: str, weights: str | None, load: bool, description: Mapping[str, Any] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """The text half with its weights, and its description; token ids [b, l] to [b, embed_dim]."""
    known = dict(description or describe_open_clip(name, weights, "text"))
    text = _build(known, "text", fetch=description is None).text
    if load:
        _load(text, "text.", name, weights)
    return text, known


def build_tokenizer(
    description: Mapping[str, Any], fetch: bool = False
) -> Callable[[str], np.ndarray]:
    """Instruction -> token ids, int64 [l], as the text half's description says.

    `fetch`: ask the hub for a tokenizer that is not in its cache. The returned function raises
    ValueError on an instruction that the text half would cut.
    """
    open_clip = _open_clip(description["name"])
    part = description["text_cfg"]
    length, words = part.get("context_length", 77), tokenizer_words(description)
    if description["tokenizer"] is None:
        tokenizer = open_clip.SimpleTokenizer(context_length=length, **words)
    else:
        from open_clip.tokenizer import HFTokenizer

        source = str(description[TOKENIZER])
        if not fetch:
            check_files(description, TOKENIZER, source)
        try:
            tokenizer = HFTokenizer(
                source,
                context_length=length,
                tokenizer_mode=part.get("tokenizer_mode"),
                trust_remote_code=False,
                local_files_only=not fetch,
                **words,
            )
        except OSError as error:
            raise OSError(
                f"the text encoder open_clip:{description['name']} needs the tokenizer of "
                f"{description['tokenizer']}, which is neither here nor on a hub that can be "
                "reached; fetch it once where there is a network (it stays in the hub's cache)."
            ) from error

    def words_of(instruction: str) -> np.ndarray:
        ids = tokenizer([instruction])[0]
        # What does not fit is cut behind an end mark, which stands elsewhere where more fits.
        if (tokenizer([instruction], context_length=length + 1)[0, :length] != ids).any():
            raise ValueError(
                f"the instruction {instruction!r} has more tokens than the {length} that the text "
                f"encoder open_clip:{description['name']} reads: shorten it."
            )
        return ids.numpy().astype(np.int64)

    return words_of


def _choose_map(backbone: Any, name: str, known: Mapping[str, Any]) -> dict[str, Any]:
    if hasattr(backbone, "feature_info"):
        size = (int(known["size"][0]), int(known["size"][1]))
        index, last = choose_map(backbone, name, size)
        return {"map": index, "norm": last}
    if hasattr(backbone, "attnpool"):  # CLIP's own residual network: the last of its five stages
        return {"map": 4, "norm": False}
    blocks = len(backbone.transformer.resblocks)
    # CLIP is trained through the class token alone: what the last block makes of the patches,
    # nothing in training ever looked at.
    last = getattr(backbone, "pool_type", "tok") != "tok" or blocks == 1
    index = blocks - 1 if last else blocks - 2
    return {"map": index, "norm": last}


def _build(description: Mapping[str, Any], half: str, fetch: bool) -> Any:
    open_clip = _open_clip(description["name"])
    parts: dict[str, Any] = {"vision_cfg": dict(_NO_IMAGES), "text_cfg": dict(_NO_TEXT)}
    parts[f"{half}_cfg"] = settings = check_open_clip(description, half)
    if half == "text":
        settings["hf_model_pretrained"] = False
        if settings.get("hf_model_name") and not fetch:
            settings["hf_model_name"] = cached_config(description, settings["hf_model_name"])
    return open_clip.CustomTextCLIP(
        description["embed_dim"], quick_gelu=description["quick_gelu"], **parts
    )


def _load(half: nn.Module, prefix: str, name: str, weights: str | None) -> None:
    path = _weights_file(name, weights)
    if path is None:
        return
    from open_clip.model import convert_to_custom_text_state_dict

    given = convert_to_custom_text_state_dict(read_weights(path))
    # transformers before 4.31 saved positions that later models compute.
    stale = "text.transformer.embeddings.position_ids"
    mine = {k.removeprefix(prefix): x for k, x in given.items() if k.startswith(prefix)}
    mine.pop(stale.removeprefix(prefix), None)
    if not mine:
        raise ValueError(
            f"{path}: no weights begin with {prefix!r}, so this is no file of the open_clip model "
            f"{name!r}; it has {sorted(given)[:3]} ...."
        )
    fit_weights(half, mine, path, f"open_clip model {name!r}", prefix=prefix)


def _weights_file(name: str, weights: str | None) -> Path | None:
    """The safetensors file that `weights` names, or that the name brings along."""
    if weights is not None and weights != "hub" and not weights.startswith("hub:"):
        return Path(weights)
    if name.startswith(LOCAL):
        return Path(name.removeprefix(LOCAL)) / WEIGHTS
    if name.startswith(HUB):
        return fetch_from_hub(name.removeprefix(HUB), WEIGHTS, f"open_clip:{name}")
    if weights is None:
        return None
    published = _published(name, weights)
    if not published.get("hf_hub"):
        raise ValueError(
            f"the weights {weights!r} of open_clip:{name} are not on the hub, only as a pickle "
            "file: choose others, or convert them and name the local file."
        )
    repository, file = os.path.split(published["hf_hub"])
    return fetch_from_hub(repository, file or WEIGHTS, f"open_clip:{name}")


def _published(name: str, weights: str) -> dict[str, Any]:
    """open_clip's entry for weights "hub:<tag>", or for "hub" where a model has one tag only."""
    open_clip = _open_clip(name)
    tags, tag = open_clip.list_pretrained_tags_by_model(name), weights.removeprefix("hub")[1:]
    if not tag and len(tags) == 1:
        tag = tags[0]
    if tag not in tags:
        raise ValueError(
            f"weights {weights!r} of open_clip:{name}: write hub:<tag>; there are the tags "
            f"{', '.join(tags) or 'none'}."
        )
    found = open_clip.get_pretrained_cfg(name, tag)
    model = open_clip.get_model_config(name)
    if bool(found.get("quick_gelu")) != bool(model.get("quick_gelu")):
        other = f"{name}-quickgelu" if found.get("quick_gelu") else name.removesuffix("-quickgelu")
        raise ValueError(
            f"the weights {tag} were trained with another activation than open_clip:{name} has: "
            f"use open_clip:{other}."
        )
    return found


def _published_preprocessing(name: str, weights: str | None) -> dict[str, Any]:
    """Mean and deviation of named weights; of a local file, those that most weights of that name
    share (open_clip's own default would be wrong for every SigLIP)."""
    if weights is not None and (weights == "hub" or weights.startswith("hub:")):
        return _published(name, weights)
    open_clip = _open_clip(name)
    tags = open_clip.list_pretrained_tags_by_model(name)
    found = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    kinds = [json.dumps([x.get("mean"), x.get("std"), x.get("interpolation")]) for x in found]
    return found[kinds.index(max(kinds, key=kinds.count))] if found else {}


def _config_file(name: str) -> Path:
    if name.startswith(HUB):
        return fetch_from_hub(name.removeprefix(HUB), CONFIG, f"open_clip:{name}")
    folder = Path(name.removeprefix(LOCAL))
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder}: no {CONFIG}, so this is no folder of an open_clip model (it needs that "
            f"file and {WEIGHTS})."
        )
    return folder / CONFIG


def _open_clip(name: str) -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise missing_package("open_clip", f"open_clip:{name}", "vlm") from error
    return open_clip
