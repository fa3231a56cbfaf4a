"""A policy stage beside a critic of whole decisions, both trained on the same uniform batches."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor, nn

from qsft_robot.algorithms.critic import CriticStage, add_critic
from qsft_robot.algorithms.log_probs import Metrics
from qsft_robot.algorithms.networks import PolicyNetworks, under
from qsft_robot.algorithms.stage import WHOLE, Scale, ValueStage, scaled
from qsft_robot.config.critic import CriticConfig
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData


class BesideCriticStage(ValueStage):
    """A base of methods that extract a policy from A(s, a) = Q(s, a) - V(s) of the logs' decisions.

    A subclass says what theta's loss is, and what it reads anew every `refresh_every` updates.
    """

    refresh_every = 200

    def __init__(
        self, networks: PolicyNetworks, data: TokenData, device: str, config: CriticConfig
    ) -> None:
        super().__init__(networks, data, device)
        add_critic(networks, data, device, config)
        self.judge = CriticStage(networks, data, device, config)

    def policy_loss(self, batch: TokenBatch, steps: Int[Tensor, " b"]) -> tuple[Tensor, Metrics]:
        """The loss of theta on one batch."""
        raise NotImplementedError

    def trained(self) -> list[nn.Module]:
        return [self.model, self.judge.critic]

    def part(
        self, drawn: Int[Tensor, " B"], index: int, count: int
    ) -> tuple[Int[Tensor, " b"], Scale]:
        """The policy's means are over tokens, the critic's over decisions."""
        return self.judge.part(drawn, index, count)

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]:
        policy, metrics = scaled(*self.policy_loss(batch, steps), scale.policy)
        value, of_critic = self.judge.loss(batch, steps, scale)
        loss = policy + value
        return loss, {**of_critic, **metrics, "loss/total": loss.detach()}

    def before_update(self, update: int) -> None:
        self.judge.before_update(update)
        if update % self.refresh_every == 0:
            self.refresh()

    def refresh(self) -> None: ...

    def after_update(self) -> None:
        self.judge.after_update()

    def tensors(self) -> dict[str, Tensor]:
        return {f"judge.{name}": x for name, x in self.judge.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.judge.load_tensors(under(tensors, "judge."))
