"""The auxiliary task of LaMo: the trunk goes on predicting the next word of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vlm.decision_transformer.trunk import import_transformers, load_layers, read_base


class LanguageTask:
    """Passages of one text, and the loss of their next words through a trunk.

    The vocabulary's rows are the base's own and frozen: they are read from it again, and are no
    part of a checkpoint. ValueError where the text is shorter than one batch of passages.
    """

    def __init__(self, model: Any, path: Path, length: int, count: int, device: str) -> None:
        folder, _, hf_config = read_base(model.own)
        transformers = import_transformers()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise ValueError(
                f"{model.own.base}: its tokenizer can't be read ({error}); copy its files beside "
                "the weights."
            ) from error
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: --lamo.text is no UTF-8 text ({error}).") from error
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) < count * length + 1:
            raise ValueError(
                f"{path}: --lamo.text has {len(ids)} tokens, and a batch of {count} passages of "
                f"{length} takes {count * length + 1}: a longer text, or less of --lamo.text-batch "
                "and --lamo.text-length."
            )
        self.ids, self.length, self.count = torch.tensor(ids), length, count
        whole = load_layers(model.own, folder, hf_config, 1).requires_grad_(False).to(device)
        self.embedding, self.head = whole.get_input_embeddings(), whole.get_output_embeddings()
        self.cap = getattr(hf_config, "final_logit_softcapping", None)

    def draw(self, generator: torch.Generator) -> Int[Tensor, "p t"]:
        """Passages that begin anywhere, each with the word after its last."""
        starts = torch.randint(len(self.ids) - self.length, (self.count,), generator=generator)
        return self.ids[starts[:, None] + torch.arange(self.length + 1)]

    def loss(self, model: Any, ids: Int[Tensor, "p t"]) -> Float[Tensor, ""]:
        """Mean cross-entropy of the next word."""
        x = self.embedding(ids[:, :-1])  # which scales its rows itself
        hidden = model.trunk(x, torch.ones_like(ids[:, :-1], dtype=torch.bool))
        logits = self.head(hidden.to(self.head.weight.dtype)).float()
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
