"""Pretrained models of every family keep the training contract of the RT model."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")
pytest.importorskip("peft")

from vlm.decision import decide_together
from vlm.pretrained import PretrainedModel
from vlm.pretrained_config import PretrainedConfig
from vlm.tiny_models import BUILDERS, build_tiny_model

TEXT = ("gpt2", "llama", "qwen2", "qwen3")
READS_IMAGES = tuple(name for name in BUILDERS if name not in TEXT)
INSTRUCTIONS = ("put the red cube in the blue bowl", "open the drawer", "")
N, V, S, SIZE = 5, 32, 3, (24, 32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return cache(lambda family: build_tiny_model(family, root / family))


@pytest.fixture(scope="module")
def models(folders):
    @cache
    def model(family, **changes) -> PretrainedModel:
        torch.manual_seed(0)
        return PretrainedModel(config_of(folders(family), family, **changes)).eval()

    return model


def config_of(folder: Path, family: str, **changes) -> PretrainedConfig:
    cameras = ("front_image", "wrist_image") if family in READS_IMAGES else ()
    config = PretrainedConfig(
        str(folder), vocab_size=V, n_tokens=N, state_dim=S, cameras=cameras, image_size=SIZE,
        history=2, lora_rank=4, text_length=40, instructions=INSTRUCTIONS,
    )  # fmt: skip
    return replace(config, **changes)


@dataclass
class Batch:
    images: dict[str, torch.Tensor]
    features: torch.Tensor | None
    state: torch.Tensor
    frame_mask: torch.Tensor
    text_ids: torch.Tensor
    action_ids: torch.Tensor

    @property
    def context(self):
        return self.features, self.state, self.frame_mask, self.text_ids


def batch_of(model: PretrainedModel) -> Batch:
    generator = torch.Generator().manual_seed(1)
    text_ids = torch.from_numpy(np.stack([model.encode_words(t) for t in INSTRUCTIONS]))
    images = {
        camera: torch.randint(0, 256, (3, *SIZE, 3), dtype=torch.uint8, generator=generator)
        for camera in model.config.cameras
    }
    features = None
    if images:
        newest = model.encode_images(images, text_ids)
        older = torch.randn(newest.shape, generator=generator) * newest.std()
        features = torch.stack([older, newest], 1)
    frame_mask = torch.ones(3, 2, dtype=torch.bool)
    frame_mask[1, 0] = False
    return Batch(
        images,
        features,
        torch.randn(3, 2, S, generator=generator),
        frame_mask,
        text_ids,
        torch.randint(0, V, (3, N), generator=generator),
    )


def trained(model: PretrainedModel, steps: int = 2) -> PretrainedModel:
    """The model after a few steps on its own batch; its adapter is no longer zero."""
    model.train()
    batch = batch_of(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    for _ in range(steps):
        logits = model(*batch.context, batch.action_ids).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch.action_ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def cached_logits(model, context, action_ids):
    output, kept = model.prefill(*context)
    logits = [output.logits]
    for i in range(action_ids.shape[1] - 1):
        logits.append(model.decode(action_ids[:, i], kept).logits)
    return torch.cat(logits, 1)


@pytest.fixture(params=list(BUILDERS))
def family(request) -> str:
    return request.param


@torch.no_grad()
def test_decoding_with_a_cache_equals_the_whole_forward_pass(models, family):
    model = models(family)
    batch = batch_of(model)
    whole = model(*batch.context, batch.action_ids).logits
    cached = cached_logits(model, batch.context, batch.action_ids)
    torch.testing.assert_close(cached, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", READS_IMAGES)
@torch.no_grad()
def test_the_sequence_is_that_of_the_models_own_template_processor_and_forward(models, family):
    model = models(family, history=1, state_dim=0)
    prompt, processor, batch = model.prompt, model.prompt.processor, batch_of(models(family))
    cameras, rows = model.config.cameras, torch.tensor(model.prompt.action_ids)
    # transformers' own way, one row: template, processor, whole model with its whole head.
    content = [{"type": "image"}] * 2 + [{"type": "text", "text": INSTRUCTIONS[0]}]
    text = model.family.placeholder * 2 + INSTRUCTIONS[0]
    if model.family.chat_template:
        message = {"role": "user", "content": content}
        text = processor.apply_chat_template([message], add_generation_prompt=True)
    images = [batch.images[c][0].permute(2, 0, 1) for c in cameras]
    given = processor(
        text=[text],
        images=[images] if model.family.nested_images else images,
        images_kwargs=prompt.image_arguments,
        add_special_tokens=not text.startswith(str(processor.tokenizer.bos_token)),
        return_tensors="pt",
    )
    given = {name: x for name, x in given.items() if name != "labels"}
    ids = batch.action_ids[:1]
    given["input_ids"] = torch.cat([given["input_ids"], rows[ids[:, :-1]]], 1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    for name in {"mm_token_type_ids", "token_type_ids"} & set(given):
        given[name] = F.pad(given[name], (0, N - 1), value=int(name == "token_type_ids"))
    expected = model.base(**given).logits[:, -N:, rows]
    # Ours.
    features = model.encode_images({c: batch.images[c][:1] for c in cameras})[:, None]
    seen = torch.ones(1, 1, dtype=torch.bool)
    logits = model(features, None, seen, batch.text_ids[:1], ids).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
