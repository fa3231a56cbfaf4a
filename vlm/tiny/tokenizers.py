"""Tokenizers of small models: byte-level BPE, trained on sentences about tabletops."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

COLORS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple", "grey", "brown")
THINGS = (
    "cube", "bowl", "block", "drawer", "table", "plate", "cup", "box", "button", "handle", "lid",
    "sponge", "spoon", "tray",
)  # fmt: skip
PLACES = ("left of", "right of", "behind", "in front of", "near", "on top of", "under", "inside")
SIDES = ("the front camera", "the wrist camera", "the robot arm", "the gripper")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS = (
    "START{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
LLAVA = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}"
    "{% endfor %}{% for part in message['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def sentences() -> list[str]:
    """The text that the tokenizers of small models are trained on, one line an entry."""
    lines = [f"State: {' '.join(str(i) for i in range(n, n + 8))}\n" for n in range(0, 256, 8)]
    pairs = [f"{colour} {thing}" for colour, thing in itertools.product(COLORS, THINGS)]
    for i, pair in enumerate(pairs):
        other, place = pairs[(7 * i + 3) % len(pairs)], PLACES[i % len(PLACES)]
        lines.append(f"the {pair} is {place} the {other}.\n")
        lines.append(f"put the {pair} in the {other}, seen from {SIDES[i % len(SIDES)]}\n")
        lines.append(f"Instruction: open the {pair} and close the {other}\nAction:\n")
    return lines


def train_tokenizer(lines: Iterable[str], vocab_size: int, special: list[str], **names: str) -> Any:
    """A byte-level BPE tokenizer whose special tokens come first; `names` are bos_token, ..."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def llama_tokenizer(lines: list[str], vocab_size: int, more: list[str]) -> Any:
    """As Llama's: every text begins with <s>; `more` are further special tokens."""
    from tokenizers import processors

    tokenizer = train_tokenizer(
        lines, vocab_size, ["<unk>", "<s>", "</s>", "<pad>", *more],
        unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip
    # As Llama's: the first token of every text is <s>.
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def chatml_tokenizer(lines: list[str], vocab_size: int) -> Any:
    """As Qwen's: chats in ChatML, special tokens for images."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = train_tokenizer(
        lines, vocab_size, special, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def gemma_tokenizer(lines: list[str], vocab_size: int) -> Any:
    """With Gemma's special tokens."""
    return train_tokenizer(
        lines, vocab_size, ["<pad>", "<eos>", "<bos>", "<unk>"],
        pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
    )  # fmt: skip
