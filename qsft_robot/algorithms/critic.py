"""The critic of whole decisions: its targets, its losses, and the stage that trains it.

The value policy's ratio p~ / pi_phi tells tokens apart one by one, each with the noise of two
networks. The critic reads the decision whole and answers the same question, "what is the target of
a log that goes on so", by the same loss, the cross entropy of a probability: Q(s, a) on the targets
and V(s) as an expectile of Q over the decisions of the logs (Kostrikov, Nair, Levine, "Offline
Reinforcement Learning with Implicit Q-Learning", arXiv 2110.06169, with cross entropy in place of
squares), so that no maximum is taken over a noisy estimate.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qsft_robot.algorithms.log_probs import Metrics
from qsft_robot.algorithms.networks import PolicyNetworks, context_of, inference, under
from qsft_robot.algorithms.stage import WHOLE, Scale, UniformStage, follow, own_returns, scaled
from qsft_robot.config.critic import CriticConfig
from qsft_robot.parallel.distributed import processes
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData
from tokenizers_action.protocol import TextTokenizer
from vlm.critic import COMBINE, CriticShape, DecisionCritic
from vlm.model import Context


def add_critic(
    networks: PolicyNetworks, data: TokenData, device: str, config: CriticConfig
) -> DecisionCritic:
    """A fresh critic beside a policy, which reads what the policy reads; the same one in every
    process."""
    model, tokenizer = networks.trunks()[-1], data.tokenizer
    shape = model.config
    numbers = 0 if isinstance(tokenizer, TextTokenizer) else tokenizer.horizon
    cameras = shape.frame_image_tokens if data.cameras else 0
    networks.critic = DecisionCritic(
        CriticShape(
            action_numbers=numbers * tokenizer.action_dim,
            n_tokens=tokenizer.n_tokens,
            vocab_size=tokenizer.vocab_size,
            history=shape.history,
            state_dim=shape.state_dim,
            image_tokens=cameras,
            image_width=shape.width if cameras else 0,
            word_buckets=0 if data.words is None else 4096,
            members=config.members,
            width=config.width,
            dropout=config.dropout,
            combine=config.combine,
        )
    )
    networks.critic.to(device)
    processes().share(networks.critic)
    return networks.critic


def decision_targets(
    rewards: Float[Tensor, " b"],
    lengths: Int[Tensor, " b"],
    ended: Bool[Tensor, " b"],
    following: Float[Tensor, " b"],
    returns: Float[Tensor, " b"],
    *,
    discount: float,
    lam: float,
) -> Float[Tensor, " b"]:
    """Targets of Q: (1 - lam) (r + discount^length V(s')) + lam (the log's own return).

    `rewards` are the discounted reward terms within the decision and `lengths` the actions in it;
    where a terminated log `ended`, nothing follows.
    """
    onward = rewards + discount**lengths * torch.where(ended, 0.0, following)
    return (1 - lam) * onward + lam * returns


def expectile_loss(
    logits: Float[Tensor, "*b"], target: Float[Tensor, "*b"], expectile: float
) -> Float[Tensor, ""]:
    """The asymmetric cross entropy of probabilities: targets above the present one weigh
    `expectile`, the others 1 - `expectile`. At .5 its minimizer is the mean of the targets, and
    towards 1 it tends to the largest. No gradient flows into `target` or the weights."""
    target = target.detach()
    weight = torch.where(target > torch.sigmoid(logits.detach()), expectile, 1 - expectile)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (weight * each).mean()


class CriticStage(UniformStage):
    """Training of the critic on uniform steps of all logs, beside a policy that stands."""

    def __init__(
        self, networks: PolicyNetworks, data: TokenData, device: str, config: CriticConfig
    ) -> None:
        assert networks.critic is not None
        self.critic: DecisionCritic = networks.critic
        self.model = networks.trunks()[-1]
        self.data, self.device, self.config = data, device, config
        self.critic.start_at(float(own_returns(data).mean()))
        self.slow = copy.deepcopy(self.critic).requires_grad_(False).eval()
        self.numbers: Tensor | None = None
        if not isinstance(data.tokenizer, TextTokenizer):
            self.numbers = torch.from_numpy(data.tokenizer.decode(data.action_ids.numpy()))
            self.numbers = self.numbers.flatten(1).float()
        self.returns = torch.zeros(len(data))
        self.refresh()

    def trained(self) -> list[nn.Module]:
        return [self.critic]

    def part(
        self, drawn: Int[Tensor, " B"], index: int, count: int
    ) -> tuple[Int[Tensor, " b"], Scale]:
        """Every `count`-th step of the draw. The critic's means are over decisions, not tokens."""
        steps, scale = super().part(drawn, index, count)
        return steps, scale._replace(value=count * len(steps) / len(drawn))

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]:
        config, critic = self.config, self.critic
        context, numbers = self._context(batch), self._numbers_at(steps)
        encoded = critic.encode(context)
        decision = critic.read_decision(batch.action_ids, numbers)
        with torch.no_grad():
            taken = self.slow.read_decision(batch.action_ids, numbers)
            q_slow = self.slow.scores(self.slow.encode(context), taken)
        target = self.targets(steps).to(self.device)
        q = critic.action_values(encoded, decision)
        v = critic.values(encoded)
        q_term = F.binary_cross_entropy_with_logits(q, target.expand_as(q))
        v_term = expectile_loss(v, q_slow.expand_as(v), config.expectile)
        loss = q_term + v_term
        value = torch.sigmoid(v.detach()).mean(0)
        metrics = {
            "loss/total": loss.detach(),
            "loss/q": q_term.detach(),
            "loss/v": v_term.detach(),
            "q/value_mean": value.mean(),
            "q/target_mean": target.mean(),
            "q/advantage_square": (q_slow - value).square().mean(),
            "q/members_spread": torch.sigmoid(q.detach()).std(0, unbiased=False).mean(),
        }
        return scaled(loss, metrics, scale.value)

    @torch.no_grad()
    def advantages(self, batch: TokenBatch, steps: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Q - V of the logs' decisions by the slow copy."""
        seen = self.slow.encode(self._context(batch))
        decision = self.slow.read_decision(batch.action_ids, self._numbers_at(steps))
        combine = COMBINE[self.critic.config.combine]
        value = combine(torch.sigmoid(self.slow.values(seen)))
        return self.slow.scores(seen, decision) - value

    def targets(self, steps: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Targets of Q at drawn steps, V of the state after each decision by the slow copy."""
        next_rows, ended = self.data.next_rows(steps)
        rewards, lengths = self.data.chunk_rewards(steps)
        return decision_targets(
            rewards,
            lengths,
            ended,
            self.values_at(next_rows),
            self.returns[steps],
            discount=self.data.discount,
            lam=self.config.lam,
        )

    def refresh(self) -> None:
        """Recompute the logs' own returns, those of cut logs going on with V of their last row."""
        if self.config.lam == 0:
            return
        final = self.values_at(self.data.final_rows)
        self.returns = own_returns(self.data, torch.where(self.data.terminated, 0.0, final))

    def before_update(self, update: int) -> None:
        if update % _REFRESH_EVERY == 0 and update > 0:
            self.refresh()

    def after_update(self) -> None:
        follow(self.slow, self.critic, self.config.ema_rate)

    def tensors(self) -> dict[str, Tensor]:
        slow = {f"slow.{name}": x for name, x in self.slow.state_dict().items()}
        return {"returns": self.returns, **slow}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.returns = tensors["returns"]
        self.slow.load_state_dict(under(tensors, "slow."))

    @torch.no_grad()
    def values_at(self, rows: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
        """V(s) of the slow copy at observation rows, on the CPU."""
        found = []
        for part in rows.split(4096):
            context = self.data.context(part).to(self.device)
            values = self.slow.values(self.slow.encode(self._context(context)))
            found.append(COMBINE[self.critic.config.combine](torch.sigmoid(values)).cpu())
        return torch.cat(found)

    def _numbers_at(self, steps: Int[Tensor, " b"]) -> Tensor | None:
        return None if self.numbers is None else self.numbers[steps].to(self.device)

    def _context(self, batch: TokenBatch) -> Context:
        with inference(self.model):
            return context_of(self.model, batch)


# Updates between two computations of the logs' own returns, which move only where logs were cut.
_REFRESH_EVERY = 200
