"""One decision, token by token, on bare tensors and a cache of keys and values.

At batch 1 a module call or an attribute look-up costs as much as the arithmetic, so nothing here
asks the model again after its context was read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from vlm.model import ActionModel, Context, ModelOutput


@dataclass
class Cache:
    """Keys and values of one decision, which `decode_token` extends.

    With all slots there from the start each is written in place: the fastest way. Without a free
    one the tensors grow instead, which an exported graph can do too.
    """

    # One tensor a block, [b, 2 (key, value), heads, slots, head width].
    keys_values: tuple[Tensor, ...]
    # The parameters of each block, its projections transposed.
    tensors: tuple[tuple[Tensor, ...], ...]
    # Action embedding, positions, last norm's weight and bias, head transposed.
    ends: tuple[Tensor, ...]
    # Added to the scores of every slot, [b, 1, 1, slots]; None where all frames are seen.
    mask: Tensor | None
    # Slots that are filled.
    length: int
    # Hidden states [b, 1, c] and the tokens before them [b, 1] to what is added to the logits.
    more_logits: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def grows(self) -> bool:
        """Whether a token is appended; else its slot is there already and is written."""
        return self.keys_values[0].shape[3] == self.length

    def decode(self, ids: Tensor) -> ModelOutput:
        """Read action tokens [b]; the output (n = 1) for the next."""
        return decode_token(ids, self)


def transposed(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A Block's parameters as `Cache.tensors` holds them (views, no copy)."""
    return tuple(tensor.t() if tensor.ndim == 2 else tensor for tensor in tensors)


def decode_token(ids: Tensor, cache: Cache) -> ModelOutput:
    """Read action tokens [b]; the output (n = 1) for the next."""
    embedding, positions, norm, norm_bias, head = cache.ends
    position = cache.length
    x = F.embedding(ids, embedding) + positions[position]
    mask = None if cache.mask is None else cache.mask[..., : position + 1]
    grows, extended = cache.grows, []
    for tensors, keys_values in zip(cache.tensors, cache.keys_values, strict=True):
        x, longer = _step(x, tensors, keys_values, mask, position, grows)
        extended.append(longer)
    cache.keys_values, cache.length = tuple(extended), position + 1
    hidden = torch.layer_norm(x, norm.shape, norm, norm_bias)
    logits = torch.mm(hidden, head)[:, None]
    if cache.more_logits is not None:
        logits = logits + cache.more_logits(hidden[:, None], ids[:, None])
    return ModelOutput(hidden[:, None], logits)


def _step(
    x: Tensor,
    tensors: tuple[Tensor, ...],
    cache: Tensor,
    mask: Tensor | None,
    position: int,
    grows: bool,
) -> tuple[Tensor, Tensor]:
    """A Block at one new position, x [b, c] to [b, c], and its keys and values."""
    norm1, norm1_bias, qkv, out, norm2, norm2_bias, mlp_in, mlp_out = tensors
    _, _, heads, _, head_width = cache.shape
    normed = torch.layer_norm(x, norm1.shape, norm1, norm1_bias)
    packed = torch.mm(normed, qkv).view(-1, 3, heads, 1, head_width)
    if grows:
        cache = torch.cat([cache, packed.narrow(1, 1, 2)], 3)
        key, value = cache.unbind(1)
    else:
        cache.narrow(3, position, 1).copy_(packed.narrow(1, 1, 2))
        key, value = cache.narrow(3, 0, position + 1).unbind(1)
    attended = F.scaled_dot_product_attention(packed.select(1, 0), key, value, mask)
    x = torch.addmm(x, attended.reshape(-1, heads * head_width), out)
    normed = torch.layer_norm(x, norm2.shape, norm2, norm2_bias)
    return torch.addmm(x, F.silu(torch.mm(normed, mlp_in)), mlp_out), cache


def decide_together(
    models: Sequence[ActionModel],
    contexts: Sequence[Context],
    legal: Callable[[Tensor], Tensor],
    choose: Callable[[Sequence[ModelOutput], Tensor, int], Tensor],
    ends: bool = False,
) -> Int64[Tensor, "b n"]:
    """One decision of several models that read the same tokens (behavior and value, say).

    `legal(prefix ids [b, i]) -> bool [b, v]`;
    `choose(outputs, one a model with n = 1, allowed [b, v], i) -> ids [b]`. With `ends` id 0 ends a
    decision, after which nothing else is legal: where all have ended, no more is computed.
    """
    text_ids = contexts[0].text_ids
    # Made outside of inference mode, so that the caller may compute with it.
    ids = torch.zeros(text_ids.shape[0], models[0].config.n_tokens, dtype=torch.int64)
    ids = ids.to(text_ids.device)
    # Inference tensors keep an exported graph from having a batch of any size.
    exporting = torch.compiler.is_compiling()
    with torch.no_grad() if exporting else torch.inference_mode():
        outputs, decode = _read_contexts(models, contexts)
        for i in range(ids.shape[1]):
            allowed = legal(ids[:, :i])
            if ends and i and not exporting and not bool(allowed[:, 1:].any()):
                break
            chosen = choose(outputs, allowed, i)
            ids[:, i] = chosen
            if i + 1 < ids.shape[1]:
                outputs = decode(chosen)
    return ids


def _read_contexts(
    models: Sequence[ActionModel], contexts: Sequence[Context]
) -> tuple[Sequence[ModelOutput], Callable[[Tensor], Sequence[ModelOutput]]]:
    """The outputs for token 0, and what reads one more token and gives the next outputs."""
    one = models[0].together(models[1:]) if len(models) > 1 else None
    if one is not None:
        outputs, cache = one.prefill(contexts)
        return outputs, cache.decode
    started = [model.prefill(*context) for model, context in zip(models, contexts, strict=True)]
    caches = [cache for _, cache in started]
    return [output for output, _ in started], lambda ids: [cache.decode(ids) for cache in caches]
