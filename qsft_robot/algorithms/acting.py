"""From the two networks' distributions to the distribution that acts (pure functions)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qsft_robot.algorithms.log_probs import is_legal, legal_log_softmax, support_mask
from qsft_robot.algorithms.qsft import q_values
from qsft_robot.config.acting import ActingConfig

# A sum of float32 that should be a half may lie so far below it.
_HALF = 1e-5


class Distributions(NamedTuple):
    """Distributions of the next token; None where a network or head is missing."""

    log_phi: Float[Tensor, "b v"] | None  # the behavior
    log_policy: Float[Tensor, "b v"] | None = None  # p~ of theta
    value: Float[Tensor, " b"] | None = None  # V(s); 1 where theta has no head
    advantage: Float[Tensor, "b v"] | None = None  # Q - V of value heads


def acting_log_probs(
    config: ActingConfig, legal: Bool[Tensor, "b v"], said: Distributions
) -> Float[Tensor, "b v"]:
    """Log-probabilities of the next token under the acting rule, after the low-probability cut.

    Where phi isn't run there is no support mask but the cut.
    """
    phi = said.log_phi
    support = legal if phi is None else support_mask(phi, legal, config.support)
    log_probs = legal_log_softmax(RULES[config.rule](config, said), support)
    return cut(log_probs, config.min_p)


def behavior_scores(config: ActingConfig, said: Distributions) -> Tensor:
    """pi_phi."""
    assert said.log_phi is not None
    return said.log_phi


def power_scores(config: ActingConfig, said: Distributions) -> Tensor:
    """pi_phi (p~ / pi_phi)^k; p~ where phi isn't run, which is k = 1."""
    assert said.log_policy is not None
    if said.log_phi is None:
        return said.log_policy
    return said.log_phi + config.k * (said.log_policy - said.log_phi)


def ratio_scores(config: ActingConfig, said: Distributions) -> Tensor:
    """pi_phi exp(beta Q)."""
    assert said.log_phi is not None
    assert said.log_policy is not None
    assert said.value is not None
    return said.log_phi + config.beta * q_values(said.value, said.log_policy, said.log_phi)


def paper_scores(config: ActingConfig, said: Distributions) -> Tensor:
    """pi_phi exp(beta p_theta), the paper's rule (its section 4.3)."""
    assert said.log_phi is not None
    assert said.log_policy is not None
    assert said.value is not None
    return said.log_phi + config.beta * said.value[:, None] * said.log_policy.exp()


def advantage_scores(config: ActingConfig, said: Distributions) -> Tensor:
    """pi_phi exp(beta (Q - V)), the rule of value heads."""
    assert said.log_phi is not None
    assert said.advantage is not None
    return said.log_phi + config.beta * said.advantage


def value_scores(config: ActingConfig, said: Distributions) -> Tensor:
    """exp(beta Q), whatever the behavior does: the rule of Q-learning."""
    assert said.advantage is not None
    return config.beta * said.advantage


# Name of a rule in `ActingConfig` -> unnormalized log-probabilities.
RULES: dict[str, Callable[[ActingConfig, Distributions], Tensor]] = {
    "power": power_scores,
    "ratio": ratio_scores,
    "paper": paper_scores,
    "advantage": advantage_scores,
    "value": value_scores,
    "behavior": behavior_scores,
}


def cut(log_probs: Float[Tensor, "b v"], min_p: float) -> Float[Tensor, "b v"]:
    """Drop tokens less likely than `min_p` times the likeliest one, and renormalize."""
    if min_p <= 0:
        return log_probs
    keep = log_probs >= log_probs.amax(-1, keepdim=True) + torch.log(torch.tensor(min_p)).item()
    return legal_log_softmax(log_probs, keep & is_legal(log_probs))


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


def median(log_probs: Float[Tensor, "b v"], temperature: float | Tensor) -> Tensor:
    """The first token id at which half of the probability is reached, int64 [b]; for temperature 0
    the likeliest. It is the middle of actions whose ids are in their order, as bins are."""
    if isinstance(temperature, Tensor):
        sharp = torch.where(temperature > 0, temperature, 1.0)
        return torch.where(temperature > 0, _middle(log_probs / sharp), log_probs.argmax(-1))
    return log_probs.argmax(-1) if temperature == 0 else _middle(log_probs / temperature)


def _middle(scores: Float[Tensor, "b v"]) -> Tensor:
    return (below(scores) < 0.5 - _HALF).sum(-1)


def below(scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
    """Probability of each token and of those before it."""
    return torch.softmax(scores.float(), -1).cumsum(-1)
