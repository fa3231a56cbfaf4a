"""Log-probabilities over legal tokens, and means over the tokens that count."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Metrics = dict[str, Tensor]
# Log-probability of an illegal token: far below any legal one, yet finite, so that 0 * it is 0.
ILLEGAL = -1e9


def at_least_float32(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """bfloat16 and float16 as float32; float64 stays, for comparisons to rounding."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def legal_log_softmax(
    logits: Float[Tensor, "*b v"], legal: Bool[Tensor, "*b v"]
) -> Float[Tensor, "*b v"]:
    """Log-probabilities over the legal tokens, in float32; illegal ones get `ILLEGAL`."""
    masked = at_least_float32(logits).masked_fill(~legal, -torch.inf)
    return torch.log_softmax(masked, -1).masked_fill(~legal, ILLEGAL)


def is_legal(log_probs: Float[Tensor, "*b v"]) -> Bool[Tensor, "*b v"]:
    """Which tokens were legal when the log-probabilities were made."""
    return log_probs > ILLEGAL / 2


def chosen(values: Float[Tensor, "b n v"], ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """The entry of each token that was taken."""
    return values.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def masked_mean(values: Float[Tensor, "b n"], mask: Tensor) -> Float[Tensor, ""]:
    """Mean over True places; 0 if there is none. What stands behind the mask has no effect."""
    mask = mask.expand_as(values)
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def support_mask(
    log_phi: Float[Tensor, "*b v"], legal: Bool[Tensor, "*b v"], epsilon: float
) -> Bool[Tensor, "*b v"]:
    """The tokens that the data supports: pi_phi(a|s) >= epsilon max_a' pi_phi(a'|s)."""
    if epsilon <= 0:
        return legal
    top = log_phi.masked_fill(~legal, ILLEGAL).amax(-1, keepdim=True)
    return legal & (log_phi >= top + torch.log(torch.tensor(epsilon)).item())
