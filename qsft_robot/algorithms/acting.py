"""From the two networks' distributions to the distribution that acts (pure functions)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qsft_robot.algorithms.qsft import ILLEGAL, legal_log_softmax, q_values, support_mask
from qsft_robot.config.train import ActingConfig


def acting_log_probs(
    config: ActingConfig,
    legal: Bool[Tensor, "b v"],
    log_phi: Float[Tensor, "b v"] | None,
    log_policy: Float[Tensor, "b v"] | None = None,
    value: Float[Tensor, " b"] | None = None,
    advantage: Float[Tensor, "b v"] | None = None,
) -> Float[Tensor, "b v"]:
    """Log-probabilities of the next token under the acting rule, after the low-probability cut.

    `log_phi` is the behavior, `log_policy` p~, `value` V(s) (1 where the model has no void),
    `advantage` Q - V of the value heads. A rule that needs only p~ (power with k = 1) takes
    log_phi = None and then has no support mask but the cut.
    """
    support = legal if log_phi is None else support_mask(log_phi, legal, config.support)
    if config.rule == "behavior":
        assert log_phi is not None
        scores = log_phi
    elif config.rule == "advantage":
        assert log_phi is not None
        assert advantage is not None
        scores = log_phi + config.beta * advantage
    elif log_phi is None:
        assert log_policy is not None
        scores = log_policy
    else:
        assert log_policy is not None
        if config.rule == "power":
            scores = log_phi + config.k * (log_policy - log_phi)
        else:
            assert value is not None
            if config.rule == "ratio":
                scores = log_phi + config.beta * q_values(value, log_policy, log_phi)
            else:  # the paper's: pi_phi exp(beta p_theta)
                scores = log_phi + config.beta * value[:, None] * log_policy.exp()
    log_probs = legal_log_softmax(scores, support)
    return cut(log_probs, config.min_p)


def cut(log_probs: Float[Tensor, "b v"], min_p: float) -> Float[Tensor, "b v"]:
    """Drop tokens less likely than `min_p` times the likeliest one, and renormalize."""
    if min_p <= 0:
        return log_probs
    keep = log_probs >= log_probs.amax(-1, keepdim=True) + torch.log(torch.tensor(min_p)).item()
    return legal_log_softmax(log_probs, keep & (log_probs > ILLEGAL / 2))


def choose(
    log_probs: Float[Tensor, "b v"], temperature: float | Tensor, noise: Float[Tensor, "b v"]
) -> Tensor:
    """One token id a row, int64 [b]: the likeliest for temperature 0, else a sample. `noise` is
    standard Gumbel noise, so that the randomness comes from the caller."""
    if isinstance(temperature, Tensor):  # a graph's input, so that one graph serves both
        sampled = temperature > 0
        return (log_probs / torch.where(sampled, temperature, 1.0) + noise * sampled).argmax(-1)
    if temperature == 0:
        return log_probs.argmax(-1)
    return (log_probs / temperature + noise).argmax(-1)
