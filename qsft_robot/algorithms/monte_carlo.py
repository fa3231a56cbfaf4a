"""Monte-Carlo value heads: Q of every token by regression on the log's own return from there on.

The baseline "MC" of LMRL-Gym (Abdulhai et al., arXiv 2311.18232): no bootstrap, so that Q is that
of the behavior, and the policy acts by the behavior shifted by Q - V.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from qsft_robot.algorithms.log_probs import Metrics, at_least_float32, masked_mean
from qsft_robot.algorithms.networks import PolicyNetworks, teacher_forced
from qsft_robot.algorithms.stage import WHOLE, Scale, ValueStage, own_returns, scaled
from qsft_robot.algorithms.value_heads import heads_loss
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
    q, v = at_least_float32(q), at_least_float32(v)
    goal = returns.detach()[:, None].expand_as(v)
    v_term = masked_mean((v - goal) ** 2, batch.token_mask)
    return heads_loss(q, v, batch, goal, v_term, conservatism)


class MonteCarloStage(ValueStage):
    """Q and V heads on a copy of phi, on returns that never change; phi acts, shifted by Q - V."""

    def __init__(
        self, networks: PolicyNetworks, data: TokenData, device: str, config: MonteCarloConfig
    ) -> None:
        super().__init__(networks, data, device)
        self.heads, self.config, self.returns = networks.head, config, own_returns(data)

    def trained(self) -> list[nn.Module]:
        return [self.model, self.heads]

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]:
        q, v = self.heads(teacher_forced(self.model, batch).hidden.float())
        returns = self.returns[steps].to(self.device)
        loss, metrics = monte_carlo_loss(q, v, batch, returns, self.config.conservatism)
        return scaled(loss, metrics, scale.value)
