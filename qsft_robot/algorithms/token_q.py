"""The base of methods that learn Q of every token: targets by the largest Q of the next token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qsft_robot.algorithms.log_probs import Metrics, chosen, masked_mean
from qsft_robot.algorithms.networks import PolicyNetworks, first_token, inference, teacher_forced
from qsft_robot.algorithms.stage import WHOLE, HeadStage, Scale, own_returns, scaled
from qsft_robot.config.methods import TokenQConfig
from qsft_robot.parallel.passes import from_all, my_share
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData


def largest(q: Float[Tensor, "*b v"], legal: Bool[Tensor, "*b v"]) -> Float[Tensor, "*b"]:
    """The largest Q of a legal token; Q lies in [0, 1]."""
    return q.masked_fill(~legal, 0.0).amax(-1)


def token_targets(
    q: Float[Tensor, "b n v"],
    batch: TokenBatch,
    step_target: Float[Tensor, " b"],
    floor: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, "b n"]:
    """Targets of the tokens taken: of an inner one the largest `q` of the next token, of the last
    that is no padding `step_target`; no less than `floor`, the log's own return, where that is
    given (the Monte-Carlo lower bound of Q-Transformer, section 4.2)."""
    best = largest(q, batch.legal)
    following = torch.cat([best[:, 1:], best[:, :1]], -1)
    last = batch.token_mask.long().sum(-1, keepdim=True) - 1
    target = following.scatter(1, last.clamp(min=0), step_target[:, None])
    return target if floor is None else torch.maximum(target, floor[:, None])


class TokenQStage(HeadStage):
    """Q of every token on a copy of phi. A subclass adds what holds down the tokens not taken."""

    def __init__(
        self, networks: PolicyNetworks, data: TokenData, device: str, config: TokenQConfig
    ) -> None:
        self.config, self.returns = config, own_returns(data)
        networks.head.start_at(float(self.returns.mean()))
        super().__init__(networks, data, device, config.ema_rate)
        self.refresh()

    def held_down(self, q: Float[Tensor, "b n v"], batch: TokenBatch) -> Float[Tensor, ""]:
        """The conservative term."""
        raise NotImplementedError

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]:
        hidden = teacher_forced(self.model, batch).hidden.float()
        q = self.heads(hidden)
        with torch.no_grad():
            slow = self.slow_heads(hidden)
        floor = self.returns[steps].to(self.device) if self.config.floor else None
        target = token_targets(slow, batch, self.step_targets(steps).to(self.device), floor)
        error = masked_mean((chosen(q, batch.action_ids) - target).square(), batch.token_mask)
        held = self.held_down(q, batch)
        loss = error + self.config.conservatism * held
        metrics = {
            "loss/total": loss.detach(),
            "loss/q": error.detach(),
            "loss/conservative": held.detach(),
            "q/value_mean": masked_mean(largest(q.detach(), batch.legal), batch.token_mask),
            "q/target_mean": masked_mean(target, batch.token_mask),
        }
        return scaled(loss, metrics, scale.value)

    def values_at(self, rows: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
        """The largest Q of a decision's first token by the slow heads, at observation rows."""
        best = torch.zeros(len(rows))
        with inference(self.networks):
            for part in my_share(len(rows), self.model):
                context = self.data.context(rows[part]).to(self.device)
                q = self.slow_heads(first_token(self.model, context).hidden.float())
                legal = self.data.legal_first(rows[part]).to(self.device)
                best[part] = largest(q[:, 0], legal).cpu()
        return from_all(best, self.model)
