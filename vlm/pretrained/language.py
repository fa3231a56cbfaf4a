"""A language model that goes on with a text: freely, or with the likeliest of given lines."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.files import check_memory, find_base
from vlm.pretrained.gguf_files import without_bars


@dataclass
class _Node:
    """A beginning of lines, in tokens: how it may go on, and the line that ends here."""

    following: dict[int, _Node] = field(default_factory=dict)
    line: int | None = None


class LanguageModel:
    """A pretrained language model and what it has read; a text that begins as the last one did is
    read on from where they part."""

    def __init__(self, base: str, device: str = "cpu", fetch: bool = False) -> None:
        """`base`: folder, GGUF file or Hub id; `fetch` asks the Hub. ValueError where there is no
        model of language."""
        try:
            import transformers
        except ImportError as error:
            raise ImportError("language models need: pip install 'qsft-robot[vlm]'") from error
        # Of a model that only reads and writes text nothing but the base counts.
        unused: dict[str, Any] = {"vocab_size": 1, "n_tokens": 1, "state_dim": 0}
        config = PretrainedConfig(base, **unused, text_history=1, action_tokens="added")
        folder, _ = find_base(config, fetch)
        check_memory(config, folder)
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
            with without_bars():
                model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
                )
        except Exception as error:
            raise ValueError(
                f"{base}: no language model that can be read ({_line(error)})."
            ) from error
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._read: list[int] = []
        self._cache: Any = None

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._ids(text))

    @torch.no_grad()
    def likeliest(self, text: str, lines: Sequence[str]) -> int:
        """The index of the line, of several, that follows the text with the highest probability.

        The probability of a line falls with each of its tokens, so that the best beginning is
        always gone on with, and the first line that is reached whole is the likeliest of all.
        """
        root = _Node()
        for index, line in enumerate(lines):
            node = root
            for token in self._ids(f"{line}\n"):
                node = node.following.setdefault(token, _Node())
            if node.line is None:
                node.line = index
        if not root.following:
            raise ValueError("there is no line to choose from.")
        ids = self._ids(text)
        waiting: list[tuple[float, int, list[int], _Node]] = [(0.0, 0, [], root)]
        made = 0
        while True:
            cost, _, tokens, node = heapq.heappop(waiting)
            if node.line is not None:
                return node.line
            log_probs = torch.log_softmax(self._last([*ids, *tokens]).float(), -1)
            for token, child in node.following.items():
                made += 1  # of equals the first one made
                entry = (cost - float(log_probs[token]), made, [*tokens, token], child)
                heapq.heappush(waiting, entry)

    @torch.no_grad()
    def write(
        self, text: str, most: int, temperature: float, generator: np.random.Generator
    ) -> str:
        """Go on with a text to the end of a line that says something, at most `most` tokens; the
        likeliest token each time at temperature 0."""
        ids, written = self._ids(text), list[int]()
        for _ in range(most):
            log_probs = torch.log_softmax(self._last([*ids, *written]).float(), -1)
            if temperature > 0:
                noise = torch.from_numpy(generator.gumbel(size=log_probs.shape)).float()
                log_probs = log_probs.cpu() / temperature + noise
            token = int(log_probs.argmax())
            if token == self.tokenizer.eos_token_id:
                break
            written.append(token)
            said = self.tokenizer.decode(written)
            if said.strip() and "\n" in said.lstrip():
                break
        lines = self.tokenizer.decode(written, skip_special_tokens=True).strip().splitlines()
        return lines[0].strip() if lines else ""

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _last(self, ids: list[int]) -> Tensor:
        """Logits [v] after a text. What was read before is kept where the texts agree."""
        shared = 0
        for one, other in zip(ids[:-1], self._read, strict=False):
            if one != other:
                break
            shared += 1
        cache = self._cache
        if cache is None or not shared:
            cache, shared = None, 0
        elif shared < len(self._read):
            cache.crop(shared - len(self._read))  # the number of tokens to forget, as a negative
        fresh = torch.tensor([ids[shared:]], device=self.device)
        out = self.model(input_ids=fresh, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._read, self._cache = ids, out.past_key_values
        return out.logits[0, -1]


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
