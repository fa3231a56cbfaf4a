"""CQL over action tokens: Q-learning whose Q of tokens not taken is held below that of those taken.

Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning", arXiv 2006.04779, the
form for discrete actions: log sum exp Q - Q(taken) beside the Bellman error, token by token.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from qsft_robot.algorithms.log_probs import chosen, masked_mean
from qsft_robot.algorithms.token_q import TokenQStage
from qsft_robot.token_data.batch import TokenBatch


def conservative_gap(q: Float[Tensor, "b n v"], batch: TokenBatch) -> Float[Tensor, ""]:
    """The mean of log sum exp Q over the legal tokens minus Q of the token taken."""
    soft = torch.logsumexp(q.masked_fill(~batch.legal, -torch.inf), -1)
    return masked_mean(soft - chosen(q, batch.action_ids), batch.token_mask)


class CQLStage(TokenQStage):
    """Q-learning with the conservative term of CQL."""

    def held_down(self, q: Float[Tensor, "b n v"], batch: TokenBatch) -> Float[Tensor, ""]:
        return conservative_gap(q, batch)
