"""The value stage of Q-SFT: the table of targets, the draw in proportion to it, the loss."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qsft_robot.algorithms.log_probs import ILLEGAL, Metrics, is_legal, legal_log_softmax
from qsft_robot.algorithms.networks import (
    PolicyNetworks,
    first_token,
    inference,
    teacher_forced,
    under,
    value_of,
)
from qsft_robot.algorithms.qsft import backup, qsft_loss, uniform_residual_loss
from qsft_robot.algorithms.stage import (
    WHOLE,
    Scale,
    ValueStage,
    every_nth,
    follow,
    proportional_steps,
    scaled,
    uniform_steps,
)
from qsft_robot.algorithms.targets import lambda_returns
from qsft_robot.config.methods import QSFTConfig
from qsft_robot.parallel.passes import from_all, my_share
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData


class QSFTStage(ValueStage):
    """Q-SFT on a table of lambda-returns, or on one-step targets of a slow copy of theta."""

    def __init__(
        self, networks: PolicyNetworks, data: TokenData, device: str, config: QSFTConfig
    ) -> None:
        super().__init__(networks, data, device)
        self.config = config
        self.token_level = config.backup != "value"
        self.log_phi: Tensor | None = None  # [N, n, v], cached once
        self.log_phi_final: Tensor | None = None  # [e, v], at the last rows
        if self.token_level:
            self._cache_behavior()
        self.slow = slow_copy(networks) if config.targets == "ema" else None
        self.table = torch.zeros(len(data), data.tokenizer.n_tokens)
        if networks.head is not None:
            # V starts as the mean return of the data, in every state.
            table = self._lambda_table(torch.zeros(len(data), 1), torch.zeros(len(data.names)))
            networks.head.start_at(float(table[:, 0].mean()))
        self.refresh()

    def trained(self) -> list[nn.Module]:
        return [m for m in (self.networks.value, self.networks.head) if m is not None]

    def draw(self, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
        everything = torch.arange(len(self.data))
        if self.config.balance == "weighted":
            return uniform_steps(everything, batch_size, generator)
        policy_rows = self.policy_rows(batch_size)
        return torch.cat(
            [
                uniform_steps(everything, batch_size - policy_rows, generator),
                proportional_steps(self.cumulative, policy_rows, generator),
            ]
        )

    def policy_rows(self, batch_size: int) -> int:
        """How many rows at the end of a balanced batch carry the policy term."""
        return int(batch_size * self.config.policy_share)

    def part(
        self, drawn: Int[Tensor, " B"], index: int, count: int
    ) -> tuple[Int[Tensor, " b"], Scale]:
        """A share of the draw; of a balanced one equally much of either kind of rows."""
        if self.config.balance == "weighted" or count == 1:
            return super().part(drawn, index, count)
        first = len(drawn) - self.policy_rows(len(drawn))
        uniform, value_share = every_nth(self.data, drawn[:first], index, count)
        proportional, policy_share = every_nth(self.data, drawn[first:], index, count)
        scale = Scale(value_share, policy_share, len(proportional))
        return torch.cat([uniform, proportional]), scale

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]:
        target = self.targets(batch, steps)
        output = teacher_forced(self.model, batch)
        if self.networks.head is None:
            return scaled(*uniform_residual_loss(output.logits, batch, target), scale.value)
        value_logits = self.networks.head(output.hidden)
        value_weight = torch.full_like(target, self.config.value_weight)
        if self.config.balance == "weighted":
            weighted = qsft_loss(output.logits, value_logits, batch, target, value_weight)
            return scaled(*weighted, scale.value)
        policy_rows = scale.policy_rows
        if policy_rows is None:
            policy_rows = self.policy_rows(len(steps))
        value_weight[len(steps) - policy_rows :] = 0.0
        # Rows were drawn in proportion to the step's mean target; tokens share it out (all ones
        # with the value backup, where a step has one target).
        step_mean = target.mean(-1, keepdim=True).clamp(min=1e-6)
        policy_weight = (value_weight == 0) * target / step_mean
        loss, metrics = qsft_loss(
            output.logits,
            value_logits,
            batch,
            target,
            value_weight * scale.value,
            policy_weight * scale.policy,
        )
        means = {name: x * scale.value for name, x in metrics.items() if name.startswith("q/")}
        return loss, metrics | means

    def targets(self, batch: TokenBatch, steps: Int[Tensor, " b"]) -> Float[Tensor, "b n"]:
        """The targets w of drawn steps, from the table or from the slow copy."""
        if self.slow is None:
            return self.table[steps].to(self.device)
        data, n = self.data, batch.action_ids.shape[1]
        next_rows, ended = data.next_rows(steps)
        context = data.context(next_rows).to(self.device)
        with inference(self.slow):
            inner = self._token_backups(self.slow, batch, self._phi_at(steps))
            ahead = self._first_backups(self.slow, context, self._phi_at_rows(next_rows))
        ahead = torch.where(ended, 0.0, ahead.cpu())
        rewards, lengths = data.chunk_rewards(steps)
        last = (rewards + self.data.discount**lengths * ahead).to(self.device)[:, None]
        # The step's own target stands at the last token that is no padding.
        real = batch.token_mask.sum(1, keepdim=True)
        is_last = torch.arange(1, n + 1, device=last.device) >= real
        return torch.where(is_last, last, inner.roll(-1, 1))

    def before_update(self, update: int) -> None:
        if update % self.config.refresh_every == 0 and update > 0 and self.slow is None:
            self.refresh()

    def after_update(self) -> None:
        if self.slow is not None:
            for slow, fast in zip(self.slow.children(), self.trained(), strict=True):
                follow(slow, fast, self.config.ema_rate)

    def refresh(self) -> None:
        """Recompute the table of targets with the present V."""
        data = self.data
        if self.slow is None:
            self.table = self._lambda_table(*self._bootstraps())
        weight = self.table.double().mean(-1)
        if self.config.balance == "proportional" and float(weight.sum()) <= 0:
            raise ValueError(
                f"all targets of the {len(data.names)} logs are 0: nothing succeeded, so there is "
                "nothing to prefer. Check the rewards with qsft-robot inspect; "
                "--data.success-reward turns a success signal into rewards."
            )
        self.cumulative = weight.cumsum(0)

    def tensors(self) -> dict[str, Tensor]:
        slow = {} if self.slow is None else self.slow.state_dict()
        return {"table": self.table, **{f"slow.{name}": x for name, x in slow.items()}}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.table = tensors["table"]
        self.cumulative = self.table.double().mean(-1).cumsum(0)
        if self.slow is not None:
            self.slow.load_state_dict(under(tensors, "slow."))

    def _read(self, steps: Tensor) -> TokenBatch:
        return self.data.batch(steps).to(self.device)

    def _lambda_table(self, flat: Tensor, final: Tensor) -> Float[Tensor, "N n"]:
        data, n = self.data, self.data.tokenizer.n_tokens
        table = lambda_returns(
            data.reward_terms,
            data.steps,
            data.terminated,
            data.padded(flat.expand(-1, n), final),
            discount=data.discount,
            lam=self.config.lam,
            horizon=data.tokenizer.horizon,
            token_level=self.token_level,
            real_tokens=data.real_tokens(),
        )
        return table[data.episode_of_step, data.time_of_step]

    def _bootstraps(self) -> tuple[Tensor, Tensor]:
        """Backups at every step, [N, n or 1], and at every last row, [e]; inference is run only
        where a target will read it."""
        data, config = self.data, self.config
        flat, final = torch.zeros(len(data), 1), torch.zeros(len(data.names))
        cut = (~data.terminated).nonzero().squeeze(1)
        if not self.token_level:
            if config.lam < 1:
                flat = self.values_at(data.row_of_step)[:, None]
            if len(cut):
                final[cut] = self.values_at(data.final_rows[cut])
            return flat, final
        flat = torch.zeros(len(data), data.tokenizer.n_tokens)
        with inference(self.networks):
            for steps in my_share(len(data), self.model):
                values = self._token_backups(self.networks, self._read(steps), self._phi_at(steps))
                flat[steps] = values.float().cpu()
            for part in my_share(len(cut), self.model) if len(cut) else ():
                episodes = cut[part]
                rows = data.final_rows[episodes]
                context = data.context(rows).to(self.device)
                values = self._first_backups(self.networks, context, self._phi_at_rows(rows))
                final[episodes] = values.float().cpu()
        return from_all(flat, self.model), from_all(final, self.model)

    def _token_backups(self, networks: PolicyNetworks, batch: TokenBatch, phi: Tensor) -> Tensor:
        assert networks.value is not None
        output = teacher_forced(networks.value, batch)
        return self._backup(networks, output.hidden, output.logits, phi, batch.legal)

    def _first_backups(self, networks: PolicyNetworks, context: TokenBatch, phi: Tensor) -> Tensor:
        assert networks.value is not None
        output = first_token(networks.value, context)
        phi = phi[:, None]
        return self._backup(networks, output.hidden, output.logits, phi, is_legal(phi))[:, 0]

    def _backup(
        self, networks: PolicyNetworks, hidden: Tensor, logits: Tensor, phi: Tensor, legal: Tensor
    ) -> Tensor:
        config = self.config
        return backup(
            config.backup,
            value_of(networks, hidden),
            legal_log_softmax(logits, legal),
            phi,
            legal,
            softness=config.softness,
            epsilon=config.backup_support,
        )

    def _cache_behavior(self) -> None:
        """Log-probabilities of phi over the data, computed once (float16)."""
        data, phi = self.data, self.networks.behavior
        assert phi is not None
        n, v = data.tokenizer.n_tokens, data.tokenizer.vocab_size
        self.log_phi = torch.zeros(len(data), n, v, dtype=torch.float16)
        self.log_phi_final = torch.zeros(len(data.names), v, dtype=torch.float16)
        with inference(self.networks):
            for steps in my_share(len(data), self.model):
                batch = self._read(steps)
                logits = teacher_forced(phi, batch).logits
                log_p = legal_log_softmax(logits, batch.legal)
                self.log_phi[steps] = half(log_p).cpu()
            for episodes in my_share(len(data.names), self.model):
                rows = data.final_rows[episodes]
                logits = first_token(phi, data.context(rows).to(self.device)).logits[:, 0]
                legal = data.legal_first(rows).to(self.device)
                self.log_phi_final[episodes] = half(legal_log_softmax(logits, legal)).cpu()
        self.log_phi = from_all(self.log_phi, phi)
        self.log_phi_final = from_all(self.log_phi_final, phi)

    def _phi_at(self, steps: Tensor) -> Tensor:
        assert self.log_phi is not None
        return unhalf(self.log_phi[steps]).to(self.device)

    def _phi_at_rows(self, rows: Tensor) -> Tensor:
        """First-token log-probabilities of phi at observation rows."""
        assert self.log_phi is not None
        assert self.log_phi_final is not None
        episode = self.data.episode_of_row[rows]
        last = rows == self.data.final_rows[episode]
        step = (rows - episode).clamp(max=len(self.data) - 1)
        taken = torch.where(last[:, None], self.log_phi_final[episode], self.log_phi[step, 0])
        return unhalf(taken).to(self.device)


def slow_copy(networks: PolicyNetworks) -> PolicyNetworks:
    """A copy of theta and its void outcome, without phi."""
    slow = PolicyNetworks(None)
    slow.value = copy.deepcopy(networks.value)
    if networks.head_name is not None:
        slow.add_head(networks.head_name, copy.deepcopy(networks.head))
    return slow


def half(log_probs: Tensor) -> Tensor:
    """float16; the mark of an illegal token becomes -inf, which float16 can hold."""
    return log_probs.masked_fill(~is_legal(log_probs), -torch.inf).half()


def unhalf(log_probs: Tensor) -> Tensor:
    """float32 again, with the finite mark of an illegal token."""
    return log_probs.float().clamp(min=ILLEGAL)
