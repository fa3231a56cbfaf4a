"""Decision Transformers: imitation of every step of a window, told the return to go.

Chen et al., arXiv 2106.01345; with a language model as the trunk and its language kept as an
auxiliary task LaMo, Shi et al., arXiv 2310.20587.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qsft_robot.algorithms.log_probs import Metrics, masked_mean
from qsft_robot.algorithms.networks import PolicyNetworks, context_of
from qsft_robot.algorithms.sft import sft_loss
from qsft_robot.algorithms.stage import WHOLE, Scale, UniformStage, scaled
from qsft_robot.config.lamo import LaMoConfig
from qsft_robot.parts.models import language_task
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData
from tokenizers_action.protocol import legal_along


@dataclass(frozen=True)
class WindowBatch(TokenBatch):
    """A batch of windows: beside the newest frame's decision those of all frames that are seen."""

    decisions: TokenBatch | None = None  # one row a frame that is seen
    numbers: Float[Tensor, "f a"] | None = None  # the normalized actions of these
    text: Int[Tensor, "p t"] | None = None  # passages of the auxiliary task

    def to(self, device: torch.device | str) -> WindowBatch:
        """The same batch on another device."""
        moved: Any = super().to(device)
        if moved.decisions is not None:
            object.__setattr__(moved, "decisions", moved.decisions.to(device))
        return moved


def continuous_loss(
    means: Float[Tensor, "f a"], numbers: Float[Tensor, "f a"], real: Bool[Tensor, "f a"]
) -> tuple[Float[Tensor, ""], Metrics]:
    """The mean squared error of actions in [-1, 1], those past the end of a log left out."""
    loss = masked_mean((means.float() - numbers).square(), real)
    return loss, {"loss/total": loss.detach(), "loss/mse": loss.detach()}


class DecisionTransformerStage(UniformStage):
    """Decisions of all frames of windows that end at steps drawn uniformly from all logs."""

    def __init__(
        self, networks: PolicyNetworks, data: TokenData, device: str, config: LaMoConfig
    ) -> None:
        assert networks.behavior is not None
        self.model: Any = networks.behavior
        self.data, self.device, self.config = data, device, config
        self.language: Any = None
        if config.text is not None:
            self.language = language_task(
                self.model, config.text, config.text_length, config.text_batch, device
            )

    def trained(self) -> list[nn.Module]:
        return [self.model]

    def part(
        self, drawn: Int[Tensor, " B"], index: int, count: int
    ) -> tuple[Int[Tensor, " b"], Scale]:
        """Every `count`-th window of the draw."""
        if count == 1:
            return drawn, WHOLE
        steps, seen = self.data.window_steps(drawn)
        tokens = (self.data.token_mask[steps].sum(2) * seen).sum(1)
        mine = slice(index, None, count)
        share = count * int(tokens[mine].sum()) / int(tokens.sum())
        return drawn[mine], Scale(share, share)

    def read(self, steps: Int[Tensor, " b"], generator: torch.Generator) -> WindowBatch:
        data = self.data
        window, seen = data.window_steps(steps)
        frames = window[seen]
        ids = data.action_ids[frames]
        legal = torch.from_numpy(legal_along(data.tokenizer, ids.numpy()))
        own = data.batch(steps)
        empty = torch.zeros(len(ids), 0)
        decisions = TokenBatch(
            state=empty[:, :, None],
            frame_mask=empty.bool(),
            text_ids=empty.long(),
            action_ids=ids,
            token_mask=data.token_mask[frames],
            legal=legal,
        )
        text = None if self.language is None else self.language.draw(generator)
        assert data.actions is not None
        read = WindowBatch(
            **{each.name: getattr(own, each.name) for each in fields(TokenBatch)},
            decisions=decisions,
            numbers=data.actions[frames],
            text=text,
        )
        return read.to(self.device)

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]:
        assert isinstance(batch, WindowBatch)
        assert batch.decisions is not None
        assert batch.numbers is not None
        hidden = self.model.read(*context_of(self.model, batch)[:4])[batch.frame_mask]
        decisions = batch.decisions
        if self.config.head == "continuous":
            loss, metrics = continuous_loss(
                self.model.means(hidden), batch.numbers, decisions.token_mask
            )
        else:
            logits = self.model.decisions(hidden, decisions.action_ids).logits
            loss, metrics = sft_loss(logits, decisions)
        loss, metrics = scaled(loss, metrics, scale.policy)
        if batch.text is None:
            return loss, metrics
        language = self.language.loss(self.model, batch.text)
        loss = loss + self.config.text_weight * language
        return loss, metrics | {"loss/total": loss.detach(), "loss/language": language.detach()}
