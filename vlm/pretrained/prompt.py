"""The prompt of a pretrained model: which ids stand where, for its family and its processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.families import TEMPLATE_ARGUMENTS, Family
from vlm.pretrained.vocab import added_ids, least_used_ids

PADDING = -1
_MARK = "<<instruction>>"
# A state number as text: its place among so many steps from -LIMIT to LIMIT deviations.
STATE_STEPS, STATE_LIMIT = 256, 3.0


class Prompt:
    """Prefix, then per frame its images and its state, then the text with the instruction.

    `rows` is the number of rows of the model's embedding.
    """

    def __init__(self, config: PretrainedConfig, family: Family, processor: Any, rows: int) -> None:
        self.family, self.processor, self.base = family, processor, config.base
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.length, self.cameras = config.text_length, config.cameras
        prefix, self._between, self._before, self._after = self._template()
        self.prefix_ids: list[int] = self._prefix(prefix)
        # Of one image: ids before and after its tokens, their number, and their rows and columns.
        self.image_before: list[int] = []
        self.image_after: list[int] = []
        self.image_tokens = 0
        self.image_grid: tuple[int, int] | None = None
        self._anchor = ""
        if config.cameras:
            self._read_image_layout(config.image_size)
        # Text of a frame's state: ids before, a table of [steps, w] padded ids, ids after.
        self.state_before: list[int] = []
        self.state_after: list[int] = []
        self.state_table = np.zeros((0, 0), np.int64)
        if config.state_dim and config.state_as == "text":
            self.state_before, self.state_after = self._ids("State:"), self._ids("\n")
            numbers = [self._ids(f" {i}") for i in range(STATE_STEPS)]
            width = max(len(ids) for ids in numbers)
            self.state_table = np.full((STATE_STEPS, width), PADDING, np.int64)
            for i, ids in enumerate(numbers):
                self.state_table[i, : len(ids)] = ids
        self.action_ids: list[int] = []
        taken = self.fixed_ids.union(*(self._text_ids(text) for text in config.instructions))
        if config.action_tokens == "added":
            self.action_ids = added_ids(self.tokenizer, config.vocab_size)
        else:
            self.action_ids = least_used_ids(self.tokenizer, config.vocab_size, rows, taken)
        self._reserved = frozenset(self.action_ids)

    @property
    def fixed_ids(self) -> set[int]:
        """Every id of the prompt that no instruction decides."""
        ids = {*self.prefix_ids, *self.image_before, *self.image_after}
        ids |= {*self.state_before, *self.state_after, *self.state_table.flatten().tolist()}
        return (ids | set(self._text_ids(""))) - {PADDING}

    def encode_words(self, instruction: str) -> Int64[np.ndarray, " l"]:
        """The ids of the text after the images, the instruction in it; padded on the right by -1.

        ValueError where it is too long, or where it produces an action token.
        """
        ids = self._text_ids(instruction)
        if len(ids) > self.length:
            raise ValueError(
                f"the prompt with the instruction {instruction!r} has {len(ids)} tokens and the "
                f"model reads {self.length}: shorten it, or set text_length to {len(ids)} or more."
            )
        clash = sorted(self._reserved.intersection(ids))
        if clash:
            token = self.tokenizer.convert_ids_to_tokens(clash[0])
            raise ValueError(
                f"the instruction {instruction!r} contains {token!r} (id {clash[0]}), which serves "
                "as an action token: name it in `instructions`, or use action_tokens 'added'."
            )
        padded = np.full(self.length, PADDING, np.int64)
        padded[: len(ids)] = ids
        return padded

    def encode_steps(
        self, instruction: str, steps: Sequence[tuple[str, Sequence[str]]]
    ) -> Int64[np.ndarray, " l"]:
        """The ids of the prompt with the last steps, each a command and the texts that followed,
        newest last. The oldest are left out, then the newest is cut at its end, until it fits."""
        lines = [_step_text(command, texts) for command, texts in steps]
        while (
            len(lines) > 1 and len(self._text_ids("\n".join([instruction, *lines]))) > self.length
        ):
            del lines[0]
        text = "\n".join([instruction, *lines])
        while len(ids := self._text_ids(text)) > self.length and " " in text[len(instruction) :]:
            over = max(1, (len(ids) - self.length) // 2)
            text = " ".join(text.split(" ")[:-over])
        return self.encode_words(text)

    def describe(self) -> dict[str, Any]:
        """The description from which the same prompt is built elsewhere; JSON types."""
        images = getattr(self.processor, "image_processor", None)
        return {
            "family": self.family.name,
            "prefix": self.tokenizer.decode(self.prefix_ids),
            "text": f"{self._before}{{instruction}}{self._after}",
            "image_before": self.tokenizer.decode(self.image_before),
            "image_after": self.tokenizer.decode(self.image_after),
            "image_tokens": self.image_tokens,
            "image_arguments": dict(self.family.image_arguments),
            "image_processor": None if images is None else _plain(images.to_dict()),
            "action_ids": list(self.action_ids),
        }

    def pixels(self, images: list[torch.Tensor]) -> dict[str, Any]:
        """The output of the model's own image processor for uint8 images [3, h, w]."""
        given: Any = [[image] for image in images] if self.family.nested_images else images
        arguments = self.image_arguments
        return dict(self.processor.image_processor(given, return_tensors="pt", **arguments))

    @property
    def image_arguments(self) -> dict[str, Any]:
        """The arguments of the image processor."""
        arguments = dict(self.family.image_arguments)
        if "do_image_splitting" in arguments:
            # Straight to the size of the one tile, not by way of the size that tiles are cut from.
            largest = self.processor.image_processor.max_image_size["longest_edge"]
            arguments["size"] = {"longest_edge": largest}
        return arguments

    def _template(self) -> tuple[str, str, str, str]:
        """Text before the images, after each of them, before the instruction, and after it."""
        # Two images show what stands between images, however many there will be.
        family, images = self.family, 2 * bool(self.cameras)
        source = self.processor
        if not getattr(source, "chat_template", None):
            source = self.tokenizer
        if not family.chat_template or not getattr(source, "chat_template", None):
            before, after = family.plain[1].split("{instruction}")
            return family.plain[0], "", before, after
        content: Any = _MARK
        if family.reads_images:
            content = [{"type": "image"}] * images + [{"type": "text", "text": _MARK}]
        # A processor warns of arguments that its template does not read.
        read = {n: v for n, v in TEMPLATE_ARGUMENTS.items() if n in str(source.chat_template)}
        try:
            # A template is a program: transformers runs it in Jinja's sandbox.
            text = source.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=False,
                add_generation_prompt=True,
                **read,
            )
        except Exception as error:  # Jinja's errors, and whatever a template makes of its data
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self.base}: its chat template fails: {reason}") from error
        if text.count(_MARK) != 1 or text.count(family.placeholder or _MARK) != max(images, 1):
            raise ValueError(
                f"{self.base}: its chat template does not show one user message with {images} "
                f"image(s) marked {family.placeholder!r} and its text: {text!r}"
            )
        head, after = text.split(_MARK)
        if not images:
            return head, "", "", after
        prefix, between, before = head.split(family.placeholder)
        return prefix, between, before.removeprefix(between), after

    def _prefix(self, text: str) -> list[int]:
        if not self.family.chat_template:
            return self._ids(text)
        begin = self.tokenizer.bos_token
        own = bool(begin) and text.startswith(begin)
        ids = self.tokenizer.encode(text, add_special_tokens=not own)
        end = self.tokenizer.eos_token_id
        while ids and ids[-1] == end and not text.endswith(str(self.tokenizer.eos_token)):
            ids = ids[:-1]
        return ids

    def _read_image_layout(self, size: tuple[int, int]) -> None:
        blank = torch.zeros(3, *size, dtype=torch.uint8)
        given: Any = [[blank]] if self.family.nested_images else [blank]
        arguments = self.image_arguments
        try:
            read = self.processor(
                text=[self.family.placeholder],
                images=given,
                add_special_tokens=False,
                images_kwargs=arguments,
            )
        except Exception as error:
            raise ValueError(
                f"{self.base}: its processor ({type(self.processor).__name__}) can't read an image "
                f"of {size} in the prompt of a {self.family.name} model: {error}"
            ) from error
        ids = [int(i) for i in read["input_ids"][0]]
        image_id = self.processor.image_token_id
        at = [i for i, token in enumerate(ids) if token == image_id]
        if not at or at[-1] - at[0] + 1 != len(at):
            raise ValueError(
                f"{self.base}: its processor marks an image with {len(at)} tokens that are not one "
                "row of tokens; images in tiles are not read."
            )
        if self.family.chat_template:  # else the processor's own text stands around them
            self.image_before, self.image_after = ids[: at[0]], ids[at[-1] + 1 :]
        self.image_tokens = len(at)
        last = [image_id, *self.image_after][-1]
        self._anchor = str(self.tokenizer.convert_ids_to_tokens(last))
        self.image_after = self.image_after + self._behind_images(self._between)
        self._anchor += self._between
        if self.family.grid_positions:
            merge = self.processor.image_processor.merge_size
            _, rows, columns = (int(x) for x in read["image_grid_thw"][0])
            self.image_grid = rows // merge, columns // merge

    def _text_ids(self, instruction: str) -> list[int]:
        """Ids of the text with an instruction in it."""
        return self._behind_images(f"{self._before}{instruction}{self._after}")

    def _behind_images(self, text: str) -> list[int]:
        """Ids of a text, tokenized behind what ends an image: a space may depend on it."""
        if self._anchor:
            ids = self._ids(self._anchor + text)
            start = self._ids(self._anchor)
            if ids[: len(start)] == start:
                return ids[len(start) :]
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def _step_text(command: str, texts: Sequence[str]) -> str:
    said = " ".join(" ".join(texts).split())
    return f"> {command}\n{said}" if command else said


def _plain(value: Any) -> Any:
    """The same in JSON types."""
    if isinstance(value, dict):
        return {str(k): _plain(x) for k, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
