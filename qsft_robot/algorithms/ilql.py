"""The value stage of the value-head rival (ILQL)."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qsft_robot.algorithms.networks import PolicyNetworks, teacher_forced
from qsft_robot.algorithms.qsft import Metrics, TokenBatch, ilql_loss
from qsft_robot.algorithms.stage import WHOLE, Scale, ValueStage, follow, scaled, uniform_steps
from qsft_robot.config.train import ILQLConfig
from qsft_robot.token_data.token_data import TokenData


class ILQLStage(ValueStage):
    """The value-head rival: Q and V heads on a copy of phi; phi acts, shifted by Q - V."""

    def __init__(
        self,
        networks: PolicyNetworks,
        data: TokenData,
        device: str,
        config: ILQLConfig,
        gamma: float,
    ) -> None:
        super().__init__(networks, data, device)
        assert networks.heads is not None
        self.config, self.gamma, self.heads = config, gamma, networks.heads
        self.slow_heads = copy.deepcopy(networks.heads)
        self.next_values = torch.zeros(len(data))
        self.refresh_every = 200

    def trained(self) -> list[nn.Module]:
        return [self.model, self.heads]

    def draw(self, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
        return uniform_steps(torch.arange(len(self.data)), batch_size, generator)

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]:
        hidden = teacher_forced(self.model, batch).hidden.float()
        q, v = self.heads(hidden)
        with torch.no_grad():
            q_slow, _ = self.slow_heads(hidden)
        target = self.step_targets(steps).to(self.device)
        loss, metrics = ilql_loss(
            q, q_slow, v, batch, target, self.config.expectile, self.config.conservatism
        )
        return scaled(loss, metrics, scale.value)

    def step_targets(self, steps: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """r + gamma V(s') of whole decisions, V from the last refresh."""
        rewards, lengths = self.data.chunk_rewards(steps, self.gamma)
        return rewards + self.gamma**lengths * self.next_values[steps]

    def before_update(self, update: int) -> None:
        if update % self.refresh_every == 0 and update > 0:
            self.refresh()

    def after_update(self) -> None:
        follow(self.slow_heads, self.heads, self.config.ema_rate)

    def refresh(self) -> None:
        """Recompute V of the state after each decision, 0 after a terminal one."""
        next_rows, ended = self.data.next_rows(torch.arange(len(self.data)))
        values = self.values_at(torch.arange(self.data.rows))
        self.next_values = torch.where(ended, 0.0, values[next_rows])

    def state_value(self, hidden: Float[Tensor, "b n c"]) -> Float[Tensor, "b n"]:
        return self.heads(hidden.float())[1].clamp(0.0, 1.0)

    def tensors(self) -> dict[str, Tensor]:
        slow = {f"slow.{name}": x for name, x in self.slow_heads.state_dict().items()}
        return {"next_values": self.next_values, **slow}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.next_values = tensors["next_values"]
        self.slow_heads.load_state_dict(
            {k.removeprefix("slow."): x for k, x in tensors.items() if k.startswith("slow.")}
        )
