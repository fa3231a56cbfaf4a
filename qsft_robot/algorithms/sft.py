"""Supervised fine-tuning: on all logs, the best of them, or conditioned on the return."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qsft_robot.algorithms.log_probs import Metrics, chosen, legal_log_softmax, masked_mean
from qsft_robot.algorithms.networks import PolicyNetworks, frame_features, teacher_forced, under
from qsft_robot.algorithms.stage import (
    WHOLE,
    Scale,
    UniformStage,
    own_returns,
    scaled,
    uniform_steps,
)
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData
from vlm.heads import AuxiliaryHead
from vlm.rt.images import random_shift


def sft_loss(
    logits: Float[Tensor, "b n v"], batch: TokenBatch, weight: Float[Tensor, " b"] | None = None
) -> tuple[Float[Tensor, ""], Metrics]:
    """Supervised fine-tuning: -E_D log pi(a|s), each decision times its `weight`. On all logs it
    gives pi_phi; on successful logs it is filtered SFT; with `returns` in the batch it is
    return-conditioned SFT."""
    nll = -chosen(legal_log_softmax(logits, batch.legal), batch.action_ids)
    if weight is None:
        loss = masked_mean(nll, batch.token_mask)
        return loss, {"loss/total": loss.detach(), "loss/ce": loss.detach()}
    of_tokens = weight[:, None].expand_as(nll)
    loss, mean = (masked_mean(x, batch.token_mask) for x in (of_tokens * nll, of_tokens))
    return loss, {"loss/total": loss.detach(), "loss/ce": loss.detach(), "q/weight_mean": mean}


# Logs of a supervised stage -> bool [e]. A log that was cut before its outcome is no known failure.
LOGS: dict[str, Callable[[TokenData], Tensor]] = {
    "all": lambda data: torch.ones_like(data.success),
    "successful": lambda data: data.success,
    "not_failed": lambda data: data.success | ~data.terminated,
}


def of_high_returns(data: TokenData, share: float) -> Bool[Tensor, " e"]:
    """The share of all logs whose discounted returns are the highest, one log at least; of equal
    ones the first. A log that was cut has what it earned until then."""
    first = data.time_of_step == 0
    returns = torch.zeros(len(data.names))
    returns[data.episode_of_step[first]] = own_returns(data)[first]
    keep = torch.zeros(len(data.names), dtype=torch.bool)
    keep[returns.argsort(descending=True, stable=True)[: math.ceil(share * len(keep))]] = True
    return keep


class BehaviorStage(UniformStage):
    """Supervised fine-tuning on the steps of all logs, of the logs that `LOGS` picks, or of the
    `share` of them that has the highest returns."""

    def __init__(
        self,
        networks: PolicyNetworks,
        data: TokenData,
        device: str,
        *,
        logs: str = "all",
        share: float | None = None,
        with_returns: bool = False,
        random_shift: int = 0,
        auxiliary_weight: float = 0.0,
    ) -> None:
        assert networks.behavior is not None
        self.model, self.data, self.device = networks.behavior, data, device
        self.with_returns, self.pad = with_returns, random_shift
        keep = LOGS[logs](data) if share is None else of_high_returns(data, share)
        self.pool = keep[data.episode_of_step].nonzero().squeeze(1)
        if len(self.pool) == 0:
            raise ValueError(
                f"none of the {len(data.names)} logs is {logs.replace('_', ' ')}, so there is "
                "nothing to train on. Use --method sft or qsft, or logs with some successes."
            )
        self.auxiliary_weight = auxiliary_weight
        self.auxiliary: AuxiliaryHead | None = None
        shape, outputs = networks.behavior.config, data.auxiliary.shape[-1]
        if auxiliary_weight > 0 and outputs and data.features is None:
            self.auxiliary = AuxiliaryHead(
                shape.frame_image_tokens, shape.width, shape.state_dim, outputs
            ).to(device)

    def trained(self) -> list[nn.Module]:
        return [self.model] if self.auxiliary is None else [self.model, self.auxiliary]

    def draw(self, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
        return uniform_steps(self.pool, batch_size, generator)

    def read(self, steps: Int[Tensor, " b"], generator: torch.Generator) -> TokenBatch:
        batch = self.data.batch(steps, self.with_returns).to(self.device)
        return shifted(batch, self.pad, generator)

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]:
        if self.auxiliary is None:
            loss, metrics = sft_loss(teacher_forced(self.model, batch).logits, batch)
            return scaled(loss, metrics, scale.policy)
        features = frame_features(self.model, batch)
        assert features is not None
        batch = replace(batch, features=features)
        loss, metrics = sft_loss(teacher_forced(self.model, batch).logits, batch)
        loss, metrics = scaled(loss, metrics, scale.policy)
        told = self.auxiliary(features[:, -1], batch.state[:, -1]).float()
        known = self.data.auxiliary[self.data.row_of_step[steps]].to(self.device)
        error = (told - known).square().mean()
        loss = loss + self.auxiliary_weight * error
        return loss, metrics | {"loss/total": loss.detach(), "loss/auxiliary": error.detach()}

    def tensors(self) -> dict[str, Tensor]:
        if self.auxiliary is None:
            return {}
        return {f"auxiliary.{name}": x for name, x in self.auxiliary.state_dict().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(under(tensors, "auxiliary."))


def shifted(batch: TokenBatch, pad: int, generator: torch.Generator) -> TokenBatch:
    """The batch with each image moved by up to `pad` pixels; a window of frames moves as one."""
    if pad == 0 or not batch.images:
        return batch
    images = {}
    for camera, x in batch.images.items():
        state, frames = generator.get_state(), []
        for frame in x.unbind(1):
            generator.set_state(state)  # the same shifts for every frame
            frames.append(random_shift(frame, pad, generator))
        images[camera] = torch.stack(frames, 1)
    return replace(batch, images=images)
