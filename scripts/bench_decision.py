"""Time one decision of action tokens against no cache and against transformers' generate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from bench_rows import Row, compare, in_turns, seconds_of
from transformers import GPT2Config, GPT2LMHeadModel, LogitsProcessor, LogitsProcessorList
from transformers.utils import logging

from qsft_robot.parts.models import build_model

GROUP = "decision"
UNIT = "ms a decision (7 tokens, batch 1, legal mask)"


class LegalTokens(LogitsProcessor):
    """The same legal mask, as `generate` takes it."""

    def __init__(self, legal: Callable[[torch.Tensor], torch.Tensor], prompt_length: int) -> None:
        self.legal, self.prompt_length = legal, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        allowed = self.legal(input_ids[:, self.prompt_length :])
        return scores.masked_fill(~allowed, float("-inf"))


def build_peer(model: Any) -> GPT2LMHeadModel:
    """A GPT-2 of the same width, depth, heads, perceptron, vocabulary and context length."""
    config = model.config
    peer = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context_length + config.n_tokens,
            n_embd=config.width,
            n_layer=config.depth,
            n_head=config.heads,
            n_inner=round(config.mlp_ratio * config.width),
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    return peer.eval()


def decide_without_cache(
    model: Any,
    context: tuple,
    legal: Callable[[torch.Tensor], torch.Tensor],
    choose: Callable[[torch.Tensor, int], torch.Tensor],
) -> torch.Tensor:
    """The same decision by one whole forward pass a token."""
    ids = torch.zeros(len(context[3]), model.config.n_tokens, dtype=torch.int64)
    with torch.inference_mode():
        for i in range(model.config.n_tokens):
            logits = model(*context, ids).logits[:, i]
            ids[:, i] = choose(logits.masked_fill(~legal(ids[:, :i]), float("-inf")), i)
    return ids


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """One decision with the cache against generate and against whole forward passes."""
    logging.set_verbosity_error()
    torch.manual_seed(0)
    # Seven tokens (six of motion, one gripper) of 256 bins; two cameras of 8 tokens, and state.
    model = build_model(
        "rt_tiny", vocab_size=256, n_tokens=7, state_dim=20, cameras=("front_image", "wrist_image")
    ).eval()
    config = model.config
    # The instruction's seven words by their numbers, then padding.
    text_ids = torch.zeros(1, config.text_length, dtype=torch.int64)
    text_ids[0, :7] = torch.randint(1, config.text_buckets, (7,))
    context = (
        torch.randn(1, 1, config.frame_image_tokens, config.width),
        torch.randn(1, 1, config.state_dim),
        torch.ones(1, 1, dtype=torch.bool),
        text_ids,
    )
    # A legal set that depends on the position: the gripper has two bins.
    tables = torch.ones(config.n_tokens, 1, config.vocab_size, dtype=torch.bool)
    tables[-1, :, 2:] = False

    def legal(prefix: torch.Tensor) -> torch.Tensor:
        return tables[prefix.shape[1]].expand(len(prefix), -1)

    def choose(logits: torch.Tensor, i: int) -> torch.Tensor:
        return logits.argmax(-1)

    peer = build_peer(model)
    prompt = torch.randint(0, config.vocab_size, (1, config.context_length))
    ours = model.decide(*context, legal, choose)
    if not torch.equal(ours, decide_without_cache(model, context, legal, choose)):
        raise RuntimeError("the cached decision differs from the whole forward passes")

    def generate() -> torch.Tensor:
        return peer.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=config.n_tokens,
            do_sample=False,
            use_cache=True,
            logits_processor=LogitsProcessorList([LegalTokens(legal, prompt.shape[1])]),
        )

    contestants = {
        "ours": lambda: model.decide(*context, legal, choose),
        "no cache": lambda: decide_without_cache(model, context, legal, choose),
        "generate": generate,
    }
    for call in contestants.values():
        for _ in range(2 if quick else 20):
            call()
    say("timing")
    found = in_turns(
        {name: lambda call=call: 1e3 * seconds_of(call) for name, call in contestants.items()},
        3 if quick else 300,
    )
    say(", ".join(f"{name} {x:.2f} ms" for name, x in found.items()))
    for name, against, aim in (
        ("decision_vs_transformers_generate", "generate", 4),
        ("decision_vs_no_cache", "no cache", 1),
    ):
        yield compare(
            GROUP, name, found["ours"], found[against], UNIT, aim, "higher", ratio="peer / ours"
        )
