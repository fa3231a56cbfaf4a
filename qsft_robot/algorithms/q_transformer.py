"""Q-Transformer: Q of every token of a decision, those not taken held down to 0.

Chebotar et al., "Q-Transformer: Scalable Offline Reinforcement Learning via Autoregressive
Q-Functions", arXiv 2309.10150: a Bellman backup per action dimension, Monte-Carlo returns as a
lower bound of the targets, and a regularizer that pulls tokens which are not in the data to 0, the
smallest return.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from qsft_robot.algorithms.log_probs import masked_mean
from qsft_robot.algorithms.token_q import TokenQStage
from qsft_robot.token_data.batch import TokenBatch


def zero_regularizer(q: Float[Tensor, "b n v"], batch: TokenBatch) -> Float[Tensor, ""]:
    """The mean square of Q over the legal tokens that were not taken."""
    others = batch.legal & ~torch.nn.functional.one_hot(batch.action_ids, q.shape[-1]).bool()
    squares = q.square().masked_fill(~others, 0.0).sum(-1)
    return masked_mean(squares / others.sum(-1).clamp(min=1), batch.token_mask)


class QTransformerStage(TokenQStage):
    """Autoregressive Q-learning with Q of the tokens not taken pulled to 0."""

    def held_down(self, q: Float[Tensor, "b n v"], batch: TokenBatch) -> Float[Tensor, ""]:
        return zero_regularizer(q, batch)
