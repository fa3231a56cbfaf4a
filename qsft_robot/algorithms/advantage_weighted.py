"""Advantage-weighted imitation: the logs' decisions weighted by exp(A / temperature).

The extraction of AWR (Peng et al., arXiv 1910.00177) and IQL (Kostrikov et al., arXiv 2110.06169)
with the critic of whole decisions, which Q-SFT has too.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from qsft_robot.algorithms.beside_critic import BesideCriticStage
from qsft_robot.algorithms.log_probs import Metrics
from qsft_robot.algorithms.networks import PolicyNetworks, teacher_forced
from qsft_robot.algorithms.sft import sft_loss
from qsft_robot.config.methods import AdvantageWeightedConfig
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData


def advantage_weights(
    advantage: Float[Tensor, " b"], temperature: float, largest: float
) -> Float[Tensor, " b"]:
    """exp(A / temperature), at most `largest`; the weights that maximize the mean advantage within
    a distance of the behavior."""
    return (advantage / temperature).exp().clamp(max=largest)


class AdvantageWeightedStage(BesideCriticStage):
    """Imitation of the logs' decisions, each weighted by its advantage."""

    def __init__(
        self,
        networks: PolicyNetworks,
        data: TokenData,
        device: str,
        config: AdvantageWeightedConfig,
    ) -> None:
        super().__init__(networks, data, device, config.critic)
        self.config = config

    def policy_loss(self, batch: TokenBatch, steps: Int[Tensor, " b"]) -> tuple[Tensor, Metrics]:
        advantage = self.judge.advantages(batch, steps)
        weight = advantage_weights(advantage, self.config.temperature, self.config.largest_weight)
        return sft_loss(teacher_forced(self.model, batch).logits, batch, weight)
