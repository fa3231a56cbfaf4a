"""From a config to a loaded base: processor, tokenizer, prompt, weights, action rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.families import Family, family_of
from vlm.pretrained.files import base_fingerprint, check_memory, find_base
from vlm.pretrained.prompt import Prompt


@dataclass(frozen=True)
class Base:
    """Metadata of a pretrained model's folder, without its weights."""

    config: PretrainedConfig
    folder: Path
    family: Family
    prompt: Prompt
    hf_config: Any


@dataclass(frozen=True)
class LoadedBase:
    """A base with its weights."""

    config: PretrainedConfig
    family: Family
    prompt: Prompt
    model: Any

    def action_rows(self) -> tuple[Tensor, Tensor | None]:
        """The rows of the action ids in embedding and head, float32 [v, c]; None for a tied head.

        A row that the table does not have yet starts at the mean of the table, with a fifth of its
        deviation; with `random_action_rows` every row starts as the architecture starts its rows.
        Both are drawn from one fixed seed. A row with `action_words` starts as the mean of their
        rows.
        """
        table = self.model.get_input_embeddings().weight
        head = self.model.get_output_embeddings().weight
        rows = self._rows(table)
        return rows, None if head is table else self._rows(head)

    def _rows(self, table: Tensor) -> Tensor:
        ids = torch.tensor(self.prompt.action_ids)
        there = ids < min(len(table), len(self.prompt.tokenizer))
        table = table.detach()
        generator = torch.Generator().manual_seed(0)
        mean, std = table.float().mean(0), table.float().std(0)
        noise = torch.randn(len(ids), table.shape[1], generator=generator)
        if self.config.random_action_rows:
            return noise * self.model.config.get_text_config().initializer_range
        fresh = mean + 0.2 * std * noise
        fresh[there] = table[ids[there]].float()
        for row, words in enumerate(self.config.action_words):
            said = self.prompt.tokenizer.encode(f" {words}", add_special_tokens=False)
            if words and said:
                fresh[row] = table[torch.tensor(said)].float().mean(0)
        return fresh


def read_base(config: PretrainedConfig, fetch: bool = True) -> Base:
    """Find the base, check that it is the one the config was trained on, and read its prompt.

    `fetch`: ask the hub for a base that is not in its cache."""
    transformers = _transformers()
    folder, revision = find_base(config, fetch)
    source = {"trust_remote_code": config.trust_remote_code, "local_files_only": True}
    try:
        hf_config = transformers.AutoConfig.from_pretrained(folder, **source)
    except Exception as error:
        raise ValueError(
            f"{config.base}: its config.json is not one of a model ({error})."
        ) from error
    family = family_of(hf_config.model_type, config.base)
    if config.cameras and not family.reads_images:
        raise ValueError(
            f"{config.base} ({hf_config.model_type}) reads text alone and the cameras "
            f"{list(config.cameras)} are to be read: name a vision-language model, or no cameras."
        )
    fingerprint = base_fingerprint(folder)
    if config.fingerprint and config.fingerprint != fingerprint:
        raise ValueError(
            f"{config.base} is not the base that the checkpoint was trained on (fingerprint "
            f"{fingerprint[:12]}, trained on {config.fingerprint[:12]}"
            f"{f' at revision {config.revision}' if config.revision else ''}): name that one."
        )
    loader = transformers.AutoProcessor if family.reads_images else transformers.AutoTokenizer
    try:
        processor = loader.from_pretrained(folder, **source)
    except Exception as error:
        raise ValueError(
            f"{config.base}: its {'processor' if family.reads_images else 'tokenizer'} can't be "
            f"read ({error}); copy its files beside the weights."
        ) from error
    if family.reads_images and not hasattr(processor, "image_processor"):
        raise ValueError(
            f"{config.base}: a {family.name} model with a processor that reads no images "
            f"({type(processor).__name__}): copy preprocessor_config.json and "
            "processor_config.json of the model beside its weights."
        )
    rows = hf_config.get_text_config().vocab_size
    tokenizer = getattr(processor, "tokenizer", processor)
    _check_processor(config, family, processor, hf_config)
    prompt = Prompt(config, family, processor, rows)
    highest = max((i for i in prompt.fixed_ids), default=0)
    if highest >= rows:
        raise ValueError(
            f"{config.base}: its prompt has the id {highest} "
            f"({tokenizer.convert_ids_to_tokens(highest)!r}) and the model's embedding {rows} "
            "rows: the processor does not match the model; take both from one source."
        )
    filled = replace(config, revision=revision, fingerprint=fingerprint)
    return Base(filled, folder, family, prompt, hf_config)


def load_base(config: PretrainedConfig, fetch: bool = True) -> LoadedBase:
    """Read the base with its weights, its own dropout off; RuntimeError where memory is short."""
    transformers = _transformers()
    base = read_base(config, fetch)
    check_memory(config, base.folder)
    auto = transformers.AutoModelForCausalLM
    if base.family.reads_images:
        auto = transformers.AutoModelForImageTextToText
    if config.random_weights:
        fresh = auto.from_config(base.hf_config, dtype=getattr(torch, config.dtype))
        no_dropout(fresh)
        return LoadedBase(base.config, base.family, base.prompt, fresh)
    try:
        model, report = auto.from_pretrained(
            base.folder,
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{config.base}: its weights can't be loaded ({error}).") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{config.base}: {len(missing)} weights are missing from its files, first "
            f"{missing[:3]}: the files are incomplete or another model's."
        )
    no_dropout(model)
    return LoadedBase(base.config, base.family, base.prompt, model)


def no_dropout(model: nn.Module) -> None:
    """Set every dropout of a model to 0: behavior and value then compute the same in training."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _check_processor(
    config: PretrainedConfig, family: Family, processor: Any, hf_config: Any
) -> None:
    ours = getattr(hf_config, "image_token_id", getattr(hf_config, "image_token_index", None))
    theirs = getattr(processor, "image_token_id", ours)
    if family.reads_images and ours != theirs:
        raise ValueError(
            f"{config.base}: its processor marks images with id {theirs} and its model with "
            f"{ours}: the processor does not match the model; take both from one source."
        )


def _transformers() -> Any:
    try:
        import peft  # noqa: F401
        import transformers
    except ImportError as error:
        raise ImportError("pretrained models need: pip install 'qsft-robot[vlm]'") from error
    return transformers
