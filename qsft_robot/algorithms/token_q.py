"""The base of methods that learn Q of every token: targets by the largest Q of the next token."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qsft_robot.algorithms.log_probs import Metrics, chosen, masked_mean
from qsft_robot.algorithms.networks import PolicyNetworks, first_token, inference, teacher_forced
from qsft_robot.algorithms.stage import WHOLE, Scale, ValueStage, follow, scaled, uniform_steps
from qsft_robot.algorithms.targets import lambda_returns
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


class TokenQStage(ValueStage):
    """Q of every token on a copy of phi. A subclass adds what holds down the tokens not taken."""

    refresh_every = 200

    def __init__(
        self, networks: PolicyNetworks, data: TokenData, device: str, config: TokenQConfig
    ) -> None:
        super().__init__(networks, data, device)
        self.config, self.heads = config, networks.head
        table = lambda_returns(
            data.reward_terms,
            data.steps,
            data.terminated,
            data.padded(torch.zeros(len(data), 1), torch.zeros(len(data.names))),
            discount=data.discount,
            lam=1.0,
            horizon=data.tokenizer.horizon,
        )
        self.returns = table[data.episode_of_step, data.time_of_step, 0]
        self.heads.start_at(float(self.returns.mean()))
        self.slow_heads = copy.deepcopy(networks.head)
        self.next_values = torch.zeros(len(data))
        self.refresh()

    def held_down(self, q: Float[Tensor, "b n v"], batch: TokenBatch) -> Float[Tensor, ""]:
        """The conservative term."""
        raise NotImplementedError

    def trained(self) -> list[nn.Module]:
        return [self.model, self.heads]

    def draw(self, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
        return uniform_steps(torch.arange(len(self.data)), batch_size, generator)

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]:
        hidden = teacher_forced(self.model, batch).hidden.float()
        q = self.heads(hidden)
        with torch.no_grad():
            slow = self.slow_heads(hidden)
        rewards, lengths = self.data.chunk_rewards(steps)
        step_target = rewards + self.data.discount**lengths * self.next_values[steps]
        floor = self.returns[steps].to(self.device) if self.config.floor else None
        target = token_targets(slow, batch, step_target.to(self.device), floor)
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

    def before_update(self, update: int) -> None:
        if update % self.refresh_every == 0 and update > 0:
            self.refresh()

    def after_update(self) -> None:
        follow(self.slow_heads, self.heads, self.config.ema_rate)

    def refresh(self) -> None:
        """Read the largest Q of the state after each decision anew, 0 after a terminal one."""
        data = self.data
        next_rows, ended = data.next_rows(torch.arange(len(data)))
        best = torch.zeros(data.rows)
        with inference(self.networks):
            for part in my_share(data.rows, self.model):
                rows = torch.arange(data.rows)[part]
                hidden = first_token(self.model, data.context(rows).to(self.device)).hidden
                legal = data.legal_first(rows).to(self.device)
                best[part] = largest(self.slow_heads(hidden.float())[:, 0], legal).cpu()
        best = from_all(best, self.model)
        self.next_values = torch.where(ended, 0.0, best[next_rows])

    def tensors(self) -> dict[str, Tensor]:
        slow = {f"slow.{name}": x for name, x in self.slow_heads.state_dict().items()}
        return {"next_values": self.next_values, **slow}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.next_values = tensors["next_values"]
        self.slow_heads.load_state_dict(
            {k.removeprefix("slow."): x for k, x in tensors.items() if k.startswith("slow.")}
        )
