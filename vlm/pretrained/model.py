"""A pretrained VLM or causal language model that reads a robot and answers with action tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vlm.blocks import ReturnToken
from vlm.model import ActionModel, ModelOutput
from vlm.pretrained.adapters import add_lora
from vlm.pretrained.cache import PretrainedCache, PretrainedPair, prompt_mask
from vlm.pretrained.config import PretrainedConfig
from vlm.pretrained.context_tokens import ContextTokens, state_perceptron
from vlm.pretrained.export import write_merged
from vlm.pretrained.images import (
    image_levels,
    image_modules,
    image_parameters,
    measure_image_tokens,
    stacked_images,
)
from vlm.pretrained.load import load_base

SMALL = ("action_rows", "head_rows", "state_token.", "return_token.")


class PretrainedModel(ActionModel):
    """Prompt, frames, action tokens: one causal sequence through the pretrained language model.

    Image tokens come from the model's own tower and projector, frozen unless `train_images`;
    action tokens use rows of its own embedding and head. `config` is filled in from the base.
    ValueError, FileNotFoundError and RuntimeError say what of the base does not serve.
    """

    config: PretrainedConfig

    def __init__(self, config: PretrainedConfig, fetch: bool = True) -> None:
        """`fetch`: ask the hub for a base that is not in its cache."""
        super().__init__()
        loaded = load_base(config, fetch)
        self.family, self.prompt, self.base = loaded.family, loaded.prompt, loaded.model
        embedding = self.base.get_input_embeddings().weight
        layers = self.base.config.get_text_config().num_hidden_layers
        self.config = replace(loaded.config, width=embedding.shape[1], depth=layers)
        self.base.requires_grad_(False)
        lm = self.language_model
        if config.lora_rank:
            add_lora(lm, config.lora_rank, config.lora_alpha, config.lora_dropout)
        elif config.train_language_model:
            lm.requires_grad_(True)
        if config.train_images:
            for parameter in self.image_parameters():
                parameter.requires_grad_(True)
        c = self.config.width
        rows, head = loaded.action_rows()
        self.action_rows = nn.Parameter(rows)  # [v, c], as in the embedding table
        # None: the head's rows are the embedding's (tied).
        self.head_rows = None if head is None else nn.Parameter(head)
        scale = float(embedding.detach().float().std()) * self.embedding_scale
        self.state_token: nn.Module | None = None
        if config.state_dim and config.state_as == "token":
            self.state_token = state_perceptron(config.state_dim, c, scale)
        self.return_token = ReturnToken(c)
        with torch.no_grad():  # its input has a mean square of about 1/2
            for parameter in self.return_token.parameters():
                parameter.normal_(std=scale)
        if not config.train_action_rows:
            for table in (self.action_rows, self.head_rows):
                if table is not None:
                    table.requires_grad_(False)
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        self._kept = trained | {n for n in self.state_dict() if n.startswith(SMALL)}
        self._frozen = frozenset(self.state_dict()) - self._kept
        self.register_state_dict_post_hook(_leave_out_frozen)
        self.register_load_state_dict_post_hook(_miss_no_frozen)
        if config.cameras:
            self.eval()
            tokens = config.frame_image_tokens
            tokens = tokens or measure_image_tokens(self.base, self.prompt, self.config)
            self.config = replace(self.config, frame_image_tokens=tokens)
        self.context_tokens = ContextTokens(self.config, self.prompt)
        self._check_length()
        self._pair: tuple[PretrainedModel, torch.device, PretrainedPair] | None = None
        self.train()

    @property
    def language_model(self) -> Any:
        """The decoder, without the head."""
        return self.base.get_decoder()

    @property
    def embedding_scale(self) -> float:
        """The factor by which the embedding multiplies its rows; 1 but for models such as Gemma."""
        return float(getattr(self.base.get_input_embeddings(), "embed_scale", 1.0))

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The prompt, the action ids and the image preprocessing, in JSON types."""
        return self.prompt.describe()

    def encode_words(self, instruction: str) -> Int64[np.ndarray, " l"]:
        """The prompt's text with the instruction, as ids padded by -1: see `Prompt`."""
        return self.prompt.encode_words(instruction)

    def encode_steps(
        self, instruction: str, steps: Sequence[tuple[str, Sequence[str]]]
    ) -> Int64[np.ndarray, " l"]:
        """The same with the last steps in the prompt, each a command and what was said then."""
        return self.prompt.encode_steps(instruction, steps)

    def train(self, mode: bool = True) -> PretrainedModel:
        super().train(mode)
        if not self.config.train_images:
            for module in image_modules(self.base):
                module.eval()
        return self

    def image_parameters(self) -> Iterator[nn.Parameter]:
        """Vision tower and projector."""
        return image_parameters(self.base)

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """The other trained parameters: adapter or language model, action rows, state token."""
        image = {id(p) for p in self.image_parameters()}
        kept = self._kept
        return (p for n, p in self.named_parameters() if n in kept and id(p) not in image)

    def encode_images(
        self, images: Mapping[str, Tensor], text_ids: Int64[Tensor, "b l"] | None = None
    ) -> Float[Tensor, "b m c"]:
        """Image tokens of one frame: camera -> uint8 [b, h, w, 3]. The text has no part in them.

        Where the family has deep-stack features, they follow the image tokens as more tokens.
        """
        config = self.config
        if not config.cameras:
            raise ValueError("the model has no cameras: pass features=None and no images.")
        flat = stacked_images(config, images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.train_images):
            levels = image_levels(self.base, self.prompt, flat)
        shape = (len(config.cameras), len(flat) // len(config.cameras))
        parts = [x.unflatten(0, shape).transpose(0, 1).flatten(1, 2) for x in levels]
        return torch.cat(parts, 1)

    def forward(
        self,
        features: Float[Tensor, "b k m c"] | None,
        state: Float[Tensor, "b k s"] | None,
        frame_mask: Bool[Tensor, "b k"],
        text_ids: Int64[Tensor, "b l"],
        action_ids: Int64[Tensor, "b n"],
        returns: Float[Tensor, " b"] | None = None,
        words: Int64[Tensor, "b j w"] | None = None,
    ) -> ModelOutput:
        """Hidden states [b, n, c] and logits [b, n, v]; index i has seen action tokens < i only.

        v are the action ids alone. `action_ids[:, n - 1]` is never an input. The newest frame is
        the last; frames whose `frame_mask` is False have no effect.
        """
        if words is not None:
            raise ValueError("a pretrained model reads its steps in the prompt: pass words=None.")
        context = self.context_tokens(self, features, state, frame_mask, text_ids, returns)
        tokens = self.embed_actions(action_ids[:, :-1])
        n = action_ids.shape[1]
        x = torch.cat([context.embeddings, tokens.to(context.embeddings.dtype)], 1)
        after = torch.arange(n - 1, device=x.device) + context.next_position[:, None]
        after = after.expand(*context.positions.shape[:-1], n - 1)
        mask = F.pad(context.visible, (0, n - 1), value=True)
        hidden = self.language_model(
            inputs_embeds=x,
            attention_mask=prompt_mask(self.family, mask, context.visible.shape[1], x.dtype),
            position_ids=torch.cat([context.positions, after], -1),
            use_cache=False,
            **context.deep_arguments(n - 1),
        ).last_hidden_state
        return self.output(hidden[:, -n:])

    @torch.no_grad()
    def prefill(
        self,
        features: Float[Tensor, "b k m c"] | None,
        state: Float[Tensor, "b k s"] | None,
        frame_mask: Bool[Tensor, "b k"],
        text_ids: Int64[Tensor, "b l"],
        returns: Float[Tensor, " b"] | None = None,
        words: Int64[Tensor, "b j w"] | None = None,
    ) -> tuple[ModelOutput, PretrainedCache]:
        """Read the context: the output for action token 0 (n = 1), and the cache that decodes."""
        if words is not None:
            raise ValueError("a pretrained model reads its steps in the prompt: pass words=None.")
        context = self.context_tokens(self, features, state, frame_mask, text_ids, returns)
        cache = PretrainedCache(
            self.language_model,
            self.family,
            self.config.n_tokens,
            lambda ids: self.embed_actions(ids[:, None]),
            self.output,
        )
        return cache.read(context), cache

    @torch.no_grad()
    def decode(self, ids: Int64[Tensor, " b"], cache: PretrainedCache) -> ModelOutput:
        """Read one more action token; the output (n = 1) for the next. The cache grows in place."""
        return cache.decode(ids)

    def embed_actions(self, ids: Int64[Tensor, "b i"]) -> Float[Tensor, "b i c"]:
        """Action tokens in the language model's embedding space."""
        return F.embedding(ids, self.action_rows) * self.embedding_scale

    def output(self, hidden: Float[Tensor, "b n c"]) -> ModelOutput:
        """Hidden states and the logits of the action ids."""
        rows = self.action_rows if self.head_rows is None else self.head_rows
        logits = F.linear(hidden, rows.to(hidden.dtype))
        cap = getattr(self.base.config.get_text_config(), "final_logit_softcapping", None)
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        return ModelOutput(hidden, logits)

    def twin(self) -> PretrainedModel:
        """A model that starts equal and trains alone; both stand on the same frozen tensors."""
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> PretrainedModel:
        kept = self._kept
        named = [*self.named_parameters(remove_duplicate=False), *self.named_buffers()]
        memo |= {id(x): x for name, x in named if name not in kept}
        # A tied weight has two names, of which one is not kept.
        for x in (x for name, x in named if name in kept):
            memo.pop(id(x), None)
        memo[id(self.prompt)] = self.prompt
        memo[id(self._pair)] = None
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        new.__dict__ = {key: copy.deepcopy(x, memo) for key, x in self.__dict__.items()}
        return new

    def shares_base_with(self, other: Any) -> bool:
        """Whether the other model is a LoRA twin of this one."""
        if not isinstance(other, PretrainedModel) or not self.config.lora_rank:
            return False
        mine, theirs = (m.base.get_input_embeddings().weight for m in (self, other))
        return mine is theirs

    def together(self, others: Sequence[Any]) -> PretrainedPair | None:
        """This model and its twin as one that reads once for both, where that is possible."""
        if len(others) != 1 or not self.shares_base_with(others[0]):
            return None
        other, device = others[0], self.action_rows.device
        if self._pair is None or self._pair[0] is not other or self._pair[1] != device:
            self._pair = (other, device, PretrainedPair([self, other]))
        return self._pair[2]

    def small_state_dict(self) -> dict[str, Tensor]:
        """The trained tensors outside of the base: action rows, state and return tokens."""
        return {k: x for k, x in self.state_dict().items() if k.startswith(SMALL)}

    def merge_to(self, folder: str | Path) -> PretrainedConfig:
        """Write a plain Hugging Face folder with the adapter merged; the config that opens it.

        A model of that config is equal to this one after it has loaded `small_state_dict`.
        """
        return write_merged(self, Path(folder))

    def gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute the language model's activations in the backward pass: memory for time."""
        model = self.language_model
        # transformers renamed both after 5.17
        name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
        if on:
            getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(model, f"{name}_checkpointing_disable")()

    def _check_length(self) -> None:
        text = self.base.config.get_text_config()
        limit = getattr(text, "max_position_embeddings", None)
        length = self.context_tokens.length + self.config.n_tokens - 1
        if limit is not None and length > limit:
            raise ValueError(
                f"{self.config.base} reads {limit} tokens and a decision may have {length} "
                f"({self.config.history} frame(s) of {self.config.frame_image_tokens} image "
                f"tokens, {self.config.text_length} of text): fewer frames or cameras, or a "
                "smaller text_length."
            )


def _leave_out_frozen(
    module: PretrainedModel, state_dict: dict[str, Tensor], prefix: str, metadata: Any
) -> None:
    for name in module._frozen:
        state_dict.pop(prefix + name, None)


def _miss_no_frozen(module: PretrainedModel, incompatible: Any) -> None:
    def frozen(key: str) -> bool:
        parts = key.split(".")
        return any(".".join(parts[i:]) in module._frozen for i in range(len(parts)))

    incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if not frozen(k)]
