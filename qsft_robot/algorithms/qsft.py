"""Q-SFT and the baselines as pure functions: tensors in, (loss, metrics) out.

Symbols: phi is the behavior policy, theta the value policy. theta is kept factored,
p_theta(a|s) = V(s) p~(a|s) and p_theta(void|s) = 1 - V(s), both normalized over the legal tokens.
w is the target, a number in [0, 1]. Equation numbers are those of Hong, Dragan, Levine,
"Q-SFT: Q-learning for language models via supervised fine-tuning" (arXiv 2411.05193).

Conventions: logits at index i predict action token i and have seen tokens < i only. `legal` is
True where token v may stand at place i. `token_mask` is False on padding (the tail of a chunk
that runs past the end of its log); masked tokens have no effect on any value or gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from qsft_robot.algorithms.log_probs import (
    Metrics,
    at_least_float32,
    chosen,
    legal_log_softmax,
    masked_mean,
    support_mask,
)
from qsft_robot.token_data.batch import TokenBatch


def q_values(
    value: Float[Tensor, "*b"],
    log_policy: Float[Tensor, "*b v"],
    log_phi: Float[Tensor, "*b v"],
) -> Float[Tensor, "*b v"]:
    """Q(s, a) = V(s) p~(a|s) / pi_phi(a|s), kept within [0, 1], the range of every target."""
    return (value.unsqueeze(-1) * (log_policy - log_phi).exp()).clamp(0.0, 1.0)


def backup(
    kind: str,
    value: Float[Tensor, "*b"],
    log_policy: Float[Tensor, "*b v"],
    log_phi: Float[Tensor, "*b v"],
    legal: Bool[Tensor, "*b v"],
    *,
    softness: float = 4.0,
    epsilon: float = 0.0,
) -> Float[Tensor, "*b"]:
    """The number that a state hands to the state before it.

    "value": V(s), the value of the behavior; "soft": (1/softness) log E_{pi_phi} exp(softness Q),
    which grows from the mean of Q to its maximum with `softness`; "max": max over the support
    (the paper's choice). Raises ValueError on another kind.
    """
    if kind == "value":
        return value
    support = support_mask(log_phi, legal, epsilon)
    q = q_values(value, log_policy, log_phi)
    if kind == "max":
        return q.masked_fill(~support, 0.0).amax(-1)
    if kind == "soft":
        log_weight = legal_log_softmax(log_phi, support)
        return torch.logsumexp(log_weight + softness * q, -1) / softness
    raise ValueError(f"unknown backup {kind!r}. There are: value, soft, max.")


def qsft_loss(
    logits: Float[Tensor, "b n v"],
    value_logits: Float[Tensor, "b n"],
    batch: TokenBatch,
    target: Float[Tensor, "b n"],
    value_weight: Float[Tensor, "b n"] | None = None,
    policy_weight: Float[Tensor, "b n"] | None = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Q-SFT in the factored void form: L = BCE(V, w) + w CE(p~, a) (section 4.1 with the dummy
    action, rewritten; equal to `void_loss` to rounding). No gradient flows into `target`.

    With no weights every row carries both terms with the factors 1 and w: exactly E_D of the
    above. When some rows were drawn uniformly (value_weight 1, policy_weight 0) and the others in
    proportion to w (value_weight 0, policy_weight 1), the factor w is in the draw already:
    E_D[w CE] / E_D[w] has the same minimizer in p~ and a gradient that does not shrink where
    success is rare. Each term is divided by the number of tokens that carry it.
    """
    target = target.detach()
    nll = -chosen(legal_log_softmax(logits, batch.legal), batch.action_ids)
    value_logits = at_least_float32(value_logits)
    bce = F.binary_cross_entropy_with_logits(value_logits, target, reduction="none")
    value_weight = torch.ones_like(target) if value_weight is None else value_weight
    carries_policy = batch.token_mask if policy_weight is None else policy_weight > 0
    policy_weight = target if policy_weight is None else policy_weight
    value_mask = batch.token_mask & (value_weight > 0)
    value_term = masked_mean(value_weight * bce, value_mask)
    policy_term = masked_mean(policy_weight * nll, batch.token_mask & carries_policy)
    value = torch.sigmoid(value_logits.detach())
    loss = value_term + policy_term
    return loss, {
        "loss/total": loss.detach(),
        "loss/bce": value_term.detach(),
        "loss/ce": policy_term.detach(),
        "q/value_mean": masked_mean(value, value_mask),
        "q/target_mean": masked_mean(target, value_mask),
    }


def void_loss(
    logits: Float[Tensor, "b n v"],
    void_logits: Float[Tensor, "b n"],
    batch: TokenBatch,
    target: Float[Tensor, "b n"],
) -> tuple[Float[Tensor, ""], Metrics]:
    """Q-SFT with the dummy action as one more row of the softmax (section 4.1):
    L = -E_D[w log p_theta(a|s) + (1 - w) log p_theta(void|s)]. Minimizer: p_theta = w pi_beta."""
    target = target.detach()
    legal = torch.cat([batch.legal, torch.ones_like(batch.legal[..., :1])], -1)
    joint = legal_log_softmax(torch.cat([logits, void_logits.unsqueeze(-1)], -1), legal)
    taken = chosen(joint[..., :-1], batch.action_ids)
    loss = masked_mean(-(target * taken + (1 - target) * joint[..., -1]), batch.token_mask)
    value = 1 - joint[..., -1].detach().exp()
    return loss, {
        "loss/total": loss.detach(),
        "q/value_mean": masked_mean(value, batch.token_mask),
        "q/target_mean": masked_mean(target, batch.token_mask),
    }


def uniform_residual_loss(
    logits: Float[Tensor, "b n v"], batch: TokenBatch, target: Float[Tensor, "b n"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """The paper's Eq. 3: weight w on the token taken, (1 - w) spread evenly over the others."""
    target = target.detach()
    log_p = legal_log_softmax(logits, batch.legal)
    taken = chosen(log_p, batch.action_ids)
    legal_sum = log_p.masked_fill(~batch.legal, 0.0).sum(-1)
    others = (batch.legal.sum(-1) - 1).clamp(min=1)
    residual = (legal_sum - taken) / others
    loss = masked_mean(-(target * taken + (1 - target) * residual), batch.token_mask)
    return loss, {
        "loss/total": loss.detach(),
        "q/value_mean": masked_mean(taken.detach().exp(), batch.token_mask),
        "q/target_mean": masked_mean(target, batch.token_mask),
    }
