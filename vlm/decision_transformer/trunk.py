"""Trunks of a Decision Transformer: our own blocks, or the layers of a causal language model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm.blocks import Block, additive_mask
from vlm.decision_transformer.config import DecisionConfig
from vlm.pretrained.adapters import add_lora
from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.files import asking, base_fingerprint, find_base
from vlm.pretrained.load import no_dropout

# Entries of a configuration that only a vocabulary needs: the trunk has none.
_VOCABULARY = ("pad_token_id", "bos_token_id", "eos_token_id")


class ScratchTrunk(nn.Module):
    """A causal transformer of our own blocks, with learned positions."""

    # Deviation of the inputs that it expects.
    scale = 1.0

    def __init__(
        self, slots: int, width: int, heads: int, depth: int, mlp_ratio: float, dropout: float
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(slots, width) * 0.02)
        self.blocks: Any = nn.ModuleList(
            Block(width, heads, mlp_ratio, dropout, depth) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.checkpointed = False

    def forward(
        self, x: Float[Tensor, "b t c"], visible: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b t c"]:
        """Hidden states; each position sees those that are `visible` up to itself."""
        t = x.shape[1]
        x = x + self.positions[-t:]
        at = torch.arange(t, device=x.device)
        earlier, same = at[None, :] <= at[:, None], at[None, :] == at[:, None]
        # What is hidden sees itself: a softmax over nothing is NaN, which would spread.
        mask = additive_mask((visible[:, None, :] & earlier) | same, x.dtype)[:, None]
        for block in self.blocks:
            if self.checkpointed and self.training:
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return self.norm(x)

    def gradient_checkpointing(self, on: bool) -> None:
        """Recompute the blocks' activations in the backward pass."""
        self.checkpointed = on


