"""Advantage-conditioned imitation: each decision told whether its advantage is among the highest.

The extraction of RECAP (pi*0.6, arXiv 2511.14759): the policy learns all decisions, good ones under
one condition and the rest under the other, and acts under the first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from qsft_robot.algorithms.beside_critic import BesideCriticStage
from qsft_robot.algorithms.log_probs import Metrics
from qsft_robot.algorithms.networks import PolicyNetworks, teacher_forced
from qsft_robot.algorithms.sft import sft_loss
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
        super().__init__(networks, data, device, config.critic)
        self.config = config
        self.good = torch.zeros(len(data), dtype=torch.bool)

    def refresh(self) -> None:
        """Find the decisions of the highest advantage anew."""
        parts = torch.arange(len(self.data)).split(1024)
        found = [self.judge.advantages(self.read(x, torch.Generator()), x) for x in parts]
        advantage = torch.cat(found).cpu().numpy()
        edge = np.quantile(advantage, 1 - self.config.share)
        self.good = torch.from_numpy(advantage > edge)

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), "good": self.good}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        super().load_tensors(tensors)
        self.good = tensors["good"]

    def policy_loss(self, batch: TokenBatch, steps: Int[Tensor, " b"]) -> tuple[Tensor, Metrics]:
        good = self.good[steps].float().to(self.device)
        told = replace(batch, returns=good)
        return sft_loss(teacher_forced(self.model, told).logits, told)
