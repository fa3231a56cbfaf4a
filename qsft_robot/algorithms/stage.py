"""What a stage of training is, the supervised one, and what value stages share."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qsft_robot.algorithms.networks import (
    PolicyNetworks,
    first_token,
    frame_features,
    inference,
    teacher_forced,
)
from qsft_robot.algorithms.qsft import Metrics, TokenBatch, sft_loss
from qsft_robot.parallel.distributed import processes
from qsft_robot.parallel.sharding import has_shards
from qsft_robot.token_data.token_data import TokenData
from vlm.heads import AuxiliaryHead
from vlm.rt.images import random_shift

if TYPE_CHECKING:
    from qsft_robot.build import Model

# An inference pass reads at most so many rows, and fewer where a model would hold more numbers than
# this for them (1 GiB in float32).
INFERENCE_BATCH, INFERENCE_NUMBERS = 1024, 2**28


class Scale(NamedTuple):
    """What the means over one part of a batch are multiplied by, so that their mean over all parts
    is the mean over the whole batch. Parts with equally many tokens have 1."""

    value: float = 1.0
    policy: float = 1.0
    # Rows at a part's end that were drawn for the policy term; None where it is a whole batch.
    policy_rows: int | None = None


WHOLE = Scale()


class Stage(Protocol):
    """One stage: the modules it trains, the steps it draws and the loss on them."""

    data: TokenData

    def trained(self) -> list[nn.Module]: ...

    def draw(self, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]: ...

    def read(self, steps: Int[Tensor, " b"], generator: torch.Generator) -> TokenBatch: ...

    def part(
        self, drawn: Int[Tensor, " B"], index: int, count: int
    ) -> tuple[Int[Tensor, " b"], Scale]:
        """One of `count` equal parts of a draw: what a process reads, or one step of accumulation.
        Gradients of the parts have the gradient of the whole as their mean."""
        ...

    def loss(
        self, batch: TokenBatch, steps: Int[Tensor, " b"], scale: Scale = WHOLE
    ) -> tuple[Tensor, Metrics]: ...

    def before_update(self, update: int) -> None: ...

    def after_update(self) -> None: ...

    def tensors(self) -> dict[str, Tensor]:
        """What an exact resume needs beside the networks."""
        ...

    def load_tensors(self, tensors: dict[str, Tensor]) -> None: ...


def uniform_steps(pool: Int[Tensor, " p"], count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` steps of the pool uniformly, with replacement."""
    return pool[torch.randint(len(pool), (count,), generator=generator)]


def proportional_steps(
    cumulative: Float[Tensor, " N"], count: int, generator: torch.Generator
) -> Int[Tensor, " b"]:
    """Draw `count` steps with probability in proportion to the increments of `cumulative`."""
    u = torch.rand(count, generator=generator, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, u, right=True).clamp(max=len(cumulative) - 1)


def every_nth(
    data: TokenData, drawn: Int[Tensor, " B"], index: int, count: int
) -> tuple[Int[Tensor, " b"], float]:
    """Every `count`-th of the drawn steps, and their share of its tokens in units of 1 / count."""
    if count == 1:
        return drawn, 1.0
    tokens = data.token_mask[drawn].sum(1)
    mine = slice(index, None, count)
    return drawn[mine], count * int(tokens[mine].sum()) / int(tokens.sum())


def scaled(loss: Tensor, metrics: Metrics, scale: float) -> tuple[Tensor, Metrics]:
    """A loss and its metrics, all of them means, times a number."""
    if scale == 1.0:
        return loss, metrics
    return loss * scale, {name: x * scale for name, x in metrics.items()}


