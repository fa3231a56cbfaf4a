"""The protocol of a training stage, draws of steps, and the bases of value stages."""

from __future__ import annotations

import copy
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qsft_robot.algorithms.log_probs import Metrics
from qsft_robot.algorithms.networks import (
    PolicyNetworks,
    first_token,
    inference,
    under,
    value_of,
)
from qsft_robot.algorithms.targets import lambda_returns
from qsft_robot.parallel.passes import from_all, my_share
from qsft_robot.token_data.batch import TokenBatch
from qsft_robot.token_data.token_data import TokenData


class Scale(NamedTuple):
    """Factors of the means over one part of a batch, with which their mean over all parts
    is the mean over the whole batch. Parts with equally many tokens have 1."""

    value: float = 1.0
    policy: float = 1.0
    # Rows at a part's end that were drawn for the policy term; None where it is a whole batch.
    policy_rows: int | None = None


WHOLE = Scale()


@runtime_checkable
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
        """The state of the stage that an exact resume needs beside the networks."""
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


def own_returns(data: TokenData, final: Float[Tensor, " e"] | None = None) -> Float[Tensor, " N"]:
    """The discounted return of every step's log from there on; `final` follows the end of a log
    that was cut, 0 without it."""
    final = torch.zeros(len(data.names)) if final is None else final
    table = lambda_returns(
        data.reward_terms,
        data.steps,
        data.terminated,
        data.padded(torch.zeros(len(data), 1), final),
        discount=data.discount,
        lam=1.0,
        horizon=data.tokenizer.horizon,
    )
    return table[data.episode_of_step, data.time_of_step, 0]


class UniformStage:
    """A base of stages that draw uniformly from the steps of all logs, with nothing to do between
    updates and nothing to keep for a resume."""

    data: TokenData
    device: str

    def draw(self, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
        return uniform_steps(torch.arange(len(self.data)), batch_size, generator)

    def part(
        self, drawn: Int[Tensor, " B"], index: int, count: int
    ) -> tuple[Int[Tensor, " b"], Scale]:
        """Every `count`-th step of the draw."""
        steps, share = every_nth(self.data, drawn, index, count)
        return steps, Scale(share, share)

    def read(self, steps: Int[Tensor, " b"], generator: torch.Generator) -> TokenBatch:
        return self.data.batch(steps).to(self.device)

    def before_update(self, update: int) -> None: ...

    def after_update(self) -> None: ...

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None: ...


class ValueStage(UniformStage):
    """A base of value stages: batches of theta, and V(s) of observation rows by inference."""

    def __init__(self, networks: PolicyNetworks, data: TokenData, device: str) -> None:
        assert networks.value is not None
        self.networks, self.model, self.data, self.device = networks, networks.value, data, device

    def values_at(self, rows: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
        """V(s) before the first token at observation rows, by inference; on the CPU."""
        values = torch.zeros(len(rows))
        with inference(self.networks):
            for part in my_share(len(rows), self.model):
                context = self.data.context(rows[part]).to(self.device)
                hidden = first_token(self.model, context).hidden
                values[part] = value_of(self.networks, hidden)[:, 0].float().cpu()
        return from_all(values, self.model)


class HeadStage(ValueStage):
    """A base of methods with heads of their own on theta: a slow copy of the heads for targets, and
    the value of the state after each decision, read anew every `refresh_every` updates."""

    refresh_every = 200

    def __init__(
        self, networks: PolicyNetworks, data: TokenData, device: str, ema_rate: float
    ) -> None:
        super().__init__(networks, data, device)
        self.heads, self.ema_rate = networks.head, ema_rate
        self.slow_heads = copy.deepcopy(networks.head)
        self.next_values = torch.zeros(len(data))

    def trained(self) -> list[nn.Module]:
        return [self.model, self.heads]

    def step_targets(self, steps: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """r + gamma^h times the value of the state after whole decisions, from the last refresh."""
        rewards, lengths = self.data.chunk_rewards(steps)
        return rewards + self.data.discount**lengths * self.next_values[steps]

    def before_update(self, update: int) -> None:
        if update % self.refresh_every == 0 and update > 0:
            self.refresh()

    def after_update(self) -> None:
        follow(self.slow_heads, self.heads, self.ema_rate)

    def refresh(self) -> None:
        """Read the value of the state after each decision, 0 after a terminal one."""
        next_rows, ended = self.data.next_rows(torch.arange(len(self.data)))
        values = self.values_at(torch.arange(self.data.rows))
        self.next_values = torch.where(ended, 0.0, values[next_rows])

    def tensors(self) -> dict[str, Tensor]:
        slow = {f"slow.{name}": x for name, x in self.slow_heads.state_dict().items()}
        return {"next_values": self.next_values, **slow}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.next_values = tensors["next_values"]
        self.slow_heads.load_state_dict(under(tensors, "slow."))


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move every parameter of the slow copy by `rate` towards the fast one's."""
    for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
        a.lerp_(b, rate)
