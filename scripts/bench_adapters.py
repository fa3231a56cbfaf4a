"""A pretrained language model's decision with two adapters against one, and with the action rows
of its head against the whole head."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench_rows import Row, compare, in_turns, seconds_of

from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.config.acting import ActingConfig
from qsft_robot.parts.models import build_model, build_tiny_model
from qsft_robot.policy.decider import Decider

GROUP = "adapters"
VOCABULARY = 49_152  # of SmolVLM
TOKENS = 7
UNIT = "ms ({}, batch {}, {} M {} weights, LoRA rank 16)"
# Type of the base's weights -> how far outputs by one pass of a pair and by two passes may lie
# apart, in units of the largest. Published VLMs come in bfloat16.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


def write_base(folder: Path, width: int, depth: int, vocabulary: int) -> Path:
    """A Llama with random weights and a vocabulary of real size."""
    from transformers import AutoModelForCausalLM

    base = build_tiny_model("llama", folder, width=width, depth=depth)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(vocabulary)
    model.save_pretrained(base, safe_serialization=True)
    return base


def build_twins(base: Path, dtype: str) -> PolicyNetworks:
    """Behavior and value, two adapters on one base that have been trained apart."""
    behavior = build_model(
        "pretrained", base=str(base), dtype=dtype, vocab_size=256, n_tokens=TOKENS, state_dim=20
    )
    networks = PolicyNetworks(behavior)
    networks.value = behavior.twin()
    with torch.no_grad():
        for model in (networks.behavior, networks.value):
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02)
    return networks.eval()


def contexts_of(model: Any, batch: int) -> tuple[Any, ...]:
    """An instruction and a state, as prefill takes them."""
    words = torch.from_numpy(model.encode_words("put the red cube in the blue bowl"))
    state = torch.randn(batch, 1, model.config.state_dim)
    seen = torch.ones(batch, 1, dtype=torch.bool)
    return None, state, seen, words.expand(batch, -1)


class WholeHead:
    """A model whose logits come from every row of the head; the action ids are picked after."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config
        self.rows = model.base.get_output_embeddings().weight
        self.ids = torch.randperm(len(self.rows))[: model.config.vocab_size]

    def output(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the action ids."""
        return F.linear(hidden, self.rows)[..., self.ids]


def decode(models: list[Any], context: tuple[Any, ...]) -> Callable[[], float]:
    """A call that reads the context and gives the seconds of the tokens after it alone."""
    ids = torch.zeros(len(context[3]), dtype=torch.int64)

    def call() -> float:
        with torch.inference_mode():
            pair = models[0].together(models[1:]) if len(models) > 1 else None
            _, cache = pair.prefill([context] * 2) if pair else models[0].prefill(*context)

            def steps() -> None:
                for _ in range(TOKENS - 1):
                    cache.decode(ids)

            return seconds_of(steps)

    return call


def check_pair(networks: PolicyNetworks, context: tuple[Any, ...], tolerance: float) -> None:
    """RuntimeError unless one pass for both gives what each gives alone."""
    models = [networks.behavior, networks.value]
    together, _ = models[0].together(models[1:]).prefill([context] * 2)
    for model, ours in zip(models, together, strict=True):
        alone = model.prefill(*context)[0].logits
        if (ours.logits - alone).abs().max() > tolerance * alone.abs().max():
            raise RuntimeError("two adapters in one pass differ from each alone.")


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """k = 1, two adapters, and the head."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    width, depth, vocabulary = (64, 2, 2000) if quick else (1024, 6, VOCABULARY)
    repeats = 2 if quick else 15
    say("building the model")
    base = write_base(folder / "base", width, depth, vocabulary)
    for dtype, tolerance in TOLERANCE.items():
        networks = build_twins(base, dtype)
        say(f"timing decisions in {dtype}")
        yield from decision_rows(networks, dtype, tolerance, repeats, say)
        if dtype == "float32":
            say("timing the head")
            yield from head_rows(networks.value, width, vocabulary, repeats)


def decision_rows(
    networks: PolicyNetworks,
    dtype: str,
    tolerance: float,
    repeats: int,
    say: Callable[[str], None],
) -> Iterator[Row]:
    """k = 1 against one network, two adapters against one."""
    behavior, value = networks.behavior, networks.value
    assert behavior is not None
    assert value is not None
    language = behavior.base.get_decoder()
    millions = round(sum(p.numel() for p in language.parameters()) / 1e6)
    context = contexts_of(behavior, 1)
    check_pair(networks, context, tolerance)

    def decide(acting: ActingConfig, given: PolicyNetworks) -> Callable[[], float]:
        decider = Decider(given, acting)
        noise = torch.zeros(1, 1, TOKENS, 256)
        everything = torch.ones(1, 256, dtype=torch.bool)
        rounds = [context] * len(decider.trunks)
        return lambda: seconds_of(lambda: decider.decide(rounds, lambda prefix: everything, noise))

    alone = PolicyNetworks(None)
    alone.value = value
    one, two = ActingConfig(k=1.0), ActingConfig(k=2.0)
    calls = {
        "k = 1": decide(one, networks),
        "one network": decide(one, alone),
        "k = 2": decide(two, networks),
        "decode one": decode([value], context),
        "decode two": decode([behavior, value], context),
    }
    with torch.inference_mode():
        for call in calls.values():
            call()
        found = {k: 1e3 * x for k, x in in_turns(calls, repeats).items()}
    say(", ".join(f"{name} {x:.1f} ms" for name, x in found.items()))
    end = "" if dtype == "float32" else f"_{dtype}"
    for name, ours, peer, what, aim in (
        ("decision_k1_vs_one_network", "k = 1", "one network", "decision of 7 tokens", 1.0),
        ("decode_two_adapters_vs_one", "decode two", "decode one", "6 cached tokens", 1.25),
        ("decision_two_adapters_vs_one", "k = 2", "one network", "decision of 7 tokens", None),
    ):
        unit = UNIT.format(what, 1, millions, dtype)
        yield compare(GROUP, name + end, found[ours], found[peer], unit, aim, "lower")


def head_rows(value: Any, width: int, vocabulary: int, repeats: int) -> Iterator[Row]:
    """The action rows of the head against all of its rows."""
    whole = WholeHead(value)
    for what, batch in (("6 tokens one by one", 1), ("one pass over 7 tokens", 64)):
        hidden = torch.randn(batch, 1 if batch == 1 else TOKENS, width)
        count = TOKENS - 1 if batch == 1 else 1
        heads = {
            "action rows": lambda h=hidden, c=count: [value.output(h).logits for _ in range(c)],
            "whole head": lambda h=hidden, c=count: [whole.output(h) for _ in range(c)],
        }
        with torch.inference_mode():
            timed = in_turns(
                {k: lambda call=call: 1e3 * seconds_of(call) for k, call in heads.items()}, repeats
            )
        name = "decode" if batch == 1 else "batch"
        unit = f"ms ({what}, batch {batch}, 256 of {vocabulary} rows of width {width})"
        yield compare(
            GROUP,
            f"{name}_action_rows_vs_whole_head",
            timed["action rows"],
            timed["whole head"],
            unit,
            None,
            "higher",
            ratio="peer / ours",
        )
