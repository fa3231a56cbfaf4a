"""The value stage of the value-head baseline (ILQL)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qsft_robot.algorithms.log_probs import Metrics, at_least_float32, chosen, masked_mean
from qsft_robot.algorithms.networks import PolicyNetworks, teacher_forced
from qsft_robot.algorithms.stage import WHOLE, HeadStage, Scale, scaled
from qsft_robot.algorithms.value_heads import heads_loss
from qsft_robot.config.methods import ILQLConfig
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData


def ilql_loss(
    q: Float[Tensor, "b n v"],
    q_target: Float[Tensor, "b n v"],
    v: Float[Tensor, "b n"],
    batch: TokenBatch,
    step_target: Float[Tensor, " b"],
    expectile: float,
    conservatism: float,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Implicit language Q-learning, the value-head baseline (Snell et al., arXiv 2206.11871; the
    expectile of IQL, Kostrikov et al., arXiv 2110.06169).

    Q of an inner token regresses on V of the next token, Q of the last token on `step_target`
    (r + gamma V(s_{t+1})); V is the `expectile` of the slow-moving `q_target` over the data; the
    conservative term is a cross entropy of softmax(Q) towards the token taken. No gradient into
    targets.
    """
    q, q_target, v = at_least_float32(q), at_least_float32(q_target), at_least_float32(v)
    mask = batch.token_mask
    last = mask.long().sum(-1, keepdim=True) - 1  # index of the last real token
    following = torch.cat([v.detach()[:, 1:], v.detach()[:, :1]], -1)
    q_goal = following.scatter(1, last.clamp(min=0), step_target.detach()[:, None])
    gap = chosen(q_target, batch.action_ids).detach() - v
    weight = torch.where(gap > 0, expectile, 1 - expectile)
    v_term = masked_mean(weight * gap**2, mask)
    return heads_loss(q, v, batch, q_goal, v_term, conservatism)


class ILQLStage(HeadStage):
    """The value-head baseline: Q and V heads on a copy of phi; phi acts, shifted by Q - V."""

    def __init__(
        self,
        networks: PolicyNetworks,
        data: TokenData,
        device: str,
        config: ILQLConfig,
    ) -> None:
        super().__init__(networks, data, device, config.ema_rate)
        self.config = config

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
