"""Filtered SFT that also keeps the logs which were cut in a promising state.

Filtered SFT throws away every log whose success nobody saw. This one looks at V of the state in
which a log was cut, and keeps the log where that is above the data's mean return.
"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from qsft_robot.algorithms.beside_critic import BesideCriticStage
from qsft_robot.algorithms.log_probs import Metrics
from qsft_robot.algorithms.networks import PolicyNetworks, teacher_forced
from qsft_robot.algorithms.sft import sft_loss
from qsft_robot.algorithms.stage import own_returns
from qsft_robot.config.methods import FilteredByValueConfig
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData


class FilteredByValueStage(BesideCriticStage):
    """Supervised fine-tuning on successful logs, and on cut ones with a high V at their end."""

    def __init__(
        self,
        networks: PolicyNetworks,
        data: TokenData,
        device: str,
        config: FilteredByValueConfig,
    ) -> None:
        super().__init__(networks, data, device, config.critic)
        self.keep = data.success.clone()
        self.mean = float(own_returns(data).mean())

    def policy_loss(self, batch: TokenBatch, steps: Int[Tensor, " b"]) -> tuple[Tensor, Metrics]:
        kept = self.keep[self.data.episode_of_step[steps]].float().to(self.device)
        return sft_loss(teacher_forced(self.model, batch).logits, batch, kept)

    def refresh(self) -> None:
        """Look at the ends of the cut logs anew."""
        ends = self.judge.values_at(self.data.final_rows)
        self.keep = self.data.success | (~self.data.terminated & (ends > self.mean))

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), "keep": self.keep}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        super().load_tensors(tensors)
        self.keep = tensors["keep"]
