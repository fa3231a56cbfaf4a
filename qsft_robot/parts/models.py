"""Models by name: the RT-style transformer and pretrained models, built, described and rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsft_robot.names import unknown

if TYPE_CHECKING:
    from vlm.model import ActionModel
    from vlm.pretrained.model import PretrainedModel

MODELS = ("rt_tiny", "rt_small", "rt_base", "pretrained")
MODEL_KINDS = ("rt", "pretrained")


def build_model(name: str, **shape: Any) -> ActionModel:
    """Build a model by its builder's name; `shape` are the builder's keyword arguments, those of
    `PretrainedConfig` for "pretrained"."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    if name == "pretrained":
        from vlm.pretrained.config import PretrainedConfig
        from vlm.pretrained.model import PretrainedModel

        return PretrainedModel(PretrainedConfig(**shape))
    from vlm.rt import model as rt

    return getattr(rt, name)(**shape)


def load_model(description: Mapping[str, Any], folder: Path | None = None) -> ActionModel:
    """Build the model that a checkpoint describes, with what was trained still to be loaded.

    `folder` is the policy folder, where a model that carries its base inside finds it.
    """
    kind = description["kind"]
    if kind == "rt":
        from vlm.rt.model import RTConfig, RTModel

        return RTModel(RTConfig(**description["config"]), load_image_weights=False)
    if kind != "pretrained":
        raise unknown("kind of model", kind, MODEL_KINDS)
    from vlm.pretrained.config import PretrainedConfig
    from vlm.pretrained.model import PretrainedModel

    config = PretrainedConfig(**description["config"])
    if "inside" in description:
        assert folder is not None
        config = replace(config, base=str(folder / description["inside"]))
    return PretrainedModel(config)


def with_later_settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """A model's description with what later versions added to its config, at the defaults."""
    if description["kind"] == "rt":
        from vlm.rt.model import RTConfig

        return {**description, "config": vars(RTConfig(**description["config"]))}
    from vlm.pretrained.config import PretrainedConfig

    return {**description, "config": asdict(PretrainedConfig(**description["config"]))}


def describe_model(model: ActionModel) -> dict[str, Any]:
    """What `load_model` needs, JSON types only."""
    from vlm.rt.model import RTModel

    if isinstance(model, RTModel):
        return {"kind": "rt", "config": vars(model.config)}
    return {
        "kind": "pretrained",
        "config": asdict(model.config),
        "preprocessing": model.preprocessing,
    }


def carry_base(model: PretrainedModel, folder: Path, merged: bool) -> dict[str, Any]:
    """Write the base of a pretrained model to `folder` as a plain Hugging Face folder, `merged`
    with what was trained or as it was; returns the description of the model that opens it there.

    What `load_model` of that description still needs is the state dict of the model it builds.
    """
    from vlm.pretrained.files import copy_base

    if merged:
        config = model.merge_to(folder)
        description = {**describe_model(model), "config": asdict(config)}
    else:
        copy_base(model.config, folder)
        description = describe_model(model)
    description["config"]["base"] = folder.name
    return {**description, "inside": folder.name}


def save_processor(model: PretrainedModel, folder: Path) -> None:
    """Write tokenizer and image preprocessing of a pretrained model to a folder."""
    model.prompt.processor.save_pretrained(folder)


def build_tiny_model(family: str, folder: Path, **sizes: Any) -> Path:
    """Write a small model of a family with random weights as a Hugging Face folder."""
    from vlm.tiny.models import build_tiny_model as build

    return build(family, folder, **sizes)


def tiny_families() -> list[str]:
    """The families that `build_tiny_model` knows."""
    from vlm.tiny.models import BUILDERS

    return list(BUILDERS)
