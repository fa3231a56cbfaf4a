"""Monte-Carlo value heads: Q of every token by regression on the log's own return from there on.

The baseline "MC" of LMRL-Gym (Abdulhai et al., arXiv 2311.18232): no bootstrap, so that Q is that
of the behavior, and the policy acts by the behavior shifted by Q - V.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from qsft_robot.algorithms.log_probs import (
    Metrics,
    at_least_float32,
    chosen,
    legal_log_softmax,
    masked_mean,
)
from qsft_robot.algorithms.networks import PolicyNetworks, teacher_forced
from qsft_robot.algorithms.stage import WHOLE, HeadStage, Scale, own_returns, scaled
from qsft_robot.config.methods import MonteCarloConfig
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData


def monte_carlo_loss(
    q: Float[Tensor, "b n v"],
    v: Float[Tensor, "b n"],
    batch: TokenBatch,
    returns: Float[Tensor, " b"],
    conservatism: float,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Squared errors of Q of the tokens taken and of V before each of them, both on `returns`, the
    return to go of their step; with a weight a cross entropy of softmax(Q) towards the token taken.
    """
    q, v, mask = at_least_float32(q), at_least_float32(v), batch.token_mask
    goal = returns.detach()[:, None].expand_as(v)
    q_term = masked_mean((chosen(q, batch.action_ids) - goal).square(), mask)
    v_term = masked_mean((v - goal).square(), mask)
    nll = -chosen(legal_log_softmax(q, batch.legal), batch.action_ids)
    cql_term = masked_mean(nll, mask)
    loss = q_term + v_term + conservatism * cql_term
    return loss, {
        "loss/total": loss.detach(),
        "loss/q": q_term.detach(),
        "loss/v": v_term.detach(),
        "loss/cql": cql_term.detach(),
        "q/value_mean": masked_mean(v.detach(), mask),
        "q/target_mean": masked_mean(goal, mask),
    }


class MonteCarloStage(HeadStage):
    """Q and V heads on a copy of phi, on returns that never change; phi acts, shifted by Q - V."""

    def __init__(
        self, networks: PolicyNetworks, data: TokenData, device: str, config: MonteCarloConfig
    ) -> None:
        super().__init__(networks, data, device, ema_rate=1.0)
        self.config, self.returns = config, own_returns(data)

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]:
        q, v = self.heads(teacher_forced(self.model, batch).hidden.float())
        returns = self.returns[steps].to(self.device)
        loss, metrics = monte_carlo_loss(q, v, batch, returns, self.config.conservatism)
        return scaled(loss, metrics, scale.value)

    def refresh(self) -> None:
        """Nothing: a log's own return is no estimate."""
