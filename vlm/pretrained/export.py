"""A fine-tuned model as a plain Hugging Face folder: adapters merged, action rows written."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vlm.pretrained.adapters import merge_lora
from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.files import ask_for_no_code, base_fingerprint
from vlm.pretrained.vocab import added_tokens


@torch.no_grad()
def write_merged(model: Any, folder: Path) -> PretrainedConfig:
    """Write weights, tokenizer and processor of a PretrainedModel to `folder`; returns the config
    that opens them. State and return tokens are no part of it: see `small_state_dict`."""
    config, prompt = model.config, model.prompt
    base = copy.deepcopy(model.base)
    merge_lora(base)
    processor = copy.deepcopy(prompt.processor)
    if config.action_tokens == "added":
        tokenizer = getattr(processor, "tokenizer", processor)
        tokenizer.add_tokens(added_tokens(config.vocab_size))
        rows = base.get_input_embeddings().weight.shape[0]
        base.resize_token_embeddings(max(rows, len(tokenizer)), mean_resizing=False)
    ids = torch.tensor(prompt.action_ids, device=model.action_rows.device)
    table = base.get_input_embeddings().weight
    table[ids] = model.action_rows.to(table.dtype)
    if model.head_rows is not None:
        head = base.get_output_embeddings().weight
        head[ids] = model.head_rows.to(head.dtype)
    base.save_pretrained(folder)
    processor.save_pretrained(folder)
    if not config.trust_remote_code:
        ask_for_no_code(folder)
    return replace(
        config,
        base=str(folder),
        revision=None,
        fingerprint=base_fingerprint(folder),
        lora_rank=0,
        train_language_model=False,
        train_images=False,
        random_weights=False,
        random_action_rows=False,
    )