class BehaviorStage:
    """Supervised fine-tuning on a pool of steps: all of them, or the successful logs' only."""

    def __init__(
        self,
        networks: PolicyNetworks,
        data: TokenData,
        device: str,
        *,
        filtered: bool = False,
        with_returns: bool = False,
        random_shift: int = 0,
        auxiliary_weight: float = 0.0,
    ) -> None:
        assert networks.behavior is not None
        self.model, self.data, self.device = networks.behavior, data, device
        self.with_returns, self.pad = with_returns, random_shift
        keep = data.success[data.episode_of_step] if filtered else torch.ones(len(data)).bool()
        self.pool = keep.nonzero().squeeze(1)
        if len(self.pool) == 0:
            raise ValueError(
                f"filtered SFT has nothing to train on: none of the {len(data.names)} logs is a "
                "success. Use --method sft or qsft, or logs with some successes."
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

    def part(
        self, drawn: Int[Tensor, " B"], index: int, count: int
    ) -> tuple[Int[Tensor, " b"], Scale]:
        steps, share = every_nth(self.data, drawn, index, count)
        return steps, Scale(share, share)

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

    def before_update(self, update: int) -> None: ...

    def after_update(self) -> None: ...

    def tensors(self) -> dict[str, Tensor]:
        if self.auxiliary is None:
            return {}
        return {f"auxiliary.{name}": x for name, x in self.auxiliary.state_dict().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(
                {name.removeprefix("auxiliary."): x for name, x in tensors.items()}
            )


class ValueStage:
    """What Q-SFT's value stage and the value-head rival share: the table of bootstraps."""

    def __init__(self, networks: PolicyNetworks, data: TokenData, device: str) -> None:
        assert networks.value is not None
        self.networks, self.model, self.data, self.device = networks, networks.value, data, device

    def part(
        self, drawn: Int[Tensor, " B"], index: int, count: int
    ) -> tuple[Int[Tensor, " b"], Scale]:
        """Every `count`-th step of the draw."""
        steps, share = every_nth(self.data, drawn, index, count)
        return steps, Scale(share, share)

    def read(self, steps: Int[Tensor, " b"], generator: torch.Generator) -> TokenBatch:
        return self.data.batch(steps).to(self.device)

    def values_at(self, rows: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
        """V(s) before the first token at observation rows, by inference; on the CPU."""
        values = torch.zeros(len(rows))
        with inference(self.networks):
            for part in my_share(len(rows), self.model):
                context = self.data.context(rows[part]).to(self.device)
                hidden = first_token(self.model, context).hidden
                values[part] = self.state_value(hidden)[:, 0].float().cpu()
        return from_all(values, self.model)

    def state_value(self, hidden: Float[Tensor, "b n c"]) -> Float[Tensor, "b n"]:
        """V(s) of hidden states."""
        raise NotImplementedError


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


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move every parameter of the slow copy by `rate` towards the fast one's."""
    for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
        a.lerp_(b, rate)


def on_features(data: TokenData, features: Tensor) -> TokenData:
    """The same data reading image features instead of images."""
    twin = copy.copy(data)
    twin.features = features
    return twin


def image_features(networks: PolicyNetworks, data: TokenData, device: str) -> Tensor:
    """Image tokens of phi for every row of the data, float16 [R, m, c], on the CPU."""
    model = networks.behavior
    assert model is not None
    tokens, width = model.config.frame_image_tokens, model.config.width
    features = torch.zeros(data.rows, tokens, width, dtype=torch.float16)
    with inference(networks):
        for rows in my_share(data.rows, model):
            context = data.context(rows).to(device)
            assert context.images is not None
            newest = {camera: x[:, -1] for camera, x in context.images.items()}
            features[rows] = model.encode_images(newest, context.text_ids).half().cpu()
    return from_all(features, model)


def rows_per_pass(model: Model) -> int:
    """Rows that one inference pass of a model reads: every layer keeps keys and values of every
    token, and its perceptron is four times as wide."""
    config = model.config
    tokens = config.history * config.frame_image_tokens + config.text_length
    numbers = tokens * config.width * (2 * config.depth + 8)
    return max(1, min(INFERENCE_BATCH, INFERENCE_NUMBERS // numbers))


def my_share(count: int, model: Model) -> list[Tensor]:
    """Numbers 0 ... count - 1 in passes of the model: those that this process makes. All of them
    where the model is spread over the processes, which then compute together."""
    passes, workers = list(torch.arange(count).split(rows_per_pass(model))), processes()
    return passes if has_shards(model) else passes[workers.rank :: workers.count]


def from_all(table: Tensor, model: Model) -> Tensor:
    """The table, on the CPU, of which each process has filled its share, the rest being 0."""
    workers = processes()
    if workers.count == 1 or has_shards(model):
        return table
    return workers.sum_(table.to(next(model.parameters()).device)).cpu()
