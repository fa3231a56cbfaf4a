"""Advantage-conditioned imitation: each decision told whether its advantage is among the highest.

The extraction of RECAP (pi*0.6, arXiv 2511.14759): the policy learns all decisions, good ones under
one condition and the rest under the other, and acts under the first.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from qsft_robot.algorithms.beside_critic import BesideCriticStage
from qsft_robot.algorithms.log_probs import Metrics
from qsft_robot.algorithms.networks import PolicyNetworks, teacher_forced
from qsft_robot.algorithms.sft import sft_loss
from qsft_robot.config.critic import CriticConfig
from qsft_robot.config.methods import AdvantageConditionedConfig
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData


class AdvantageConditionedStage(BesideCriticStage):
    """Supervised fine-tuning told 1 for the share of decisions of the highest advantage, else 0."""

    def __init__(
        self,
        networks: PolicyNetworks,
        data: TokenData,
        device: str,
        config: AdvantageConditionedConfig,
    ) -> None:
        settings = CriticConfig(members=config.members, expectile=config.expectile)
        super().__init__(networks, data, device, settings)
        self.config = config

    def policy_loss(self, batch: TokenBatch, steps: Int[Tensor, " b"]) -> tuple[Tensor, Metrics]:
        edge = torch.quantile(self.advantage[:1_000_000], 1 - self.config.share)
        good = (self.advantage[steps] > edge).float().to(self.device)
        told = replace(batch, returns=good)
        loss, metrics = sft_loss(teacher_forced(self.model, told).logits, told)
        return loss, {**metrics, "q/good_share": good.mean()}