class LanguageTrunk(nn.Module):
    """The first layers of a causal language model, without its vocabulary.

    Inputs are embeddings, which the model does not scale: one that multiplies its rows (Gemma, by
    the square root of its width) expects them multiplied already, and `scale` says how large.
    """

    def __init__(self, decoder: Any, scale: float) -> None:
        super().__init__()
        self.decoder, self.scale = decoder, scale

    def forward(
        self, x: Float[Tensor, "b t c"], visible: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b t c"]:
        """Hidden states; each position sees those that are `visible` up to itself."""
        positions = (visible.long().cumsum(1) - 1).clamp(min=0)
        return self.decoder(
            inputs_embeds=x,
            attention_mask=visible.long(),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state

    def gradient_checkpointing(self, on: bool) -> None:
        """Recompute the layers' activations in the backward pass."""
        # transformers renamed both after 5.17
        new = hasattr(self.decoder, "activation_checkpointing_enable")
        name = "activation" if new else "gradient"
        if on:
            getattr(self.decoder, f"{name}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.decoder, f"{name}_checkpointing_disable")()


def load_trunk(config: DecisionConfig) -> tuple[LanguageTrunk, DecisionConfig]:
    """The trunk with the weights of its base (or random ones), and the config filled in from it.

    ValueError or FileNotFoundError where the base is no causal language model or has too few
    layers.
    """
    folder, revision, hf_config = read_base(config)
    fingerprint = base_fingerprint(folder)
    if config.fingerprint and config.fingerprint != fingerprint:
        raise ValueError(
            f"{config.base} is not the base that the checkpoint was trained on (fingerprint "
            f"{fingerprint[:12]}, trained on {config.fingerprint[:12]}): name that one."
        )
    whole = load_layers(config, folder, hf_config, config.layers)
    embedding = whole.get_input_embeddings()
    factor = float(getattr(embedding, "embed_scale", 1.0))
    scale = float(embedding.weight.detach().float().std()) * factor
    decoder, described = whole.get_decoder(), described_layers(whole.config)
    decoder.set_input_embeddings(nn.Identity())
    config = replace(config, revision=revision, fingerprint=fingerprint, language_model=described)
    trunk = LanguageTrunk(decoder, scale)
    _check_causal(trunk, config)
    return adapted(trunk, config), config


def build_trunk(config: DecisionConfig) -> LanguageTrunk:
    """The trunk that a config describes, with random weights; nothing of its base is read."""
    assert config.language_model is not None
    if found := asking(config.language_model):
        raise ValueError(f"its language_model asks for code of others ({found}).")
    transformers = import_transformers()
    entries = dict(config.language_model)
    hf_config = transformers.AutoConfig.for_model(entries.pop("model_type"), **entries)
    whole = transformers.AutoModelForCausalLM.from_config(hf_config, dtype=torch.float32)
    no_dropout(whole)
    decoder = whole.get_decoder()
    decoder.set_input_embeddings(nn.Identity())
    return adapted(LanguageTrunk(decoder, 1.0), config)


def adapted(trunk: LanguageTrunk, config: DecisionConfig) -> LanguageTrunk:
    """The trunk with its adapters, where it has some."""
    if config.lora_rank:
        add_lora(trunk.decoder, config.lora_rank, config.lora_alpha, config.lora_dropout)
    return trunk


def read_base(config: DecisionConfig) -> tuple[Path, str | None, Any]:
    """Folder, commit and transformers' configuration of the base."""
    transformers = import_transformers()
    assert config.base is not None
    wanted = PretrainedConfig(config.base, 1, 1, 1, revision=config.revision)
    folder, revision = find_base(wanted)
    try:
        hf_config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ValueError(
            f"{config.base}: its config.json is not one of a model ({error})."
        ) from error
    known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if hf_config.model_type not in known or hf_config.get_text_config() is not hf_config:
        raise ValueError(_no_language_model(config, hf_config.model_type))
    return folder, revision, hf_config


def load_layers(config: DecisionConfig, folder: Path, hf_config: Any, layers: int | None) -> Any:
    """The causal language model with its first so many layers, its own dropout off."""
    transformers = import_transformers()
    there = hf_config.num_hidden_layers
    if layers is not None:
        if layers > there:
            raise ValueError(f"{config.base} has {there} layers, of which {layers} can't be kept.")
        hf_config.num_hidden_layers = layers
        if getattr(hf_config, "layer_types", None):
            hf_config.layer_types = hf_config.layer_types[:layers]
    auto = transformers.AutoModelForCausalLM
    if config.random_weights:
        whole = auto.from_config(hf_config, dtype=torch.float32)
    else:
        level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # the layers that are left out are no news
        try:
            whole, report = auto.from_pretrained(
                folder,
                config=hf_config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{config.base}: its weights can't be loaded ({error}).") from error
        finally:
            transformers.logging.set_verbosity(level)
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"{config.base}: {len(missing)} weights are missing from its files, first "
                f"{missing[:3]}: the files are incomplete or another model's."
            )
    no_dropout(whole)
    return whole


def described_layers(hf_config: Any) -> dict[str, Any]:
    """transformers' configuration as JSON types, with a vocabulary of one."""
    entries = json.loads(hf_config.to_json_string(use_diff=False))
    private = [name for name in entries if name.startswith("_")]
    for name in (*private, "transformers_version", "architectures", "auto_map"):
        entries.pop(name, None)
    entries |= {name: None for name in _VOCABULARY if name in entries}
    return {**entries, "vocab_size": 1}


@torch.no_grad()
def _check_causal(trunk: LanguageTrunk, config: DecisionConfig) -> None:
    """ValueError where a later input changes an earlier output, as in an encoder."""
    assert config.language_model is not None
    trunk.eval()
    x = torch.randn(1, 3, width_of(config), generator=torch.Generator().manual_seed(0))
    other, visible = x.clone(), torch.ones(1, 3, dtype=torch.bool)
    other[:, 2] *= -1.0
    one, two = trunk(x * trunk.scale, visible), trunk(other * trunk.scale, visible)
    if not torch.allclose(one[:, :2], two[:, :2], atol=1e-6):
        raise ValueError(_no_language_model(config, config.language_model["model_type"]))
    trunk.train()


def width_of(config: DecisionConfig) -> int:
    """Channels of a described trunk."""
    transformers = import_transformers()
    assert config.language_model is not None
    entries = dict(config.language_model)
    return transformers.AutoConfig.for_model(entries.pop("model_type"), **entries).hidden_size


def depth_of(config: DecisionConfig) -> int:
    """Layers of a described trunk."""
    transformers = import_transformers()
    assert config.language_model is not None
    entries = dict(config.language_model)
    return transformers.AutoConfig.for_model(entries.pop("model_type"), **entries).num_hidden_layers


def _no_language_model(config: DecisionConfig, kind: str) -> str:
    return (
        f"--model.trunk {config.base} is a {kind!r} model, no causal language model: name one that "
        "predicts the next word of a text (GPT-2, Llama, SmolLM2, Qwen, Gemma ...), or leave the "
        "flag out for a trunk from scratch."
    )


def import_transformers() -> Any:
    """transformers, or ImportError with the extra that brings it."""
    try:
        import peft  # noqa: F401
        import transformers
    except ImportError as error:
        raise ImportError(
            "a trunk of a language model needs: pip install 'qsft-robot[vlm]'"
        ) from error
    return transformers
