"""Time one decision of action tokens against no cache and against transformers' generate."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LogitsProcessor, LogitsProcessorList
from transformers.utils import logging

from vlm.rt import RTModel, rt_tiny
from vlm.words import hash_words

COMMAND = "python scripts/bench_decision.py"


class LegalTokens(LogitsProcessor):
    """The same legal mask, as `generate` takes it."""

    def __init__(self, legal: Callable[[torch.Tensor], torch.Tensor], prompt_length: int) -> None:
        self.legal, self.prompt_length = legal, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        allowed = self.legal(input_ids[:, self.prompt_length :])
        return scores.masked_fill(~allowed, float("-inf"))


def build_peer(model: RTModel) -> GPT2LMHeadModel:
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
    model: RTModel,
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


def time_interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each call; they take turns, so that a slow spell meets them all."""
    for call in calls.values():
        for _ in range(5):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print one JSON row a comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200, help="decisions timed of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    torch.manual_seed(arguments.seed)

    # Seven tokens (six of motion, one gripper) of 256 bins; two cameras of 8 tokens, and state.
    model = rt_tiny(256, 7, 20, cameras=("front_image", "wrist_image")).eval()
    config = model.config
    context = (
        torch.randn(1, 1, config.frame_image_tokens, config.width),
        torch.randn(1, 1, config.state_dim),
        torch.ones(1, 1, dtype=torch.bool),
        torch.from_numpy(hash_words("put the red cube in the blue bowl"))[None],
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
        raise SystemExit("the cached decision differs from the whole forward passes")

    def generate() -> torch.Tensor:
        return peer.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=config.n_tokens,
            do_sample=False,
            use_cache=True,
            logits_processor=LogitsProcessorList([LegalTokens(legal, prompt.shape[1])]),
        )

    milliseconds = time_interleaved(
        {
            "ours": lambda: model.decide(*context, legal, choose),
            "no_cache": lambda: decide_without_cache(model, context, legal, choose),
            "generate": generate,
        },
        arguments.repeats,
    )
    for name, peer_name, aim in (
        ("decision_vs_transformers_generate", "generate", 4.0),
        ("decision_vs_no_cache", "no_cache", 1.0),
    ):
        row = {
            "name": name,
            "ours": round(milliseconds["ours"], 3),
            "peer": round(milliseconds[peer_name], 3),
            "ratio": round(milliseconds[peer_name] / milliseconds["ours"], 2),
            "unit": "ms a decision (7 tokens, batch 1, median)",
            "aim": aim,
            "better": "higher",
            "command": COMMAND,
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
