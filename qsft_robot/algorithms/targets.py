"""Lambda-returns along logs: the targets of every method that learns a value."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def lambda_returns(
    rewards: Float[Tensor, "e t"],
    steps: Int[Tensor, " e"],
    terminated: Bool[Tensor, " e"],
    backups: Float[Tensor, "e t1 n"],
    *,
    discount: float,
    lam: float,
    horizon: int = 1,
    token_level: bool = False,
    real_tokens: Int[Tensor, "e t"] | None = None,
) -> Float[Tensor, "e t n"]:
    """The table of targets: w_t = r_t + discount [(1 - lam) backup(s_{t+1}) + lam w_{t+1}].

    `rewards` [e, t] are the affine terms of `ReturnRange` (padding after `steps[e]` is not read).
    `backups[e, t, i]` is the backup at token i of step t; row `steps[e]` is the state after the
    last action. At the end of a log a terminated one adds nothing and a truncated one bootstraps
    from its last state. With chunks of `horizon` actions the reward is the discounted sum over
    the chunk and the next state is horizon steps on. Without `token_level` every token of a step
    has the step's own target; with it each inner token's target is formed from the next token's
    backup in the same way (no reward, no discount), the paper's token-level recursion.
    `real_tokens`: how many tokens of each decision carry something; all n without it.
    """
    count, longest = rewards.shape
    n = backups.shape[-1]
    index = torch.arange(longest, device=rewards.device)
    rewards = rewards.masked_fill(index >= steps[:, None], 0.0)
    rows = torch.arange(count, device=rewards.device)
    table = rewards.new_zeros(count, longest + horizon, n)
    for t in range(longest - 1, -1, -1):
        length = torch.clamp(steps - t, max=horizon)  # actions that this chunk really has
        chunk = rewards.new_zeros(count)
        for j in range(min(horizon, longest - t)):
            chunk = chunk + discount**j * rewards[:, t + j]
        at_end = t + horizon >= steps
        state = torch.where(at_end, steps, t + horizon)
        bootstrap = backups[rows, state, 0]
        onward = (1 - lam) * bootstrap + lam * table[:, t + horizon, 0]
        onward = torch.where(at_end, torch.where(terminated, 0.0, bootstrap), onward)
        real = steps.new_full(steps.shape, n) if real_tokens is None else real_tokens[:, t]
        last = chunk + discount ** length.clamp(min=0) * onward
        table[:, t, n - 1] = last
        for i in range(n - 2, -1, -1):
            following = table[:, t, i + 1]
            if token_level:
                inner = (1 - lam) * backups[:, t, i + 1] + lam * following
                # The reward lands on the last token that is no padding.
                following = torch.where(i + 1 < real, inner, following)
            table[:, t, i] = following
    table = table[:, :longest]
    return table.masked_fill((index >= steps[:, None])[..., None], 0.0)
