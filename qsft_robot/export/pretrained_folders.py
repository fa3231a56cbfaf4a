"""Base model and processor inside the folders of fine-tuned pretrained models."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsft_robot.algorithms.log_probs import legal_log_softmax
from qsft_robot.algorithms.networks import PolicyNetworks, inference, teacher_forced
from qsft_robot.files import temporary_sibling
from qsft_robot.parts.models import carry_base, load_model, save_processor
from qsft_robot.parts.tokenizers import load_tokenizer
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.trust import Trust
from tokenizers_action.protocol import TextTokenizer, legal_along

# Folders inside a checkpoint and an exported policy.
PROCESSOR, BASE = "processor", "base"
# Merging an adapter rounds its sum with the weights once. Log-probabilities of legal action tokens
# may move by this much (nats); small models moved by 1e-6 (float32) and 0.02 (bfloat16).
MERGE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
PROBES = 4


@contextmanager
def processor_beside(checkpoint: Path, networks: PolicyNetworks) -> Iterator[dict[str, Path]]:
    """The tokenizer and image preprocessing of a pretrained model, in a folder to be moved into
    its checkpoint; nothing for a model that has none."""
    model: Any = networks.trunks()[0]
    if not hasattr(model, "prompt"):
        yield {}
        return
    with _temporary(checkpoint) as folder:
        save_processor(model, folder / PROCESSOR)
        yield {PROCESSOR: folder / PROCESSOR}


@contextmanager
def self_contained(
    networks: PolicyNetworks, description: PolicyDescription, out: Path, trust: Trust
) -> Iterator[tuple[PolicyNetworks, PolicyDescription, dict[str, Path]]]:
    """The networks and description of a policy that needs no base elsewhere, and the folders to be
    moved into it.

    One network that acts is merged with its base, so that the folder inside is a plain Hugging
    Face model. Two networks share a copy of the base as it was, and keep their adapters; so does
    one whose merged log-probabilities are further off than MERGE_TOLERANCE.
    """
    trunks: list[Any] = [*networks.trunks()]
    if not hasattr(trunks[0], "prompt"):
        yield networks, description, {}
        return
    with _temporary(out) as folder:
        if len(trunks) == 1:
            merged = carry_base(trunks[0], folder / BASE, merged=True)
            told = replace(description, model=merged)
            whole, error = _merged(networks, told, folder, trust)
            limit = MERGE_TOLERANCE[trunks[0].config.dtype]
            if error <= limit:
                told = replace(description, model={**merged, "merge_error": error})
                yield whole, told, {BASE: folder / BASE}
                return
            print(
                f"merging the adapter would move log-probabilities by {error:.2g} (limit "
                f"{limit:g}): the policy keeps it beside its base.",
                file=sys.stderr,
            )
            shutil.rmtree(folder / BASE)
        beside = carry_base(trunks[0], folder / BASE, merged=False)
        yield networks, replace(description, model=beside), {BASE: folder / BASE}


def _merged(
    networks: PolicyNetworks, description: PolicyDescription, folder: Path, trust: Trust
) -> tuple[PolicyNetworks, float]:
    """The networks on the merged base of a folder, and the largest change of a log-probability."""
    trunk: Any = networks.trunks()[0]
    model: Any = load_model(description.model, folder, trust)
    model.load_state_dict(trunk.small_state_dict())
    model.to(next(trunk.parameters()).device)
    whole = PolicyNetworks(model if networks.behavior is not None else None)
    whole.value = None if networks.behavior is not None else model
    if networks.head_name is not None:
        whole.add_head(networks.head_name, networks.head)
    batch = probe(trunk, description)
    logs = [_log_probs(x, batch) for x in (trunk, model)]
    return whole, float((logs[0] - logs[1]).abs().max())


def probe(model: Any, description: PolicyDescription) -> TokenBatch:
    """A few decisions in made-up contexts: noise for images and state, instructions of the logs."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    tokenizer, words = load_tokenizer(description.tokenizer), model.encode_words
    texts = (list(description.data.instructions) or [""])[:PROBES]
    text_ids = torch.stack([torch.from_numpy(words(texts[i % len(texts)])) for i in range(PROBES)])
    if isinstance(tokenizer, TextTokenizer):
        ids = torch.zeros(PROBES, 0, dtype=torch.long)
        for _ in range(tokenizer.n_tokens):
            weight = torch.from_numpy(tokenizer.legal_tokens(ids.numpy())).float()
            ids = torch.cat([ids, torch.multinomial(weight, 1, generator=generator)], 1)
    else:
        actions = (
            2 * torch.rand(PROBES, tokenizer.horizon, tokenizer.action_dim, generator=generator) - 1
        )
        ids = torch.from_numpy(tokenizer.encode(actions.numpy()))
    images = {
        camera: torch.randint(
            256,
            (PROBES, config.history, *config.image_size, 3),
            generator=generator,
            dtype=torch.uint8,
        )
        for camera in config.cameras
    }
    return TokenBatch(
        state=torch.randn(PROBES, config.history, config.state_dim, generator=generator),
        frame_mask=torch.ones(PROBES, config.history, dtype=torch.bool),
        text_ids=text_ids,
        action_ids=ids,
        token_mask=torch.ones_like(ids, dtype=torch.bool),
        legal=torch.from_numpy(legal_along(tokenizer, ids.numpy())),
        images=images or None,
    ).to(next(model.parameters()).device)


def _log_probs(model: Any, batch: TokenBatch) -> Tensor:
    with inference(model):
        return legal_log_softmax(teacher_forced(model, batch).logits, batch.legal)


@contextmanager
def _temporary(beside: Path) -> Iterator[Path]:
    """A folder beside the one that is to be written, gone afterwards."""
    folder = temporary_sibling(beside)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
