"""Models by name: the RT-style transformer and pretrained models, built, described and rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsft_robot.files import inside, read_json
from qsft_robot.names import unknown
from qsft_robot.trust import NOTHING, Trust

if TYPE_CHECKING:
    from vlm.model import ActionModel
    from vlm.pretrained.language import LanguageModel
    from vlm.pretrained.model import PretrainedModel

MODELS = (
    "perceptron", "whole_commands", "decision_transformer", "rt_tiny", "rt_small", "rt_base",
    "pretrained",
)  # fmt: skip
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
    from vlm.rt import sizes

    return getattr(sizes, name)(**shape)


def load_model(
    description: Mapping[str, Any], folder: Path | None = None, trust: Trust = NOTHING
) -> ActionModel:
    """Build the model that a checkpoint describes, with what was trained still to be loaded.

    `folder` is the policy folder, where a model that carries its base inside finds it; `trust`
    comes from whoever opens it. ValueError where the folder asks for more.
    """
    kind = description["kind"]
    if kind == "rt":
        from vlm.rt.config import RTConfig
        from vlm.rt.sizes import build
        from vlm.towers.tower import is_tower

        settings = RTConfig(**description["config"])
        for encoder, tower in (
            (settings.image_encoder, settings.image_tower),
            (settings.text_encoder, settings.text_tower),
        ):
            if is_tower(encoder) and tower is None:
                raise ValueError(f"the policy does not describe its tower {encoder}.")
        return build(settings, load_image_weights=False)
    if kind != "pretrained":
        raise unknown("kind of model", kind, MODEL_KINDS)
    from qsft_robot.policy.allocation import check_layers
    from vlm.pretrained.config import PretrainedConfig
    from vlm.pretrained.files import asks_for_code, leads_elsewhere
    from vlm.pretrained.model import PretrainedModel

    config, where = PretrainedConfig(**description["config"]), folder or "the policy"
    if config.trust_remote_code:
        trust.require_code(f"{where}: its policy.json (model.config.trust_remote_code)")
    asked = config.trust_remote_code
    if "inside" in description:
        assert folder is not None
        base = inside(folder, description["inside"], f"{folder}: model.inside of policy.json")
        if not (base / "config.json").is_file():
            raise ValueError(f"{base}: a policy's base is a folder with a config.json.")
        check_layers(read_json(base / "config.json"), str(base / "config.json"))
        if found := leads_elsewhere(base):
            raise ValueError(
                f"{base}: its {found} names what is no part of the base that a policy carries; "
                "export the policy again."
            )
        if asking := asks_for_code(base):
            trust.require_code(f"{base}: its {asking}")
            asked = True
        config = replace(config, base=str(base))
    config = replace(config, trust_remote_code=asked and trust.remote_code)
    return PretrainedModel(config, fetch=trust.downloads)


def with_later_settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """A model's description with what later versions added to its config, at the defaults."""
    if description["kind"] == "rt":
        from vlm.rt.config import RTConfig

        return {**description, "config": vars(RTConfig(**description["config"]))}
    from vlm.pretrained.config import PretrainedConfig

    return {**description, "config": asdict(PretrainedConfig(**description["config"]))}


def describe_model(model: ActionModel) -> dict[str, Any]:
    """The description that `load_model` reads, JSON types only."""
    from vlm.rt.context import ContextReader

    if isinstance(model, ContextReader):
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
        fingerprint = copy_base(model.config, folder)
        description = describe_model(model)
        description["config"]["fingerprint"] = fingerprint
    description["config"]["base"] = folder.name
    return {**description, "inside": folder.name}


def language_task(model: ActionModel, text: Path, length: int, count: int, device: str) -> Any:
    """The auxiliary task of a Decision Transformer on a language model: passages of a text."""
    from vlm.decision_transformer.language import LanguageTask

    return LanguageTask(model, text, length, count, device)


def load_language_model(base: str, device: str = "cpu", fetch: bool = False) -> LanguageModel:
    """A language model that goes on with texts: a folder, a GGUF file or a Hub id."""
    from vlm.pretrained.language import LanguageModel

    return LanguageModel(base, device, fetch)


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
