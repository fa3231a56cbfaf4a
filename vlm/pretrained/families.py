"""Differences between families of pretrained models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """The facts about one family that the code can't read from a model's own files."""

    name: str
    # Whether it reads images (AutoModelForImageTextToText) or text alone (AutoModelForCausalLM).
    reads_images: bool = True
    # One image in a prompt, as the family's processor expects it.
    placeholder: str = ""
    # What stands before the images, and the text after them, where the model has no chat template.
    plain: tuple[str, str] = ("", "{instruction}\nAction:")
    # False: the family's models were trained on plain prompts, whatever their tokenizer offers.
    chat_template: bool = True
    # Position of the first token.
    first_position: int = 0
    # Image tokens have a row and a column, and an image advances the position by its longer side.
    grid_positions: bool = False
    # The prompt attends to itself in both directions; action tokens are causal.
    bidirectional_prompt: bool = False
    # What its image processor is called with.
    image_arguments: Mapping[str, Any] = field(default_factory=dict)
    # Each image is a list of its own.
    nested_images: bool = False


_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_QWEN_PLAIN = (
    "<|im_start|>user\n",
    "{instruction}<|im_end|>\n<|im_start|>assistant\n",
)
# What chat templates of some families ask for beside the messages: today's date (a prompt that
# changes from day to day is another prompt), and whether the answer begins with thoughts.
TEMPLATE_ARGUMENTS = {"date_string": "26 Jul 2024", "enable_thinking": False}
# One tile an image: robot cameras are small, and tiles multiply the tokens.
_ONE_TILE = {"do_image_splitting": False}
_IDEFICS = Family(
    "Idefics3",
    placeholder="<image>",
    plain=("<|begin_of_text|>User:", "{instruction}<end_of_utterance>\nAssistant:"),
    image_arguments=_ONE_TILE,
    nested_images=True,
)
_TEXT = Family("causal language model", reads_images=False)

# transformers' model_type -> family.
FAMILIES: dict[str, Family] = {
    "paligemma": Family(
        "PaliGemma",
        placeholder="<image>",
        plain=("", "<bos>{instruction}\n"),
        chat_template=False,
        first_position=1,
        bidirectional_prompt=True,
    ),
    "idefics3": _IDEFICS,
    "smolvlm": Family(
        "SmolVLM",
        placeholder="<image>",
        plain=("<|im_start|>User:", "{instruction}<end_of_utterance>\nAssistant:"),
        image_arguments=_ONE_TILE,
        nested_images=True,
    ),
    "qwen2_5_vl": Family(
        "Qwen2.5-VL", placeholder=_QWEN_IMAGE, plain=_QWEN_PLAIN, grid_positions=True
    ),
    "qwen3_vl": Family("Qwen3-VL", placeholder=_QWEN_IMAGE, plain=_QWEN_PLAIN, grid_positions=True),
    "llava_next": Family(
        "LLaVA-NeXT", placeholder="<image>", plain=("USER: ", "\n{instruction} ASSISTANT:")
    ),
    "gpt2": _TEXT,
    "llama": _TEXT,
    "mistral": _TEXT,
    "qwen2": _TEXT,
    "qwen3": _TEXT,
    "gemma": _TEXT,
    "gemma2": _TEXT,
}


def family_of(model_type: str, base: str) -> Family:
    """The family of a transformers `model_type`; ValueError lists those that are known."""
    if model_type not in FAMILIES:
        raise ValueError(
            f"{base} is a {model_type!r} model, a family whose prompt and image layout are not "
            f"described here. There are: {', '.join(FAMILIES)}."
        )
    return FAMILIES[model_type]
