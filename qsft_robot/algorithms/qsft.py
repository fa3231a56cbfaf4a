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

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Metrics = dict[str, Tensor]
# Log-probability of an illegal token: far below any legal one, yet finite, so that 0 * it is 0.
ILLEGAL = -1e9


@dataclass(frozen=True)
class TokenBatch:
    """What the model and the losses read: contexts, and the tokens of the decision taken there."""

    state: Float[Tensor, "b k s"]
    frame_mask: Bool[Tensor, "b k"]  # False: the episode is younger than this history frame
    text_ids: Int[Tensor, "b l"]
    action_ids: Int[Tensor, "b n"]
    token_mask: Bool[Tensor, "b n"]
    legal: Bool[Tensor, "b n v"]
    features: Float[Tensor, "b k m c"] | None = None  # image tokens, computed once per frame
    images: dict[str, Tensor] | None = None  # camera -> uint8 [b, k, height, width, 3]
    returns: Float[Tensor, " b"] | None = None  # for the return-conditioned baseline
    # Of the last j steps, newest last: words of the command that led there and of what was said.
    words: Int[Tensor, "b j w"] | None = None

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        if self.images is not None:
            moved["images"] = {key: x.to(device) for key, x in self.images.items()}
        return replace(self, **moved)


def at_least_float32(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """bfloat16 and float16 as float32; float64 stays, for comparisons to rounding."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def legal_log_softmax(
    logits: Float[Tensor, "*b v"], legal: Bool[Tensor, "*b v"]
) -> Float[Tensor, "*b v"]:
    """Log-probabilities over the legal tokens, in float32; illegal ones get `ILLEGAL`."""
    masked = at_least_float32(logits).masked_fill(~legal, -torch.inf)
    return torch.log_softmax(masked, -1).masked_fill(~legal, ILLEGAL)


def chosen(values: Float[Tensor, "b n v"], ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """The entry of each token that was taken."""
    return values.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def masked_mean(values: Float[Tensor, "b n"], mask: Tensor) -> Float[Tensor, ""]:
    """Mean over True places; 0 if there is none. What stands behind the mask has no effect."""
    mask = mask.expand_as(values)
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def sft_loss(
    logits: Float[Tensor, "b n v"], batch: TokenBatch
) -> tuple[Float[Tensor, ""], Metrics]:
    """Supervised fine-tuning: -E_D log pi(a|s). On all logs it gives pi_phi; on successful logs it
    is filtered SFT; with `returns` in the batch it is return-conditioned SFT."""
    nll = -chosen(legal_log_softmax(logits, batch.legal), batch.action_ids)
    loss = masked_mean(nll, batch.token_mask)
    return loss, {"loss/total": loss.detach(), "loss/ce": loss.detach()}


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


def ilql_loss(
    q: Float[Tensor, "b n v"],
    q_target: Float[Tensor, "b n v"],
    v: Float[Tensor, "b n"],
    batch: TokenBatch,
    step_target: Float[Tensor, " b"],
    expectile: float,
    conservatism: float,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Implicit language Q-learning, the value-head rival (Snell et al., arXiv 2206.11871; the
    expectile of IQL, Kostrikov et al., arXiv 2110.06169).

    Q of an inner token regresses on V of the next token, Q of the last token on `step_target`
    (r + gamma V(s_{t+1})); V is the `expectile` of the slow-moving `q_target` over the data; the
    conservative term is a cross entropy of softmax(Q) towards the token taken. No gradient into
    targets.
    """
    q, q_target, v = at_least_float32(q), at_least_float32(q_target), at_least_float32(v)
    mask = batch.token_mask
    last = mask.long().sum(-1, keepdim=True) - 1  # index of the last real token
    following = torch.cat([v.detach()[:, 1:], v.detach()[:, :1]], -1)
    q_goal = following.scatter(1, last.clamp(min=0), step_target.detach()[:, None])
    q_taken = chosen(q, batch.action_ids)
    q_term = masked_mean((q_taken - q_goal) ** 2, mask)
    gap = chosen(q_target, batch.action_ids).detach() - v
    weight = torch.where(gap > 0, expectile, 1 - expectile)
    v_term = masked_mean(weight * gap**2, mask)
    nll = -chosen(legal_log_softmax(q, batch.legal), batch.action_ids)
    cql_term = masked_mean(nll, mask)
    loss = q_term + v_term + conservatism * cql_term
    return loss, {
        "loss/total": loss.detach(),
        "loss/q": q_term.detach(),
        "loss/v": v_term.detach(),
        "loss/cql": cql_term.detach(),
        "q/value_mean": masked_mean(v.detach(), mask),
        "q/target_mean": masked_mean(q_goal, mask),
    }


def support_mask(
    log_phi: Float[Tensor, "*b v"], legal: Bool[Tensor, "*b v"], epsilon: float
) -> Bool[Tensor, "*b v"]:
    """The tokens that the data supports: pi_phi(a|s) >= epsilon max_a' pi_phi(a'|s)."""
    if epsilon <= 0:
        return legal
    top = log_phi.masked_fill(~legal, ILLEGAL).amax(-1, keepdim=True)
    return legal & (log_phi >= top + torch.log(torch.tensor(epsilon)).item())


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


def lambda_returns(
    rewards: Float[Tensor, "e t"],
    steps: Int[Tensor, " e"],
    terminated: Bool[Tensor, " e"],
    backups: Float[Tensor, "e t1 n"],
    *,
    gamma: float,
    lam: float,
    horizon: int = 1,
    token_level: bool = False,
    real_tokens: Int[Tensor, "e t"] | None = None,
) -> Float[Tensor, "e t n"]:
    """The table of targets: w_t = r_t + gamma [(1 - lam) backup(s_{t+1}) + lam w_{t+1}].

    `rewards` [e, t] are the affine terms of `ReturnRange` (padding after `steps[e]` is not read).
    `backups[e, t, i]` is the backup at token i of step t; row `steps[e]` is the state after the
    last action. At the end of a log a terminated one adds nothing and a truncated one bootstraps
    from its last state. With chunks of `horizon` actions the reward is the discounted sum over
    the chunk and the next state is horizon steps on. Without `token_level` every token of a step
    has the step's own target; with it each inner token's target is formed from the next token's
    backup in the same way (no reward, no discount), the paper's token-level recursion.
    `real_tokens`: how many tokens of each decision are no padding, where they differ (text
    commands); without it those of the actions that a chunk really has.
    """
    count, longest = rewards.shape
    n = backups.shape[-1]
    index = torch.arange(longest, device=rewards.device)
    rewards = rewards.masked_fill(index >= steps[:, None], 0.0)
    rows = torch.arange(count, device=rewards.device)
    table = rewards.new_zeros(count, longest + horizon, n)
    for t in range(longest - 1, -1, -1):
        length = torch.clamp(steps - t, max=horizon)  # actions that this chunk really has
        chunk = rewards.new_zeros(count)
        for j in range(min(horizon, longest - t)):
            chunk = chunk + gamma**j * rewards[:, t + j]
        at_end = t + horizon >= steps
        state = torch.where(at_end, steps, t + horizon)
        bootstrap = backups[rows, state, 0]
        onward = (1 - lam) * bootstrap + lam * table[:, t + horizon, 0]
        onward = torch.where(at_end, torch.where(terminated, 0.0, bootstrap), onward)
        real = length * (n // horizon) if real_tokens is None else real_tokens[:, t]
        last = chunk + gamma ** length.clamp(min=0) * onward
        table[:, t, n - 1] = last
        for i in range(n - 2, -1, -1):
            following = table[:, t, i + 1]
            if token_level:
                inner = (1 - lam) * backups[:, t, i + 1] + lam * following
                # The reward lands on the last token that is no padding.
                following = torch.where(i + 1 < real, inner, following)
            table[:, t, i] = following
    table = table[:, :longest]
    return table.masked_fill((index >= steps[:, None])[..., None], 0.0)
