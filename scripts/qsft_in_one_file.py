"""Q-SFT in one file: behavior, value stage and acting on a toy that imitation does not solve.

A corridor of nine cells with the goal at its right end. Logs walk at random, 60 % of the steps to
the left, for at most 30 steps; reward 1 on reaching the goal, which ends a log. Imitation of all
logs drifts to the left. Q-SFT learns V(s) and an improved policy from the same logs by supervised
fine-tuning alone.

An action is one token (0: left, 1: right). The losses, the targets and the acting rule are those of
qsft_robot.algorithms; everything else that a run needs is below. A minute on one core:

    python scripts/qsft_in_one_file.py
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qsft_robot.algorithms.acting import Distributions, acting_log_probs
from qsft_robot.algorithms.log_probs import legal_log_softmax
from qsft_robot.algorithms.qsft import qsft_loss
from qsft_robot.algorithms.sft import sft_loss
from qsft_robot.algorithms.targets import lambda_returns
from qsft_robot.config.acting import ActingConfig
from qsft_robot.token_data.batch import TokenBatch

CELLS, LONGEST, DISCOUNT = 9, 30, 0.95


class Logs(NamedTuple):
    """e logs of at most LONGEST steps; row i of `cells` is seen before action i."""

    cells: Tensor  # int64 [e, LONGEST + 1]
    actions: Tensor  # int64 [e, LONGEST]
    rewards: Tensor  # float32 [e, LONGEST]
    steps: Tensor  # int64 [e]
    terminated: Tensor  # bool [e]: at the goal


def walk(go_right: Tensor, count: int, generator: torch.Generator) -> Logs:
    """Play a policy, the probability of "right" in each cell [CELLS], from random cells."""
    cells = torch.zeros(count, LONGEST + 1, dtype=torch.long)
    cells[:, 0] = torch.randint(CELLS - 1, (count,), generator=generator)
    actions = torch.zeros(count, LONGEST, dtype=torch.long)
    for t in range(LONGEST):
        right = torch.rand(count, generator=generator) < go_right[cells[:, t]]
        actions[:, t] = right.long()
        moved = (cells[:, t] + 2 * right - 1).clamp(0, CELLS - 1)
        cells[:, t + 1] = torch.where(cells[:, t] == CELLS - 1, cells[:, t], moved)
    reached = cells[:, 1:] == CELLS - 1
    first = torch.where(reached.any(1), reached.long().argmax(1), LONGEST - 1)
    rewards = torch.zeros(count, LONGEST)
    rewards[torch.arange(count), first] = reached.any(1).float()
    return Logs(cells, actions, rewards, first + 1, reached.any(1))


class Network(nn.Module):
    """Logits of the two actions, and a hidden state for the value."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Embedding(CELLS, width), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, 2)

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """(hidden [b, 1, width], logits [b, 1, 2]): one token a decision."""
        hidden = self.body(cells)[:, None]
        return hidden, self.head(hidden)


def batch_of(cells: Tensor, actions: Tensor) -> TokenBatch:
    """The batch that the losses read; contexts are in `cells`."""
    b = len(cells)
    return TokenBatch(
        state=torch.zeros(b, 1, 0),
        frame_mask=torch.ones(b, 1).bool(),
        text_ids=torch.zeros(b, 0).long(),
        action_ids=actions[:, None],
        token_mask=torch.ones(b, 1).bool(),
        legal=torch.ones(b, 1, 2).bool(),
    )


class Networks(NamedTuple):
    """phi, theta and V's head on theta's hidden states."""

    phi: Network
    theta: Network
    value_head: nn.Module


def train(logs: Logs, updates: int, generator: torch.Generator) -> Networks:
    """Behavior phi, then theta and its value head."""
    real = torch.arange(LONGEST) < logs.steps[:, None]
    cells, actions = logs.cells[:, :-1][real], logs.actions[real]  # [N]

    def draw(weight: Tensor) -> Tensor:
        return torch.multinomial(weight, 256, replacement=True, generator=generator)

    # 1. Behavior: supervised fine-tuning on all logs.
    phi = Network()
    optimizer = torch.optim.AdamW(phi.parameters(), lr=3e-3)
    for _ in range(updates):
        steps = draw(torch.ones(len(cells)))
        loss, _ = sft_loss(phi(cells[steps])[1], batch_of(cells[steps], actions[steps]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    # 2. Value: theta starts as phi. Targets w are the logs' returns; a log that was cut would be
    #    bootstrapped with V of its last cell, which is 0 here at the start.
    theta, value_head = copy.deepcopy(phi), nn.Linear(32, 1)
    nn.init.zeros_(value_head.weight)
    optimizer = torch.optim.AdamW([*theta.parameters(), *value_head.parameters()], lr=3e-3)
    for update in range(updates):
        if update % 100 == 0:
            with torch.no_grad():
                values = torch.sigmoid(value_head(theta(logs.cells.flatten())[0])).reshape(
                    len(logs.cells), LONGEST + 1, 1
                )
            after = torch.zeros_like(values) if update == 0 else values
            table = lambda_returns(
                logs.rewards, logs.steps, logs.terminated, after, discount=DISCOUNT, lam=1.0
            )
            target = table[real]  # [N, 1]
        # Half of a batch uniform, for V; half in proportion to w, for the policy.
        uniform, good = draw(torch.ones(len(cells))), draw(target[:, 0] + 1e-9)
        steps = torch.cat([uniform, good])
        carries_value = (torch.arange(len(steps)) < len(uniform)).float()[:, None]
        hidden, logits = theta(cells[steps])
        loss, _ = qsft_loss(
            logits,
            value_head(hidden)[..., 0],
            batch_of(cells[steps], actions[steps]),
            target[steps],
            value_weight=carries_value,
            policy_weight=1 - carries_value,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Networks(phi, theta, value_head)


@torch.no_grad()
def policy_of(networks: Networks, k: float) -> tuple[Tensor, Tensor]:
    """Probability of "right" and V in each cell: pi_phi (p~ / pi_phi)^k, no cut."""
    phi, theta, value_head = networks
    cells = torch.arange(CELLS)
    legal = torch.ones(CELLS, 2).bool()
    hidden, logits = theta(cells)
    value = torch.sigmoid(value_head(hidden))[:, 0, 0]
    log_phi = legal_log_softmax(phi(cells)[1][:, 0], legal)
    said = Distributions(log_phi, legal_log_softmax(logits[:, 0], legal), value)
    acting = ActingConfig(rule="power", k=k, min_p=0.0, support=0.0)
    return acting_log_probs(acting, legal, said).exp()[:, 1], value


def main(updates: int = 1500) -> dict[str, float]:
    """Train on 500 logs, print V and the policies, and return their success rates."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    logs = walk(torch.full((CELLS,), 0.4), 500, generator)
    networks = train(logs, updates, generator)
    rates = {"logs": float(logs.terminated.float().mean())}
    for name, k in (("imitation (k = 0)", 0.0), ("Q-SFT, k = 1", 1.0), ("Q-SFT, k = 8", 8.0)):
        go_right, value = policy_of(networks, k)
        rates[name] = float(walk(go_right, 2000, generator).terminated.float().mean())
        print(f"{name:<18} right " + " ".join(f"{p:.2f}" for p in go_right[:-1].tolist()))
    print(f"{'V':<18}       " + " ".join(f"{v:.2f}" for v in value[:-1].tolist()))
    for name, rate in rates.items():
        print(f"{name:<18} success {rate:.3f}")
    return rates


if __name__ == "__main__":
    main()
