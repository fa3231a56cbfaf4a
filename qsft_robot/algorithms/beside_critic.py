"""A policy stage beside a critic of whole decisions, both trained on the same uniform batches."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qsft_robot.algorithms.critic import CriticStage, add_critic
from qsft_robot.algorithms.log_probs import Metrics
from qsft_robot.algorithms.networks import PolicyNetworks
from qsft_robot.algorithms.stage import WHOLE, Scale, ValueStage, scaled, uniform_steps
from qsft_robot.config.critic import CriticConfig
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData


class BesideCriticStage(ValueStage):
    """A base of methods that extract a policy from A(s, a) = Q(s, a) - V(s) of the logs' decisions.

    A subclass says what theta's loss is. Advantages are the slow copy's; those of all steps are
    read anew every `refresh_every` updates.
    """

    refresh_every = 200

    def __init__(
        self, networks: PolicyNetworks, data: TokenData, device: str, config: CriticConfig
    ) -> None:
        super().__init__(networks, data, device)
        add_critic(networks, data, config).to(device)
        self.judge = CriticStage(networks, data, device, config)
        self.advantage = torch.zeros(len(data))

    def policy_loss(self, batch: TokenBatch, steps: Int[Tensor, " b"]) -> tuple[Tensor, Metrics]:
        """The loss of theta on one batch."""
        raise NotImplementedError

    def trained(self) -> list[nn.Module]:
        return [self.model, self.judge.critic]

    def draw(self, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
        return uniform_steps(torch.arange(len(self.data)), batch_size, generator)

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]:
        policy, metrics = self.policy_loss(batch, steps)
        value, of_critic = self.judge.loss(batch, steps)
        loss = policy + value
        return scaled(loss, {**of_critic, **metrics, "loss/total": loss.detach()}, scale.value)

    def before_update(self, update: int) -> None:
        self.judge.before_update(update)
        if update % self.refresh_every == 0:
            self.refresh()

    def refresh(self) -> None:
        """Read the advantage of every step anew."""
        everything = torch.arange(len(self.data))
        parts = [self.advantages_at(steps) for steps in everything.split(1024)]
        self.advantage = torch.cat(parts)

    @torch.no_grad()
    def advantages_at(self, steps: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Q - V of the logs' decisions by the slow copy, on the CPU."""
        return self.judge.advantages(self.read(steps, torch.Generator()), steps).cpu()

    def after_update(self) -> None:
        self.judge.after_update()

    def tensors(self) -> dict[str, Tensor]:
        of_critic = {f"judge.{name}": x for name, x in self.judge.tensors().items()}
        return {"advantage": self.advantage, **of_critic}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.advantage = tensors["advantage"]
        self.judge.load_tensors(
            {k.removeprefix("judge."): x for k, x in tensors.items() if k.startswith("judge.")}
        )
